"""One value of a row made into text; what is altered on the way is named, so it can be counted."""

import datetime
import decimal
import re

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(value: object) -> tuple[str | None, tuple[str, ...]]:
    """Return the text of a value and the kinds of change; None where it has no plain text."""
    if isinstance(value, str):
        if not value.isascii() and LONE_SURROGATE.search(value):
            return LONE_SURROGATE.sub("\ufffd", value), ("lone_surrogate",)
        return value, ()
    if isinstance(value, bool):
        return ("true" if value else "false"), ("boolean_as_text",)
    if isinstance(value, (int, float, decimal.Decimal)):
        return str(value), ("number_as_text",)
    if isinstance(value, (datetime.date, datetime.time, datetime.datetime)):
        return value.isoformat(), ("date_as_text",)
    return None, ()

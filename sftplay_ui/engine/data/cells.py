"""One value of a row made into text; what is altered on the way is named, so it can be counted."""

import datetime
import decimal
import re

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


KIND_NAMES = {
    "dict": "an object",
    "list": "a list",
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
    "bytes": "binary data",
}


def kind_of(value: object) -> str:
    """Name the kind of a value in words."""
    name = type(value).__name__
    return KIND_NAMES.get(name, f"a {name}")


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

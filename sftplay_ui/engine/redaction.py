"""Secrets kept out of what is written down: the log and the record of a run.

Errors of other libraries may quote an address or a header with a token in it.
"""

import re

SECRET = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16})"
    r"|(?<=Bearer )\S+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def redacted(text: str) -> str:
    """Replace tokens, keys and the passwords in addresses by `[secret]`."""
    return SECRET.sub("[secret]", text)

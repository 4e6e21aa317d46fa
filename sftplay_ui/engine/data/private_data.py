"""Secrets and personal data in a text: found by form, shown and written only masked."""

import re

SECRET_BEGINNINGS = (
    "sk-", "hf_", "AKIA", "ASIA", "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "xox",
    "AIza", "eyJ", "-----BEGIN", "://",
)  # fmt: skip
SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[opsu]_[A-Za-z0-9]{30,}"
    r"|\bgithub_pat_\w{30,}"
    r"|\bglpat-[\w-]{20,}"
    r"|\bxox[abeoprs]-[\w-]{10,}"
    r"|\bAIza[\w-]{35}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,8000}?(?:-----END [A-Z ]{0,30}-----|\Z)"
    r"|(?<=://)[^\s/:@]{1,80}:[^\s/@]{1,80}(?=@)"
)
ASSIGNED = re.compile(
    r"(?i)(?<=\b)(?P<name>passw(?:or)?d|api[_-]?key|secret[_-]?key|access[_-]?token)"
    r"(?P<sign>\s{0,3}[=:]\s{0,3}['\"]?)(?=[^\s'\"]{0,60}\d)(?=[^\s'\"]{0,60}[A-Za-z])[^\s'\"()]{8,80}"
)
ASSIGNED_WORDS = ("passw", "key", "token", "Passw", "PASSW", "KEY", "TOKEN", "Key", "Token")
MAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}\b")
NUMBER = re.compile(r"(?<![\w.])\+?\(?\d[\d ()./-]{7,24}\d(?![\w])")
PHONE = re.compile(
    r"\+\d{1,3}[ ()./-]{0,2}\d[\d ()./-]{5,}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|0\d{2,4}[ /-]\d{5,}"
)


def mask_secrets(text: str) -> str:
    """Replace keys, tokens and passwords by `[secret]`; return the same object where none is."""
    if any(map(text.__contains__, SECRET_BEGINNINGS)):
        text = SECRET.sub("[secret]", text)
    if any(map(text.__contains__, ASSIGNED_WORDS)):
        text = ASSIGNED.sub(r"\g<name>\g<sign>[secret]", text)
    return text


def mask_personal(text: str) -> str:
    """Replace e-mail addresses, phone and card numbers by words in brackets."""
    if "@" in text:
        text = MAIL.sub("[e-mail]", text)
    return NUMBER.sub(_mask_number, text)


def _mask_number(found: re.Match[str]) -> str:
    number = found[0]
    digits = re.sub(r"\D", "", number)
    if 13 <= len(digits) <= 19 and "(" not in number and _passes_luhn(digits):
        return "[card number]"
    if 8 <= len(digits) <= 15 and PHONE.fullmatch(number.strip()):
        return "[phone number]"
    return number


def _passes_luhn(digits: str) -> bool:
    """Check the last digit as card issuers compute it (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1

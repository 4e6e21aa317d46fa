"""Secrets and personal data in a text: found by form, shown and written only masked."""

import re

# asked before any pattern: these are in hardly any text, and a million texts are looked at
BEGINNINGS = ("://", "eyJ", "AKIA", "ASIA", "AIza")
BEGINNINGS_WITH_SIGN = (
    "sk-", "hf_", "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "xox", "-----BEGIN",
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
    # up to the next line of dashes, so that a text of nothing but beginnings takes no hours
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[^-]|-(?!----)){0,8000}"
    r"(?:-----END [A-Z ]{0,30}-----|\Z)"
    r"|(?<=://)[^\s/:@]{1,80}:[^\s/@]{1,80}(?=@)"
)
ASSIGNED = re.compile(
    r"(?i)(?<![A-Za-z])(?P<name>passw(?:or)?d|api[_-]?key|secret[_-]?(?:access[_-]?)?key"
    r"|access[_-]?(?:token|key)|auth[_-]?token|client[_-]?secret)"
    r"(?P<sign>\s{0,3}[=:]\s{0,3}['\"]?)(?=[^\s'\"]{0,60}\d)(?=[^\s'\"]{0,60}[A-Za-z])[^\s'\"()]{8,80}"
)
ASSIGNED_WORDS = ("passw", "key", "token", "secret")
# addresses that are kept free for examples (RFC 2606)
NOBODY = r"(?![\w.-]*\bexample\.(?:com|org|net)\b)(?![\w.-]*\.(?:example|invalid|test)\b)"
MAIL = re.compile(rf"[\w.+-]{{1,64}}@{NOBODY}[\w-]{{1,63}}(?:\.[\w-]{{1,63}}){{1,5}}\b")
# cheap, and enough to know that no number is long enough to matter
LONG_NUMBER = re.compile(r"\d[\d ()./-]{6}")
NUMBER = re.compile(r"(?<![\w.])\+?\(?\d[\d ()./-]{7,24}\d(?![\w])")
PHONE = re.compile(
    r"\+\d{1,3}[ ()./-]{0,2}\d[\d ()./-]{5,}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|0\d{2,4}[ /-]\d{5,}"
)


def mask_secrets(text: str) -> str:
    """Replace keys, tokens and passwords by `[secret]`; return the same object where none is."""
    if _may_hold_secret(text):
        text = SECRET.sub("[secret]", text)
    if "=" in text or ":" in text:
        plain = text.casefold()
        if any(word in plain for word in ASSIGNED_WORDS):
            text = ASSIGNED.sub(r"\g<name>\g<sign>[secret]", text)
    return text


def mask_personal(text: str) -> str:
    """Replace e-mail addresses, phone and card numbers by words in brackets."""
    if "@" in text:
        text = MAIL.sub("[e-mail]", text)
    return NUMBER.sub(_mask_number, text) if LONG_NUMBER.search(text) else text


def _may_hold_secret(text: str) -> bool:
    if any(map(text.__contains__, BEGINNINGS)):
        return True
    return ("_" in text or "-" in text) and any(map(text.__contains__, BEGINNINGS_WITH_SIGN))


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

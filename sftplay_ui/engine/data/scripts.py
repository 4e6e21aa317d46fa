"""Which script a text is written in: a stand-in for its language, fast and without a model."""

import bisect
from collections import Counter

# (first code point, script); everything up to the next entry belongs to it
RANGES = (
    (0x0000, ""), (0x0041, "Latin"), (0x005B, ""), (0x0061, "Latin"), (0x007B, ""),
    (0x00C0, "Latin"), (0x0250, ""), (0x0370, "Greek"), (0x0400, "Cyrillic"),
    (0x0530, "Armenian"), (0x0590, "Hebrew"), (0x0600, "Arabic"), (0x0780, ""),
    (0x0900, "Devanagari"), (0x0980, "Bengali"), (0x0A00, "Gurmukhi"), (0x0A80, "Gujarati"),
    (0x0B00, "Oriya"), (0x0B80, "Tamil"), (0x0C00, "Telugu"), (0x0C80, "Kannada"),
    (0x0D00, "Malayalam"), (0x0D80, "Sinhala"), (0x0E00, "Thai"), (0x0E80, "Lao"),
    (0x0F00, "Tibetan"), (0x1000, "Myanmar"), (0x10A0, "Georgian"), (0x1100, "Korean"),
    (0x1200, "Ethiopic"), (0x13A0, ""), (0x1780, "Khmer"), (0x1800, ""), (0x1E00, "Latin"),
    (0x1F00, "Greek"), (0x2000, ""), (0x3040, "Japanese"), (0x3100, ""), (0x3130, "Korean"),
    (0x3190, ""), (0x3400, "Chinese"), (0xA000, ""), (0xAC00, "Korean"), (0xD7B0, ""),
    (0xF900, "Chinese"), (0xFB00, ""), (0xFB50, "Arabic"), (0xFE00, ""), (0xFE70, "Arabic"),
    (0xFF00, ""), (0x20000, "Chinese"), (0x32000, ""),
)  # fmt: skip
STARTS = [start for start, _ in RANGES]
NAMES = [name for _, name in RANGES]
LOOKED_AT = 120


def main_script(text: str) -> str:
    """Name the script most letters of a text's beginning belong to; "" where it has no letters."""
    sample = text[:LOOKED_AT]
    if sample.isascii():
        return "Latin" if sample.lower() != sample.upper() else ""
    counts = scripts_of(text)
    return max(counts, key=lambda script: counts[script]) if counts else ""


def scripts_of(text: str) -> Counter[str]:
    """Count the letters of a text's beginning by script."""
    sample = text[:LOOKED_AT]
    if sample.isascii():
        return Counter({"Latin": 1} if any(map(str.isalpha, sample)) else {})
    counts = Counter(NAMES[bisect.bisect_right(STARTS, ord(letter)) - 1] for letter in sample)
    counts.pop("", None)
    # Japanese is written with Chinese characters too; the syllables between them tell
    if counts.get("Japanese"):
        counts["Japanese"] += counts.pop("Chinese", 0)
    return counts

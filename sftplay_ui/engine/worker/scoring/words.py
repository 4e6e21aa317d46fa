"""Split a text into the words that scores count: any script, numbers whole, case folded.

English keeps the words the usual scorers find. Scripts written without spaces count by character,
since a whole sentence would otherwise be one word and every score 0 or 1.
"""

import re
import unicodedata

# Thai, Lao, Myanmar, Khmer, kana, CJK ideographs: no spaces between words
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
NUMBER = r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*"
# combining vowels of Indic scripts are no \w, yet belong to their word
WORD = rf"(?:(?![{UNSPACED}])[^\W_](?:\u200d|[\u0300-\u036f\u0900-\u0dff])*)+"
WORDS = re.compile(rf"{NUMBER}|[{UNSPACED}]|{WORD}")
WORDS_AND_MARKS = re.compile(rf"{NUMBER}|[{UNSPACED}]|{WORD}|[^\w\s]|_")
ARTICLES = frozenset(("a", "an", "the"))


def split_words(text: str) -> list[str]:
    """Give the words of a text, case folded; marks are left out."""
    return WORDS.findall(fold(text))


def split_words_and_marks(text: str) -> list[str]:
    """Give the words and the punctuation marks of a text, case folded."""
    return WORDS_AND_MARKS.findall(fold(text))


def answer_words(text: str) -> list[str]:
    """Give the words that make an answer right: without English articles, as SQuAD scores it.

    An answer of marks alone, or of an article alone, stands as it is: `==` is not `!=`.
    """
    words = [word for word in split_words(text) if word not in ARTICLES]
    return words or fold(text).split()


def fold(text: str) -> str:
    """Make texts that look alike compare alike."""
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")

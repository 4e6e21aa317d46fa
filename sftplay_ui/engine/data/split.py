"""Which example goes to train, val or test: by question, seeded, the same on every machine.

All examples of one group (one question, or questions that are nearly the same) stay together, so
nothing that is learned can also be asked. The order comes from a keyed hash, not from a random
generator, whose numbers may change with a library.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sftplay_ui.engine.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
LEFT_OUT = 255
MAX_QUESTION_BYTES = 1000
END_MARKS = "?!.。？！…؟;: \t\"'»”"
# what may differ between two questions that ask the same; signs such as + and # may not
PUNCTUATION = str.maketrans("", "", ",;:!?.'\"`´()[]{}‘’‚“”„«»…、，。？！：；（）「」『』—–؟،")
ASCII_PUNCTUATION = bytes(code for code in PUNCTUATION if code < 128)
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is wanted of each split: shares of all (1 and below), or numbers of examples."""

    train: float
    val: float
    test: float

    @property
    def are_counts(self) -> bool:
        """Tell numbers of examples from shares."""
        return max(self.train, self.val, self.test) > 1


def plain_question(text: str) -> str:
    """Write a question so that spacing, case and end marks make no difference.

    Signs inside stay: "C" and "C++", or "3+4" and "3-4", are different questions.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split()).strip(END_MARKS)


def bare_question(plain: str) -> bytes:
    """Strip a plain question of punctuation, for comparison with others."""
    if plain.isascii():
        bare = plain.encode().translate(None, ASCII_PUNCTUATION)
    else:
        bare = plain.translate(PUNCTUATION).encode()
    return bare[:MAX_QUESTION_BYTES]


def hash_text(text: str) -> int:
    """Hash a text to 64 bits, the same on every machine."""
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def hash_bytes(data: bytes) -> int:
    """Hash bytes to 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def assign_splits(
    groups: Hashes, sources: npt.NDArray[np.uint16], sizes: Sizes, *, seed: int
) -> npt.NDArray[np.uint8]:
    """Give every example the index of its split in `SPLITS`; `LEFT_OUT` where less is asked for.

    `groups` [n] holds a 64-bit name per example, equal for those that must stay together; `sources`
    [n] the file each comes from, so that every file is spread over the splits in proportion.
    Raises DataError where a split that was asked for would stay empty.
    """
    wanted = _wanted(len(groups), sizes)
    result = np.full(len(groups), LEFT_OUT, np.uint8)
    files = np.unique(sources)
    # a group that spans files is placed once, with the file that holds its first example
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    home = sources[first]
    group_sizes = np.bincount(group_of)
    rank = _ranks(groups[first], seed)
    placed = np.full(len(first), LEFT_OUT, np.uint8)
    for file, targets in zip(files, _per_file(wanted, home, group_sizes, files), strict=True):
        members = np.flatnonzero(home == file)
        order = members[np.argsort(rank[members], kind="stable")]
        _fill(placed, order, group_sizes, targets)
    result = placed[group_of]
    _refuse_empty(result, sizes)
    return result


def _wanted(rows: int, sizes: Sizes) -> list[int]:
    """Turn shares or counts into numbers of examples that add up."""
    asked = (sizes.train, sizes.val, sizes.test)
    if min(asked) < 0 or sum(asked) <= 0:
        raise DataError("The split asks for no examples at all.", "Set data.split.train above 0.")
    if not sizes.are_counts:
        if sum(asked) > 1 + 1e-6:
            raise DataError(
                f"The shares of the split add up to {sum(asked):g}.",
                "Make data.split.train, val and test add up to 1.",
            )
        return _largest_remainder(rows, asked)
    counts = [int(count) for count in asked]
    if any(count != whole for count, whole in zip(asked, counts, strict=True)):
        raise DataError(
            "The split mixes numbers of examples with shares.",
            "Set data.split to three shares below 1, or to three whole numbers.",
        )
    if sum(counts) > rows:
        raise DataError(
            f"The split asks for {sum(counts):,} examples, and there are {rows:,}.",
            "Ask for fewer, or use shares such as 0.8, 0.1 and 0.1.",
        )
    return counts


def _largest_remainder(total: int, shares: Sequence[float]) -> list[int]:
    """Share `total` out so that the parts add up to it (to their own sum where that is below 1)."""
    whole = sum(shares)
    goal = round(total * min(1.0, whole)) if whole < 1 - 1e-6 else total
    exact = [goal * share / whole for share in shares]
    parts = [int(part + 1e-9) for part in exact]
    by_rest = sorted(range(len(parts)), key=lambda n: (parts[n] - exact[n], n))
    for n in by_rest[: goal - sum(parts)]:
        parts[n] += 1
    return parts


def _per_file(
    wanted: Sequence[int],
    home: npt.NDArray[np.uint16],
    group_sizes: npt.NDArray[Any],
    files: npt.NDArray[np.uint16],
) -> list[list[int]]:
    """Spread the wanted numbers over the files by their sizes; columns and rows both add up."""
    rows = [int(group_sizes[home == file].sum()) for file in files]
    total = sum(rows)
    left = list(wanted)
    result: list[list[int]] = []
    for count in rows:
        exact = [count * part / max(1, total) for part in left]
        parts = [min(whole, round(part)) for part, whole in zip(exact, left, strict=True)]
        while sum(parts) > count:
            parts[parts.index(max(parts))] -= 1
        # what rounding lost for a file that is used up whole goes to train
        if sum(left) == total:
            parts[0] += min(count - sum(parts), left[0] - parts[0])
        result.append(parts)
        left = [whole - part for whole, part in zip(left, parts, strict=True)]
        total -= count
    return result


def _ranks(groups: Hashes, seed: int) -> Hashes:
    """Order groups by a hash keyed with the seed."""
    key = seed.to_bytes(8, "little", signed=True)
    raw = groups.astype("<u8").tobytes()
    digests = b"".join(
        hashlib.blake2b(raw[at : at + 8], digest_size=8, key=key).digest()
        for at in range(0, len(raw), 8)
    )
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def _fill(
    placed: npt.NDArray[np.uint8],
    order: npt.NDArray[Any],
    group_sizes: npt.NDArray[Any],
    targets: Sequence[int],
) -> None:
    """Fill test, then val, then train with groups in order; one too big for the rest goes on."""
    left = list(targets)
    spare = int(group_sizes[order].sum()) - sum(left)
    for group in order.tolist():
        size = int(group_sizes[group])
        split = next((split for split in (2, 1, 0) if size <= left[split]), None)
        if split is None and size <= spare:
            spare -= size
            continue
        # too big for what is left anywhere: learning from it leaks nothing
        placed[group] = split = split or 0
        left[split] -= size


def _refuse_empty(result: npt.NDArray[np.uint8], sizes: Sizes) -> None:
    shares = (sizes.train, sizes.val, sizes.test)
    empty = [
        name
        for index, (name, share) in enumerate(zip(SPLITS, shares, strict=True))
        if share > 0 and not np.any(result == index)
    ]
    if empty:
        count = f"{len(result):,} example{'s are' if len(result) != 1 else ' is'}"
        raise DataError(
            f"{count} too few for the split: {' and '.join(empty)} would be empty "
            "(the same question is never in two splits).",
            f"Add examples, or set {' and '.join(f'data.split.{name}=0' for name in empty)} "
            "and data.split.train to the rest.",
        )

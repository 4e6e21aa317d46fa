"""Questions that are nearly the same, found among a million of them in seconds.

MinHash over runs of bytes, computed for many questions at once. Runs that many questions share (a
template such as "What is the capital of ...") count for nothing: what makes two questions the same
is what they say beyond the template. Every pair found by hash is then compared for real.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

RUN_BYTES = 6
BANDS = 6
ROWS_PER_BAND = 4
SAME_SHARE = 0.75
# below this many telling runs a question says too little for a comparison
MIN_RUNS = 6
# a run in more than this share of all questions (and in more than a few) is part of a template
COMMON_SHARE = 0.01
COMMON_AT_LEAST = 8
COUNT_BITS = 22
COUNTED_ROWS = 20_000
# small enough for the processor's cache, which is what the speed hangs on
CHUNK_ROWS = 4_000
MAX_PAIRS = 200_000
# letters, spaces and punctuation may differ; numbers and signs (C and C++) may not
SIGNS = re.compile(rb"[^0-9+*/=<>#%^&|$@~\\-]+")
MIX = np.uint64(0x9E3779B97F4A7C15)
EMPTY = np.uint32(0xFFFFFFFF)

Rows = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Texts:
    """Many short texts in one file of bytes: where each begins, and its length in bytes."""

    path: Path
    starts: Rows
    lengths: Rows

    def bytes_of(self, data: npt.NDArray[np.uint8], row: int) -> bytes:
        """Return one text."""
        start = int(self.starts[row])
        return data[start : start + int(self.lengths[row])].tobytes()


def near_groups(texts: Texts, names: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Give every text the name of its group: `names` [n], with near ones renamed to be equal.

    Equal `names` stay equal; which name a group gets does not depend on the order of the texts.
    """
    unique, first = np.unique(names, return_index=True)
    if len(unique) < 2:
        return names
    data: npt.NDArray[np.uint8] = np.memmap(texts.path, np.uint8, "r")
    first = np.sort(first)
    common = _common_runs(texts, data, first)
    signatures = _signatures(texts, data, first, common)
    parents = np.arange(len(first))
    for left, right in _candidates(signatures):
        if _find(parents, left) == _find(parents, right):
            continue
        pair = texts.bytes_of(data, int(first[left])), texts.bytes_of(data, int(first[right]))
        if _same(*pair, common):
            parents[_find(parents, right)] = _find(parents, left)
    roots = np.array([_find(parents, row) for row in range(len(first))])
    own = names[first]
    smallest = np.full(len(first), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, roots, own)
    order = np.argsort(own)
    groups: npt.NDArray[np.uint64] = smallest[roots][order][np.searchsorted(own[order], names)]
    return groups


def _runs(texts: Texts, data: npt.NDArray[np.uint8], rows: Rows) -> tuple[Words, Rows]:
    """Hash every run of bytes of the rows: hashes [r], and the index into `rows` of each [r]."""
    lengths = texts.lengths[rows]
    begins = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(rows)), lengths)
    position = np.arange(len(owner))
    block = data[position + (texts.starts[rows] - begins)[owner]].astype(np.uint64)
    starts = max(0, len(block) - RUN_BYTES + 1)
    value = np.zeros(starts, np.uint64)
    for step in range(RUN_BYTES):
        value |= block[step : step + starts] << np.uint64(8 * step)
    inside = (begins + lengths - RUN_BYTES)[owner[:starts]] >= position[:starts]
    value = value[inside] * MIX
    value = (value ^ (value >> np.uint64(29))) * MIX
    return (value >> np.uint64(32)).astype(np.uint32), owner[:starts][inside]


def _chunks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), CHUNK_ROWS):
        yield rows[start : start + CHUNK_ROWS]


def _common_runs(texts: Texts, data: npt.NDArray[np.uint8], rows: Rows) -> npt.NDArray[np.bool_]:
    """Mark the run hashes (by their upper bits) that so many rows hold that they tell nothing."""
    counts = np.zeros(1 << COUNT_BITS, np.int32)
    rows = rows[:: max(1, len(rows) // COUNTED_ROWS)]
    for chunk in _chunks(rows):
        runs, owner = _runs(texts, data, chunk)
        # once per row: a word repeated inside one question is not common for that
        slots = _slots(runs).astype(np.int64)
        once = np.sort(owner * np.int64(1 << COUNT_BITS) + slots)
        once = once[np.flatnonzero(np.diff(once, prepend=-1))]
        np.add.at(counts, once & np.int64((1 << COUNT_BITS) - 1), 1)
    limit = max(COMMON_AT_LEAST, COMMON_SHARE * len(rows))
    return counts > limit


def _slots(runs: Words) -> Words:
    return runs >> np.uint32(32 - COUNT_BITS)


def _signatures(
    texts: Texts, data: npt.NDArray[np.uint8], rows: Rows, common: npt.NDArray[np.bool_]
) -> Words:
    """Compute MinHash signatures [rows, BANDS * ROWS_PER_BAND]; `EMPTY`: the row tells little."""
    width = BANDS * ROWS_PER_BAND
    # not from a random generator: groups decide splits, which are the same on every machine
    factors = np.frombuffer(hashlib.shake_128(b"near").digest(4 * width), "<u4") | np.uint32(1)
    result = np.full((len(rows), width), EMPTY, np.uint32)
    done = 0
    for chunk in _chunks(rows):
        runs, owner = _runs(texts, data, chunk)
        telling = ~common[_slots(runs)]
        runs, owner = runs[telling], owner[telling]
        counts = np.bincount(owner, minlength=len(chunk))
        kept = np.flatnonzero(counts)
        if len(kept):
            starts = np.searchsorted(owner, kept)
            mixed = np.empty_like(runs)
            for n in range(width):
                np.multiply(runs, factors[n], out=mixed)
                np.bitwise_xor(mixed, mixed >> np.uint32(16), out=mixed)
                result[done + kept, n] = np.minimum.reduceat(mixed, starts)
        result[done + np.flatnonzero(counts < MIN_RUNS)] = EMPTY
        done += len(chunk)
    return result


def _candidates(signatures: Words) -> list[tuple[int, int]]:
    """Pair rows that agree in a whole band: each with the one before it and with the first."""
    telling = np.flatnonzero(signatures[:, 0] != EMPTY)
    found: list[npt.NDArray[np.int64]] = []
    for band in range(BANDS):
        part = signatures[telling, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]
        key = np.zeros(len(telling), np.uint64)
        for column in range(ROWS_PER_BAND):
            key = (key ^ part[:, column]) * MIX
        order = np.argsort(key, kind="stable")
        equal = key[order][1:] == key[order][:-1]
        starts = np.flatnonzero(np.concatenate(([True], ~equal)))
        bucket = np.cumsum(np.concatenate(([True], ~equal))) - 1
        after = np.flatnonzero(equal) + 1
        for before in (after - 1, starts[bucket[after]]):
            found.append(np.stack([telling[order[before]], telling[order[after]]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)
    agree = np.mean(signatures[pairs[:, 0]] == signatures[pairs[:, 1]], axis=1)
    best = np.argsort(-agree, kind="stable")[:MAX_PAIRS]
    return [(int(left), int(right)) for left, right in pairs[best[agree[best] >= 0.5]]]


def _same(left: bytes, right: bytes, common: npt.NDArray[np.bool_]) -> bool:
    """Compare two questions by their telling runs, and by their numbers and signs exactly."""
    if _signs(left) != _signs(right):
        return False
    ours, theirs = _telling(left, common), _telling(right, common)
    shared = len(ours & theirs)
    return shared >= SAME_SHARE * (len(ours) + len(theirs) - shared)


def _signs(text: bytes) -> bytes:
    return SIGNS.sub(b"", text)


def _telling(text: bytes, common: npt.NDArray[np.bool_]) -> set[int]:
    whole = Texts(Path(), np.zeros(1, np.int64), np.array([len(text)]))
    runs, _ = _runs(whole, np.frombuffer(text, np.uint8), np.zeros(1, np.int64))
    return set(runs[~common[_slots(runs)]].tolist())


def _find(parents: Rows, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row

"""Edits made by hand to a processed set, kept when it is processed again.

An edit is remembered by what the example was before, so it finds its example in the new set
whatever row or split that has now. What was edited since the last processing stands in the tables'
journals; `edits.jsonl` beside the set holds the rest. Editing itself is left to `table`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import orjson

from sftplay_ui.engine.data.split import SPLITS
from sftplay_ui.engine.data.table import read_journal

EDITS_NAME = "edits.jsonl"
SET_ASIDE_NAME = "edits.set-aside.jsonl"


class Edits:
    """What examples became by hand: each line as it was, and as it is now (b"": deleted)."""

    def __init__(self, changes: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._after: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._used: Counter[bytes] = Counter()
        for before, after in changes:
            self._after[before].append(after)

    def __len__(self) -> int:
        return sum(len(lines) for lines in self._after.values())

    @property
    def unused(self) -> int:
        """Count the edits whose example did not come by."""
        return len(self) - self._used.total()

    def take(self, line: bytes) -> bytes | None:
        """Give what a line became; None where it was not edited (or that often already)."""
        lines = self._after.get(line)
        if lines is None or self._used[line] == len(lines):
            return None
        self._used[line] += 1
        return lines[self._used[line] - 1]

    def to_lines(self) -> bytes:
        """Write the edits as JSON lines."""
        return b"".join(
            orjson.dumps({"before": before.decode(), "after": after.decode()}) + b"\n"
            for before, lines in self._after.items()
            for after in lines
        )


def read_edits(folder: Path) -> Edits:
    """Read the edits of the set in a folder: those kept earlier, and the journals since then."""
    changes = _kept(folder / EDITS_NAME)
    for split in SPLITS:
        for entry in read_journal(folder / f"{split}.jsonl"):
            _join(changes, entry.before, entry.after)
    return Edits((before, after) for before, after in changes if before and before != after)


def _kept(path: Path) -> list[tuple[bytes, bytes]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    records = [orjson.loads(line) for line in lines]
    return [(record["before"].encode(), record["after"].encode()) for record in records]


def _join(changes: list[tuple[bytes, bytes]], before: bytes, after: bytes) -> None:
    """Add a change; one that goes on from an earlier change becomes one with it."""
    for number in range(len(changes) - 1, -1, -1):
        first, last = changes[number]
        if last == before and before:
            changes[number] = (first, after)
            return
    changes.append((before, after))

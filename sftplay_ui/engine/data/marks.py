"""Which rows of a processed file a finding is about: 32 bits a row, in a file beside it.

The marks are written when a set is processed and follow its edits, so that a table of a million
rows can show those of one finding at once. Finding is left to `row_checks` and `doctor`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sftplay_ui.engine.data.findings import KINDS

EDITED = "edited"
# leaks are about two files; all other findings belong to a row
MARKS = {
    kind: 1 << bit
    for bit, kind in enumerate([EDITED, *(kind for kind in KINDS if not kind.endswith("leaks"))])
}
Marks = npt.NDArray[np.uint32]


def marks_path(path: Path) -> Path:
    """Name the file that holds the marks of a processed file."""
    return path.with_name(f".{path.name}.marks")


def mark_of(kinds: Iterable[str]) -> int:
    """Give the bits of some kinds; those that belong to no row have none."""
    mark = 0
    for kind in kinds:
        mark |= MARKS.get(kind, 0)
    return mark


def kinds_of(mark: int) -> tuple[str, ...]:
    """Name the kinds whose bits are set."""
    return tuple(kind for kind, bit in MARKS.items() if mark & bit)


def write_marks(path: Path, marks: Marks) -> None:
    """Write marks [rows] to a file: the names of the bits on its first line, then the numbers."""
    path.write_bytes(json.dumps(list(MARKS)).encode() + b"\n" + marks.astype("<u4").tobytes())


def read_marks(path: Path, rows: int) -> Marks | None:
    """Read the marks of a processed file; None where they are missing or of another version."""
    try:
        names, _, numbers = marks_path(path).read_bytes().partition(b"\n")
    except OSError:
        return None
    if names != json.dumps(list(MARKS)).encode() or len(numbers) != 4 * rows:
        return None
    return np.frombuffer(numbers, "<u4").astype(np.uint32)

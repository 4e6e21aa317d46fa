"""What a download tells while it runs, and whether there is room for it.

How things are fetched is left to `starter` and `hub`.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sftplay_ui.engine.errors import DiskFullError

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Progress:
    """How far a model is on its way here: bytes while downloading, stages while converting."""

    phase: Literal["download", "convert"]
    done: int
    total: int | None


OnProgress = Callable[[Progress], None]


def ignore_progress(_progress: Progress) -> None:
    """Take progress nobody asked for."""


def report_growth(
    folder: Path, total: int | None, ended: Callable[[float], bool], on_progress: OnProgress
) -> None:
    """Report the bytes the folder gains until `ended(seconds)`, which waits so long, is true."""
    before = size_of(folder)
    reported = -1
    while not ended(POLL_SECONDS):
        done = max(0, size_of(folder) - before)
        if total is not None:
            done = min(done, total)
        if done > reported:
            reported = done
            on_progress(Progress("download", done, total))


def size_of(folder: Path) -> int:
    """Sum the bytes of all files below a folder; files may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            facts = path.lstat()
        except OSError:
            continue
        total += facts.st_size
    return total


def need_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise DiskFullError unless the folder's disk has so many bytes free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise DiskFullError(
            f"{purpose} needs {in_words(needed_bytes)} on the disk of {folder}; "
            f"{in_words(free_bytes)} are free.",
            f"Free {in_words(needed_bytes - free_bytes)} there and try again.",
        )


def in_words(size: int) -> str:
    """Word a number of bytes in GB, or in MB where there is less than one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

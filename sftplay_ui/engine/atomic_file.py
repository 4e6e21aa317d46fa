"""Files that appear whole or not at all: written beside their place, then renamed into it."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from sftplay_ui.engine.errors import DiskFullError


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never a part."""
    replace_lines(path, [text])


def replace_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file piece by piece under another name and rename it; nothing is kept on a failure.

    Each piece brings its own line end. Raises DiskFullError where the disk is full.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staged.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
        staged.replace(path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(
            f"The disk is full: {path} was not written.", "Free some space, then do it again."
        ) from error
    finally:
        staged.unlink(missing_ok=True)

"""Files that appear whole or not at all: written beside their place, then renamed into it."""

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from sftplay_ui.engine.errors import DiskFullError


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never a part."""
    replace_all({path: [text]})


def replace_all(files: Mapping[Path, Iterable[str]]) -> None:
    """Write files piece by piece under other names, then rename all; nothing is kept on a failure.

    Each piece brings its own line end. Raises DiskFullError where the disk is full.
    """
    staged = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    path = Path()
    try:
        for path, pieces in files.items():
            with staged[path].open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(pieces)
        for path, ready in staged.items():
            ready.replace(path)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(
            f"The disk is full: {path} was not written.", "Free some space, then do it again."
        ) from error
    finally:
        for ready in staged.values():
            ready.unlink(missing_ok=True)

"""Files that appear whole or not at all: written beside their place, then renamed into it.

Several files that belong together change as one: what a killed process left half done is finished
by the next reader of their folder.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from sftplay_ui.engine.errors import DiskFullError

SWAP_PREFIX = ".swap-"
READY_NAME = "ready.json"


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
        if len(staged) == 1:
            staged[path].replace(path)
        else:
            swap_in(staged)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(
            f"The disk is full: {path} was not written.", "Free some space, then do it again."
        ) from error
    finally:
        for ready in staged.values():
            ready.unlink(missing_ok=True)


def swap_in(files: Mapping[Path, Path], outdated: Iterable[Path] = ()) -> None:
    """Rename written files into their places (target -> written); `outdated` ones go with it.

    The files of one folder change as one: a list of them is on the disk before the first is
    renamed, and `finish_swaps` does the rest if this process does not live to. The files must be on
    the disks of their targets, or are copied there.
    """
    homes = {target.parent for target in files}
    swaps = {home: Path(tempfile.mkdtemp(prefix=SWAP_PREFIX, dir=home)) for home in homes}
    is_ready = False
    try:
        for target, written in files.items():
            staged = swaps[target.parent] / target.name
            shutil.move(written, staged)
            _flush(staged)
        gone = list(outdated)
        for home, swap in swaps.items():
            names = [path.name for path in gone if path.parent == home]
            listing = swap / f"{READY_NAME}.part"
            listing.write_text(json.dumps({"outdated": names}), encoding="utf-8")
            _flush(listing)
            listing.replace(swap / READY_NAME)
        is_ready = True
    finally:
        if not is_ready:
            for swap in swaps.values():
                shutil.rmtree(swap, ignore_errors=True)
    for home in homes:
        finish_swaps(home)


def finish_swaps(home: Path) -> None:
    """Do what is left of the swaps that were ready in a folder; raise OSError where it cannot be.

    Another process may do the same at the same time: each file is renamed by one of them.
    """
    for ready in home.glob(f"{SWAP_PREFIX}*/{READY_NAME}"):
        try:
            names = json.loads(ready.read_text(encoding="utf-8"))["outdated"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue  # finished meanwhile, or not written by this program
        for name in names:
            # by its name alone, so that no listing reaches outside its own folder
            (home / Path(name).name).unlink(missing_ok=True)
        for staged in ready.parent.iterdir():
            if staged.name != READY_NAME:
                _rename_once(staged, home / staged.name)
        ready.unlink(missing_ok=True)
        shutil.rmtree(ready.parent, ignore_errors=True)


def _rename_once(staged: Path, target: Path) -> None:
    try:
        staged.replace(target)
    except FileNotFoundError:
        if not target.exists():
            raise


def _flush(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())

"""Checkpoints that are whole or not there: staged, hashed, renamed, and verified before use.

A folder `checkpoint-<step>` counts only with a `manifest.json` (written last) that agrees with
every file. What goes into one is left to `state`; what must match before a resume to `identity`.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from sftplay_ui.engine.checks import CheckResult
from sftplay_ui.engine.errors import DiskFullError, ResumeError

MANIFEST = "manifest.json"
FORMAT = 1
FOLDER = re.compile(r"checkpoint-(\d+)")
BLOCK_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
# torch does not say why it could not write: with less than this, the disk is why
NO_ROOM_BYTES = 64 * 1024


@dataclass(frozen=True)
class Checkpoint:
    """One folder that claims to be a checkpoint."""

    path: Path
    step: int

    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir())

    def damage(self) -> str | None:
        """Say what is wrong with the files, None where every one is as it was written."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            version, files = manifest["format"], manifest["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"{MANIFEST} is missing or damaged"
        if version > FORMAT:
            return "it was written by a newer version of this program"
        for name, facts in files.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != facts["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {facts['bytes']}"
            if file_hash(file) != facts["sha256"]:
                return f"{name} is not what was written"
        return None


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """List what claims to be a checkpoint, newest step first."""
    if not folder.is_dir():
        return []
    found = [
        Checkpoint(path, int(match[1]))
        for path in folder.iterdir()
        if (match := FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def check_checkpoint(path: Path) -> CheckResult:
    """Judge a checkpoint folder, or a run's folder by its newest checkpoint."""
    if not path.is_dir():
        raise ResumeError(f"{path} is no folder.", "Name a checkpoint or the folder of a run.")
    match = FOLDER.fullmatch(path.name)
    if match is not None:
        damage = Checkpoint(path, int(match[1])).damage()
        faults = [f"{path.name} cannot be used: {damage}."] if damage else []
        return CheckResult.of(faults=faults, warnings=[])
    looked_at = list(usable_checkpoints(path / "checkpoints"))
    if not looked_at:
        raise ResumeError(f"{path} holds no checkpoint.", "Train the run again from its start.")
    notes = [f"{c.path.name} cannot be used: {damage}." for c, damage in looked_at if damage]
    whole = looked_at[-1][1] is None
    return CheckResult.of(faults=[] if whole else notes, warnings=notes if whole else [])


def save_checkpoint(folder: Path, step: int, write: Callable[[Path], None]) -> Checkpoint:
    """Save a checkpoint through `write(staged folder)`; a whole one of that step is kept.

    Raises DiskFullError when the disk is full; what was there before is untouched.
    """
    final = Checkpoint(folder / f"checkpoint-{step}", step)
    if final.path.exists():
        if final.damage() is None:
            return final
        discard(final.path)
    staged = folder / f".staging-{step}-{os.getpid()}"
    write_folder(staged, final.path, write)
    return final


def write_folder(staged: Path, final: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under a staged name, make it durable with a manifest, and rename it."""
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        write(staged)
        seal(staged)
        staged.replace(final)
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(final.parent).free
        if not tells_full_disk(error) and free > NO_ROOM_BYTES:
            raise
        raise DiskFullError(
            f"The disk of {final.parent} is full ({free / 1e6:.1f} MB free); {final.name} is not "
            "saved.",
            "Make room, then resume the run from its last checkpoint.",
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    sync(final.parent)


def tells_full_disk(error: Exception) -> bool:
    """Tell whether a failed write ran out of room or quota; torch and safetensors only word it."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(f"os error {number}" in str(error) for number in FULL)


def seal(folder: Path) -> None:
    """Force every file to the disk and write the manifest, last."""
    files = {}
    for file in sorted(folder.iterdir()):
        sync(file)
        files[file.name] = {"bytes": file.stat().st_size, "sha256": file_hash(file)}
    text = json.dumps({"format": FORMAT, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to the disk; Windows knows no folders here."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    """Hash a file's content (sha256, in hex)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def usable_checkpoints(folder: Path) -> Iterator[tuple[Checkpoint, str | None]]:
    """Yield checkpoints, newest first, each with its damage, up to the first whole one."""
    for checkpoint in list_checkpoints(folder):
        damage = checkpoint.damage()
        yield checkpoint, damage
        if damage is None:
            return


def prune(folder: Path, keep: int, best_step: int | None = None) -> None:
    """Keep the newest whole checkpoints and the best one; clear away the rest and old debris.

    A checkpoint is counted by its manifest; its files were hashed when it was written.
    """
    whole = [c for c in list_checkpoints(folder) if (c.path / MANIFEST).is_file()]
    for checkpoint in whole[keep:]:
        if checkpoint.step != best_step:
            discard(checkpoint.path)
    for debris in [*folder.glob(".staging-*"), *folder.glob(".trash-*")]:
        shutil.rmtree(debris, ignore_errors=True)


def discard(path: Path) -> None:
    """Move a folder out of sight in one step, then delete it: no name ever holds half of one."""
    trash = path.with_name(f".trash-{path.name}-{os.getpid()}")
    shutil.rmtree(trash, ignore_errors=True)
    path.replace(trash)
    shutil.rmtree(trash, ignore_errors=True)

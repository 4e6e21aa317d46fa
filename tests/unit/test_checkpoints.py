"""Checkpoints: whole or not there, whatever happens while they are written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from sftplay_ui.engine import checkpoints
from sftplay_ui.engine.checkpoints import (
    Checkpoint,
    list_checkpoints,
    prune,
    save_checkpoint,
    usable_checkpoints,
)
from sftplay_ui.engine.errors import DiskFullError, ResumeError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Give a folder with nothing else in it."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(b"w" * 5000)
    (folder / "state.json").write_text('{"step": 1}')


def whole(folder: Path) -> list[int]:
    return [found.step for found in list_checkpoints(folder) if found.damage() is None]


def test_a_checkpoint_is_what_was_written(store):
    saved = save_checkpoint(store, 7, write)
    assert saved == Checkpoint(store / "checkpoint-7", 7)
    assert saved.damage() is None
    assert saved.bytes() > 5000
    assert [path.name for path in store.iterdir()] == ["checkpoint-7"]


@pytest.mark.parametrize("name", ["weights", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["missing", "cut", "flipped"])
def test_any_harm_to_any_file_is_found(store, name, harm):
    saved = save_checkpoint(store, 1, write)
    file = saved.path / name
    data = file.read_bytes()
    match harm:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(data[:-1])
        case "flipped":
            file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert name in saved.damage()


def test_one_written_by_a_newer_version_is_not_used(store):
    saved = save_checkpoint(store, 1, write)
    manifest = json.loads((saved.path / "manifest.json").read_text())
    (saved.path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    assert "newer version" in saved.damage()


def test_the_newest_whole_one_is_found_behind_damaged_ones(store):
    for step in (1, 2, 10):
        save_checkpoint(store, step, write)
    (store / "checkpoint-10" / "weights").unlink()
    (store / "checkpoint-11").mkdir()
    found = [(found.step, damage is None) for found, damage in usable_checkpoints(store)]
    assert found == [(11, False), (10, False), (2, True)]


def test_a_whole_checkpoint_is_never_written_over_and_a_broken_one_is_replaced(store):
    saved = save_checkpoint(store, 1, write)
    save_checkpoint(store, 1, lambda folder: (folder / "other").write_text(""))
    assert (saved.path / "weights").exists()
    (saved.path / "weights").unlink()
    save_checkpoint(store, 1, write)
    assert saved.damage() is None


def test_pruning_keeps_the_newest_and_the_best_and_counts_whole_ones_only(store):
    for step in (10, 20, 30, 40):
        save_checkpoint(store, step, write)
    (store / "checkpoint-50").mkdir()
    (store / ".staging-60-1").mkdir()
    prune(store, 2, best_step=10)
    assert sorted(path.name for path in store.iterdir()) == [
        "checkpoint-10",
        "checkpoint-30",
        "checkpoint-40",
        "checkpoint-50",
    ]


def test_a_full_disk_is_said_and_leaves_what_was_there(store):
    save_checkpoint(store, 1, write)

    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="checkpoint-2 is not saved"):
        save_checkpoint(store, 2, fill)
    assert [path.name for path in store.iterdir()] == ["checkpoint-1"]
    assert whole(store) == [1]


KILLED = """
import os, sys
from pathlib import Path
from sftplay_ui.engine import checkpoints
from tests.unit.test_checkpoints import write
calls = 0
last = int(sys.argv[2])
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), 9)
        return function(*args, **kwargs)
    return call
os.fsync = counted(os.fsync)
checkpoints.file_hash = counted(checkpoints.file_hash)
Path.replace = counted(Path.replace)
checkpoints.save_checkpoint(Path(sys.argv[1]), 2, write)
checkpoints.prune(Path(sys.argv[1]), 1)
print(calls)
"""


def test_a_kill_between_any_two_writes_leaves_a_whole_checkpoint(store):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def save_and_die(folder: Path, at: int) -> subprocess.CompletedProcess[str]:
        save_checkpoint(folder, 1, write)
        command = [sys.executable, "-c", KILLED, str(folder), str(at)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    calls = int(save_and_die(store / "unbroken", 0).stdout)
    assert calls > 8
    for at in range(1, calls + 1):
        folder = store / str(at)
        assert save_and_die(folder, at).returncode == -9
        newest, damage = next(usable_checkpoints(folder))
        assert damage is None, (at, newest)


def test_hashes_are_those_of_the_content(store):
    (store / "a").write_bytes(b"")
    assert checkpoints.file_hash(store / "a").startswith("e3b0c44298fc1c14")


def test_a_checkpoint_is_judged_by_its_files_and_a_run_by_its_newest(tmp_path):
    run = tmp_path / "run"
    for step in (1, 2):
        checkpoints.save_checkpoint(
            run / "checkpoints", step, lambda folder: (folder / "a.txt").write_text("weights")
        )
    newest = run / "checkpoints" / "checkpoint-2"
    assert checkpoints.check_checkpoint(newest).verdict == "accept"
    (newest / "a.txt").write_text("weighty")
    damaged = checkpoints.check_checkpoint(newest)
    assert (damaged.verdict, "a.txt is not what was written" in damaged.messages[0]) == (
        "reject",
        True,
    )
    assert checkpoints.check_checkpoint(run).verdict == "accept_with_warning"
    with pytest.raises(ResumeError, match="no checkpoint"):
        checkpoints.check_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_by_whatever_a_library_says_of_it(store, error):
    def write_some(folder: Path) -> None:
        write(folder)
        raise error

    with pytest.raises(DiskFullError, match="is full"):
        save_checkpoint(store, 1, write_some)
    assert list(store.iterdir()) == []


def test_where_a_library_does_not_say_why_the_free_space_does(store, monkeypatch):
    def write_some(folder: Path) -> None:
        write(folder)
        raise RuntimeError("PytorchStreamWriter failed writing file")

    with pytest.raises(RuntimeError):
        save_checkpoint(store, 1, write_some)
    assert list(store.iterdir()) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(DiskFullError, match="is full"):
        save_checkpoint(store, 1, write_some)

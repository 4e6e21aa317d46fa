"""Atomic files: all or nothing, also when the disk is full."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftplay_ui.engine.atomic_file import finish_swaps, replace_all, replace_text, swap_in
from sftplay_ui.engine.errors import DiskFullError


def failing(error: Exception) -> Iterator[str]:
    yield "half"
    raise error


def test_text_is_written_as_it_is_with_plain_line_ends(tmp_path: Path) -> None:
    replace_text(tmp_path / "a", "é\nx\n")
    assert (tmp_path / "a").read_bytes() == "é\nx\n".encode()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DiskFullError),
        (OSError(errno.EIO, os.strerror(errno.EIO)), OSError),
        (ValueError("bad row"), ValueError),
    ],
)
def test_a_failure_in_the_second_file_keeps_the_first_as_it_was(
    tmp_path: Path, error: Exception, raised: type[Exception]
) -> None:
    replace_text(tmp_path / "a", "old")
    with pytest.raises(raised):
        replace_all({tmp_path / "a": ["new"], tmp_path / "b": failing(error)})
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a"]


KILLED_SWAP = """
import os, signal, sys
from pathlib import Path
from sftplay_ui.engine.atomic_file import swap_in

home, kill_at = Path(sys.argv[1]), int(sys.argv[2])
for name in "abc":
    (home / f"{name}.written").write_text("new")
renames, rename = [], Path.replace

def replace(self, target):
    renames.append(target)
    if len(renames) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.replace = replace
swap_in({home / name: home / f"{name}.written" for name in "abc"}, [home / "old"])
"""


@pytest.mark.parametrize(("kill_at", "text"), [(1, "old"), (2, "new"), (3, "new"), (4, "new")])
def test_files_that_belong_together_are_all_old_or_all_new_after_a_kill(
    tmp_path: Path, kill_at: int, text: str
) -> None:
    for name in ("a", "b", "c", "old"):
        (tmp_path / name).write_text("old")
    command = [sys.executable, "-c", KILLED_SWAP, str(tmp_path), str(kill_at)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    finish_swaps(tmp_path)
    assert {(tmp_path / name).read_text() for name in "abc"} == {text}
    assert (tmp_path / "old").exists() == (text == "old")


def test_a_swap_that_another_reader_finishes_is_finished_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in "ab":
        (tmp_path / f"{name}.written").write_text("new")
    rename = Path.replace

    def both(self: Path, target: Path) -> Path:
        rename(self, target)
        if target.name in "ab":
            raise FileNotFoundError(str(self))  # the other one was quicker
        return target

    monkeypatch.setattr(Path, "replace", both)
    swap_in({home / name: tmp_path / f"{name}.written" for name in "ab"})
    assert sorted(path.name for path in home.iterdir()) == ["a", "b"]


def test_a_listing_from_elsewhere_reaches_nothing_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    swap = tmp_path / "home" / ".swap-x"
    swap.mkdir(parents=True)
    (swap / "ready.json").write_text(json.dumps({"outdated": ["../kept", str(tmp_path / "kept")]}))
    (tmp_path / "home" / ".swap-y").mkdir()
    (tmp_path / "home" / ".swap-y" / "ready.json").write_text("[1]")
    finish_swaps(tmp_path / "home")
    assert (tmp_path / "kept").read_text() == "mine"

"""Atomic files: all or nothing, also when the disk is full."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftplay_ui.engine.atomic_file import replace_all, replace_text
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

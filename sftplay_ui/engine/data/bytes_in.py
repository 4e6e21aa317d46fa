"""Files as bounded streams of bytes: plain or gzip, and never more than a person could have meant.

Which text the bytes are is left to `encodings`.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import BinaryIO

from sftplay_ui.engine.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
HEAD_BYTES = 256 * 1024
# real text is packed 3 to 20 times; beyond this a small upload could fill the disk
BOMB_BYTES = 256 * 2**20
BOMB_RATIO = 200


class _GzipStream(io.RawIOBase):
    """The unpacked bytes of a gzip file; damage and bombs become DataErrors that name the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._packed_bytes = path.stat().st_size
        self._unpacked_bytes = 0
        self._stream = gzip.open(path, "rb")  # noqa: SIM115 - closed by close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            piece = self._stream.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(
                f"{self._path.name} is a damaged gzip file ({error}).",
                "Fetch or pack the file again.",
            ) from None
        self._unpacked_bytes += len(piece)
        if self._unpacked_bytes > max(BOMB_BYTES, BOMB_RATIO * self._packed_bytes):
            raise DataError(
                f"{self._path.name} unpacks to more than {BOMB_RATIO} times its size, "
                "which no real text does.",
                "Unpack the file yourself and choose the result.",
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading, unpacking gzip by its content, not by its name."""
    check_readable(path)
    try:
        if _starts_with_gzip(path):
            return io.BufferedReader(_GzipStream(path), 2**20)
        return path.open("rb", buffering=2**20)
    except OSError as error:
        raise unreadable(path, error) from None


def read_head(path: Path) -> bytes:
    """Read the first bytes (unpacked) that detection works on."""
    with open_bytes(path) as stream:
        try:
            return stream.read(HEAD_BYTES)
        except OSError as error:
            raise unreadable(path, error) from None


def is_gzip(path: Path) -> bool:
    """Tell whether the file's content is gzip."""
    check_readable(path)
    return _starts_with_gzip(path)


def check_readable(path: Path) -> None:
    """Raise DataError unless the path names an existing, regular file that is not empty."""
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, not a file.", "Choose a file inside it.")
        if not path.exists():
            raise DataError(f"{path} does not exist.", "Correct the path, or choose a file.")
        if not path.is_file():
            raise DataError(f"{path} is not a regular file.", "Choose a data file.")
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty.", "Choose a file that has rows.")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError | ValueError) -> DataError:
    """Say that the system refused to read the file, and why."""
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"{path} cannot be read: {reason}.", "Choose a readable file.")


def _starts_with_gzip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(2) == GZIP_MAGIC
    except OSError as error:
        raise unreadable(path, error) from None

"""Weights files: every lie a header can tell is found before anything is mapped."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sftplay_ui.engine.errors import AdapterError
from sftplay_ui.engine.models.safetensors_header import not_finite, read_header


def weights(path: Path, header: object, data: bytes = bytes(8), length: int | None = None) -> Path:
    text = json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_sound_file_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"b": np.ones((2, 3), np.float16), "a": np.ones(1)}, path, metadata={"format": "pt"})
    facts = read_header(path)
    assert {(t.name, t.dtype, t.shape) for t in facts} == {("a", "F64", (1,)), ("b", "F16", (2, 3))}
    assert facts[-1].end == path.stat().st_size


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ([], b""),
        ({}, b""),
        ({"a": 1}, b""),
        ({"a": entry()}, bytes(7)),
        ({"a": entry()}, bytes(9)),
        ({"a": entry(offsets=(0, 4))}, bytes(4)),
        ({"a": entry(offsets=(4, 12))}, bytes(12)),
        ({"a": entry(), "b": entry()}, bytes(8)),
        ({"a": entry(offsets=(-8, 0))}, b""),
        ({"a": entry(shape=(-1, -2))}, bytes(8)),
        ({"a": entry(shape=(2.0,))}, bytes(8)),
        ({"a": entry(shape=(True, 2))}, bytes(8)),
        ({"a": entry(dtype="F12")}, bytes(8)),
        ({"a": entry(shape=(2**62, 4), offsets=(0, 2**66))}, bytes(8)),
    ],
)
def test_a_lying_header_is_refused(tmp_path: Path, header: object, data: bytes) -> None:
    with pytest.raises(AdapterError, match=r"w\.safetensors is damaged"):
        read_header(weights(tmp_path / "w.safetensors", header, data))


@pytest.mark.parametrize("length", [2**63, 10**9, 100, 3])
def test_a_header_longer_than_the_file_or_cut_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(AdapterError, match="damaged"):
        read_header(weights(tmp_path / "w.safetensors", {"a": entry()}, length=length))


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=64))
def test_no_bytes_are_taken_for_weights(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("w") / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(AdapterError):
        read_header(path)


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [("F32", 0x7FC00000), ("F32", 0xFF800000), ("F16", 0x7C00), ("BF16", 0xFF80), ("BF16", 0x7FC1)],
)
def test_numbers_that_are_not_finite_are_found_in_every_float_type(
    tmp_path: Path, dtype: str, bad: int
) -> None:
    kind = np.uint32 if dtype == "F32" else np.uint16
    for value, names in ((bad, ["a"]), (bad & ~0x0080_0000 & ~0x0400 & ~0x0080, [])):
        data = np.array([0, value], kind).tobytes()
        header = {"a": entry(dtype, (2,), (0, len(data)))}
        assert not_finite(weights(tmp_path / "w.safetensors", header, data)) == names

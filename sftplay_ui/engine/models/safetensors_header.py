"""Weights files judged before anything maps them: the whole header, and finite numbers.

A safetensors file is eight bytes (the header's length), a JSON header, and raw numbers. Loaders
trust parts of it; here every offset, shape and type must fit the file exactly.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sftplay_ui.engine.errors import AdapterError

MAX_HEADER_BYTES = 100_000_000
_PIECE_BYTES = 16_000_000
# Bytes of one number, for every type a saved model may have.
_SIZES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}
# A number is not finite where all bits of its exponent are set.
_EXPONENTS = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}


@dataclass(frozen=True)
class TensorFacts:
    """Name, type, shape and place (bytes from the start of the file) of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> list[TensorFacts]:
    """Return the tensors of a file by place; raise AdapterError where anything is off."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise _damaged(path, "its header is longer than the file")
            header = json.loads(file.read(length))
    except OSError as error:
        raise AdapterError(
            f"{path} cannot be read: {error.strerror}.", "Choose another adapter."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    facts = [_facts(path, name, entry, 8 + length) for name, entry in header.items()]
    facts.sort(key=lambda tensor: tensor.start)
    position = 8 + length
    for tensor in facts:
        if tensor.start != position:
            raise _damaged(path, f"{tensor.name} does not begin where the tensor before it ends")
        position = tensor.end
    if not facts:
        raise _damaged(path, "it holds no tensors")
    if position != size:
        raise _damaged(path, f"it has {size:,} bytes, its header speaks of {position:,}")
    return facts


def not_finite(path: Path) -> list[str]:
    """Return the names of tensors that hold NaN or infinity; reads the whole file in pieces."""
    with path.open("rb") as file:
        return [
            tensor.name
            for tensor in read_header(path)
            if tensor.dtype in _EXPONENTS and _holds_not_finite(file, tensor)
        ]


def _facts(path: Path, name: str, entry: object, base: int) -> TensorFacts:
    match entry:
        case {
            "dtype": str(dtype),
            "shape": list(shape),
            "data_offsets": [int(start), int(end)],
        } if dtype in _SIZES and all(type(n) is int and n >= 0 for n in shape):
            if start < 0 or end - start != math.prod(shape) * _SIZES[dtype]:
                raise _damaged(path, f"{name} has a size that does not fit its shape {shape}")
            return TensorFacts(name, dtype, tuple(shape), base + start, base + end)
    raise _damaged(path, f"its header describes {name} in a way that is not known")


def _holds_not_finite(file: BinaryIO, tensor: TensorFacts) -> bool:
    kind, exponent = _EXPONENTS[tensor.dtype]
    file.seek(tensor.start)
    for start in range(tensor.start, tensor.end, _PIECE_BYTES):
        bits = np.frombuffer(file.read(min(_PIECE_BYTES, tensor.end - start)), dtype=kind)
        if ((bits & kind(exponent)) == kind(exponent)).any():
            return True
    return False


def _damaged(path: Path, why: str) -> AdapterError:
    return AdapterError(
        f"{path} is damaged: {why}.", "Train again from the last checkpoint, or copy it anew."
    )

"""Examples as tokens in one file each, memory-mapped: a million of them fill no memory.

A file is named after all that decides its content (examples, template, tokenizer, longest length,
this program's own code), so it is never stale, and the next run with the same needs no tokenising.
A torn file is made anew, and the oldest go when all together take too much of the disk.
"""

import hashlib
import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

import sftplay_ui.engine.text
from sftplay_ui.engine.checkpoints import file_hash
from sftplay_ui.engine.data.examples import Example, RenderedExample, read_examples
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import TokenisedExample, Tokeniser, tokenise_stream
from sftplay_ui.engine.workspace import user_cache

FORMAT = 1
BATCH = 512
MOST_BYTES = 8_000_000_000
SYSTEMS = b"systems"
SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "learned": pa.list_(pa.uint8()),
        "cut_tokens": pa.int32(),
        "cut_learned": pa.int32(),
        "breaks": pa.bool_(),
    }
)


class TornCacheError(Exception):
    """A cache file is not whole."""


class Piece(NamedTuple):
    """One record batch: tokens and marks of all its examples in a row, and where each ends."""

    ends: np.ndarray
    ids: np.ndarray
    learned: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenTable(Sequence[TokenisedExample]):
    """Tokenised examples, read from the disk when they are asked for; `rows` are those chosen.

    Per example of the file: `lengths` in tokens, how many it `taught`, what was cut, and whether
    its text has line `breaks`. `systems` are the system texts there are (None: none), two at most.
    """

    pieces: Sequence[Piece]
    starts: Sequence[int]
    rows: np.ndarray
    taught: np.ndarray
    all_lengths: np.ndarray
    cut_tokens: np.ndarray
    cut_learned: np.ndarray
    breaks: np.ndarray
    systems: Sequence[str | None]
    cached: bool = False

    @property
    def lengths(self) -> list[int]:
        """How many tokens each chosen example has."""
        found: list[int] = self.all_lengths[self.rows].tolist()
        return found

    def teaching(self) -> "TokenTable":
        """Choose the examples with anything to learn."""
        return TokenTable(**{**vars(self), "rows": np.flatnonzero(self.taught)})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> TokenisedExample:  # type: ignore[override]
        row = int(self.rows[place])
        number = bisect_right(self.starts, row) - 1
        piece, row = self.pieces[number], row - self.starts[number]
        part = slice(int(piece.ends[row]), int(piece.ends[row + 1]))
        ids = array("i")
        ids.frombytes(piece.ids[part].tobytes())
        return TokenisedExample(input_ids=ids, learned=piece.learned[part].tobytes())


def tokenised(
    path: Path, template: ChatTemplate, tokeniser: Tokeniser, max_seq_len: int
) -> Generator[int, None, TokenTable]:
    """Open the tokens of a file of examples; make them first where they are not there yet.

    Yields how many examples are done. Raises DataError or TemplateError for what cannot be read.
    """
    # the reader knows how to word what is wrong with a file
    next(iter(read_examples(path)), None)
    cache = cache_file(path, template, tokeniser, max_seq_len)
    try:
        table = read_table(cache)
    except (OSError, pa.ArrowException, TornCacheError):
        examples = Listened(read_examples(path))
        stream = tokenise_stream(examples, template, tokeniser, max_seq_len)
        yield from write_table(cache, stream, examples.systems)
        make_room(cache)
        return read_table(cache)
    with suppress(OSError):
        os.utime(cache)  # used last, so cleared away last
    yield len(table)
    return TokenTable(**{**vars(table), "cached": True})


class Listened(Iterable[Example | RenderedExample]):
    """Examples that pass by; `systems` are their different system texts, two at most."""

    def __init__(self, examples: Iterable[Example | RenderedExample]) -> None:
        self.examples = examples
        self.systems: dict[str | None, None] = {}

    def __iter__(self) -> Iterator[Example | RenderedExample]:
        for example in self.examples:
            if len(self.systems) < 2:
                self.systems[example.system if isinstance(example, Example) else None] = None
            yield example


def cache_file(path: Path, template: ChatTemplate, tokeniser: Tokeniser, max_seq_len: int) -> Path:
    """Name the file with these examples' tokens, after all that decides what is in it."""
    parts = [
        FORMAT,
        own_code(),
        version("tokenizers"),
        file_hash(path),
        [template.source, template.bos, template.eos],
        tokeniser.hash,
        max_seq_len,
    ]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return user_cache() / "tokens" / f"{name}.arrow"


@lru_cache(maxsize=1)
def own_code() -> str:
    """Hash the modules that turn examples into tokens."""
    digest = hashlib.sha256()
    for module in sorted(Path(sftplay_ui.engine.text.__path__[0]).glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def write_table(
    cache: Path, stream: Iterator[TokenisedExample], systems: Iterable[str | None]
) -> Iterator[int]:
    """Write tokens beside their place, then rename; yield how many examples are written."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    staged = cache.with_name(f".{cache.name}.{os.getpid()}")
    done = 0
    try:
        with staged.open("wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            while batch := list(islice(stream, BATCH)):
                record = pa.record_batch([column(batch, name) for name in SCHEMA.names], SCHEMA)
                writer.write_batch(record, {SYSTEMS: json.dumps(list(systems)).encode()})
                done += len(batch)
                yield done
        staged.replace(cache)
    finally:
        staged.unlink(missing_ok=True)


def column(batch: Sequence[TokenisedExample], name: str) -> pa.Array:
    """Lay one property of examples into a column."""
    kind = SCHEMA.field(name).type
    if name == "breaks":
        return laid(np.array(["\n" in example.text for example in batch], bool), kind)
    if not pa.types.is_list(kind):
        return laid(np.array([getattr(example, name) for example in batch], np.int32), kind)
    values = [bytes(memoryview(getattr(example, name))) for example in batch]
    width = kind.value_type.bit_width // 8
    ends = np.cumsum([0, *(len(value) // width for value in values)], dtype=np.int32)
    flat = np.frombuffer(b"".join(values), kind.value_type.to_pandas_dtype())
    return pa.ListArray.from_arrays(laid(ends, pa.int32()), laid(flat, kind.value_type))


def laid(numbers: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Lay numbers of the right type into a column; `pa.array` would import pandas to look at them.

    That takes longer than to tokenise some hundred examples.
    """
    packed = np.packbits(numbers, bitorder="little") if numbers.dtype == bool else numbers
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(packed)])


def seen(column: pa.Array) -> np.ndarray:
    """See a column without nulls as numbers, not copied; `to_numpy` would import pandas."""
    part = slice(column.offset, column.offset + len(column))
    data = column.buffers()[1] or b""
    if pa.types.is_boolean(column.type):
        return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[part].astype(bool)
    return np.frombuffer(data, column.type.to_pandas_dtype())[part]


def read_table(cache: Path) -> TokenTable:
    """Map a cache file; raises OSError, ArrowException or TornCacheError where it is not whole."""
    reader = pa.ipc.open_file(pa.memory_map(str(cache)))
    if reader.schema != SCHEMA:
        raise TornCacheError
    found = [reader.get_batch_with_custom_metadata(n) for n in range(reader.num_record_batches)]
    batches = [batch for batch, _ in found]
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    pieces = [piece_of(batch) for batch in batches]
    systems = dict.fromkeys(text for _, meta in found for text in json.loads(meta[SYSTEMS]))

    def whole(name: str) -> np.ndarray:
        columns = [seen(batch[name]) for batch in batches]
        return np.concatenate(columns) if columns else np.empty(0, int)

    return TokenTable(
        pieces=pieces,
        starts=starts[:-1].tolist(),
        rows=np.arange(starts[-1]),
        taught=np.concatenate([taught_by(piece) for piece in pieces])
        if pieces
        else whole("breaks"),
        all_lengths=np.concatenate([np.diff(piece.ends) for piece in pieces])
        if pieces
        else whole("breaks"),
        cut_tokens=whole("cut_tokens"),
        cut_learned=whole("cut_learned"),
        breaks=whole("breaks"),
        systems=list(systems),
    )


def piece_of(batch: pa.RecordBatch) -> Piece:
    """Take the arrays of a record batch, without copying them."""
    batch.validate(full=True)
    ids, learned = batch["input_ids"], batch["learned"]
    if not ids.offsets.equals(learned.offsets):
        raise TornCacheError
    return Piece(seen(ids.offsets), seen(ids.values), seen(learned.values))


def taught_by(piece: Piece) -> np.ndarray:
    """Count what each example teaches: nothing comes before its first token to predict it."""
    marks = np.concatenate([[0], np.cumsum(piece.learned, dtype=np.int64)])
    first = np.minimum(piece.ends[:-1] + 1, piece.ends[1:])
    return marks[piece.ends[1:]] - marks[first]


def make_room(newest: Path) -> None:
    """Clear away the files used longest ago until all fit `MOST_BYTES`; the newest stays."""
    files = []
    for path in newest.parent.glob("*.arrow"):
        with suppress(OSError):
            files.append((path.stat().st_mtime, path.stat().st_size, path))
    used = 0
    for _, size, path in sorted(files, reverse=True):
        used += size
        if used > MOST_BYTES and path != newest:
            # a run elsewhere may have it open
            with suppress(OSError):
                path.unlink()

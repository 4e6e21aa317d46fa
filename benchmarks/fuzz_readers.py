"""Feed damaged files to the whole way from bytes to splits: only expected refusals may come out.

Real files of every format are mutated, cut and spliced by a seeded generator (so a case number is
enough to make the same file again), then previewed and checked as `check --kind data` does it. Each
batch runs in a process of its own under a limit of memory, and each case under a limit of time: a
crash, a hang, an unexpected exception or a growing process names its case and keeps its file.

Run: python benchmarks/fuzz_readers.py [--cases 2000] [--seconds 60] [--first 0] [--files FILE ...]
A long run is `--cases 1000000 --seconds 900`; `--cases 1 --first N` repeats the case N alone. The
unit tests of the readers try the first cases.
"""

import argparse
import gzip
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import openpyxl
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sftplay_ui.engine.data.inspection import check_data, inspect_file
from sftplay_ui.engine.errors import SFTPlayError

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
BATCH = 100
SECONDS_PER_CASE = 20
ADDRESS_BYTES = 6 * 2**30
# a case of a few kilobytes has no business holding more than this
RESIDENT_BYTES = 1200 * 2**20
ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".xlsx", ".gz", "")
TOKENS = (
    b"\0", b'"', b"'", b"\\", b"\n", b"\r", b"\t", b",", b";", b"|", b"{", b"}", b"[", b"]", b":",
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"0x", b"\\u0000", b"\\ud800",
    b"\\udfff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"\x1f\x8b", b"PK\x03\x04",
    b"PAR1", b"ARROW1", b"[" * 3000, b'{"a":' * 2000, b'"' * 500, b"\xe2\x80\xae", b"{{x}}", b"//",
    b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', b'"role"', b'"content": []',
    b"=1+1",
    b'"text": 1', b"sep=", b"Q: ", b"A: ", b"\xf0\x9f\x98\x80", b"<b>", b"&#0;", b"&#x110000;",
)  # fmt: skip


def seeds(files: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Give (name, content) of whole files in every format, and of the files named."""
    lines = (SAMPLES / "python_tutor_qa.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:40]]
    pairs = [(row["question"], row["answer"]) for row in rows]
    odd = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in pairs
    ]
    choice = [
        {"question": q, "options": {"A": a, "B": q}, "answer": "A", "context": {"text": a}}
        for q, a in pairs
    ]
    csv_text = "question;answer\n" + "".join(f'"{q}";"{a}"\n' for q, a in pairs).replace("'", "")
    russian = "вопрос;ответ\n" + "Почему небо синее?;Из-за воздуха.\n" * 30
    texts = {
        "a.json": json.dumps(rows, indent=1).encode(),
        "wrapped.json": json.dumps({"version": 1, "data": {"rows": rows}}).encode(),
        "columns.json": json.dumps({k: [r[k] for r in rows] for k in rows[0]}).encode(),
        "a.jsonl": b"\n".join(json.dumps(row).encode() for row in rows),
        "odd.jsonl": b"\n".join(json.dumps(row).encode() for row in odd),
        "choice.jsonl": b"\n".join(json.dumps(row).encode() for row in choice),
        "a.csv": csv_text.encode(),
        "utf16.csv": csv_text.encode("utf-16"),
        "utf32.tsv": csv_text.replace(";", "\t").encode("utf-32-be"),
        "russian.csv": russian.encode("cp1251"),
        "a.txt": "".join(f"Q: {q}\nA: {a}\n\n" for q, a in pairs).encode(),
    }  # fmt: skip
    texts |= {f"{name}.gz": gzip.compress(content) for name, content in list(texts.items())[:7]}
    tables = [pyarrow.Table.from_pylist(value) for value in (rows, odd)]
    for number, table in enumerate(tables):
        for packing in ("NONE", "SNAPPY", "ZSTD"):
            sink = io.BytesIO()
            pyarrow.parquet.write_table(table, sink, compression=packing)
            texts[f"{packing}{number}.parquet"] = sink.getvalue()
        sink = io.BytesIO()
        pyarrow.feather.write_feather(table, sink, compression="lz4")
        texts[f"{number}.arrow"] = sink.getvalue()
        sink = io.BytesIO()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        texts[f"stream{number}.arrow"] = sink.getvalue()
    book, sink = openpyxl.Workbook(), io.BytesIO()
    for cells in [("question", "answer"), *pairs]:
        book.active.append(cells)
    book.save(sink)
    texts["a.xlsx"] = sink.getvalue()
    given = {path.name: path.read_bytes() for path in files}
    return sorted((texts | given).items())


def mutate(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Damage a file once or a few times."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        size = min(chance.choice((1, 2, 8, 64, 1024)), len(data) - at)
        match chance.randrange(8):
            case 0 if at < len(data):
                data[at] = chance.randrange(256)
            case 1 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size] * chance.choice((1, 2, 100))
            case 4 | 5:
                data[at:at] = chance.choice(TOKENS)
            case 6:
                begin = chance.randrange(len(other) + 1)
                data[at : at + size] = other[begin : begin + chance.choice((16, 256, 4096))]
            case 7 if chance.random() < 0.3:
                del data[at:]
    return bytes(data)


def mutate_inside(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Damage what a gzip file or a workbook holds, and pack it again: whole outside, odd inside."""
    if content.startswith(b"\x1f\x8b"):
        return gzip.compress(mutate(gzip.decompress(content), other, chance))
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        damaged = chance.choice(old.namelist())
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, mutate(part, other, chance) if name == damaged else part)
    return packed.getvalue()


def make_case(number: int, known: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Make the file of a case: the same one for the same number and files."""
    chance = random.Random(number)
    (name, content), (_, other) = chance.choice(known), chance.choice(known)
    packed = content.startswith((b"\x1f\x8b", b"PK"))
    change = mutate_inside if packed and chance.random() < 0.7 else mutate
    if chance.random() < 0.15:
        name = Path(name).stem + chance.choice(ENDINGS)
    return name, change(content, other, chance)


def try_case(path: Path) -> str:
    """Look at a file and check it; return what went wrong, "" where all was well."""
    try:
        inspect_file(path)
    except SFTPlayError as error:
        if not error.what or not error.fix:
            return "a refusal without words"
    except Exception:  # noqa: BLE001 - what is looked for
        return traceback.format_exc()
    try:
        result = check_data(path)
    except Exception:  # noqa: BLE001 - what is looked for
        return traceback.format_exc()
    if result.verdict != "accept" and not result.messages:
        return f"{result.verdict} without words"
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{peak_bytes >> 20} MB resident" if peak_bytes > RESIDENT_BYTES else ""


def run_batch(numbers: range, known: Sequence[tuple[str, bytes]], folder: Path) -> None:
    """Run cases in this process; each file is kept until its case went well."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    for number in numbers:
        name, content = make_case(number, known)
        case = folder / f"{number}-{name}"
        case.write_bytes(content)
        signal.alarm(SECONDS_PER_CASE)
        trouble = try_case(case)
        signal.alarm(0)
        if trouble:
            case.with_name(f"{number}.txt").write_text(trouble)
        else:
            case.unlink()
        (folder / "last").write_text(str(number))


def in_a_process(work: Callable[[], None]) -> int:
    """Run a function in a fork; return the signal that ended it, 0 where none did."""
    child = os.fork()
    if child == 0:
        work()
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    known = seeds(args.files)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.environ["SFTPLAY_HOME"] = str(folder / "home")
    number, end = args.first, args.first + args.cases
    until = time.monotonic() + args.seconds
    while number < end and time.monotonic() < until:
        numbers = range(number, min(end, number + BATCH))
        (folder / "last").write_text(str(number - 1))
        code = in_a_process(lambda numbers=numbers: run_batch(numbers, known, folder))  # type: ignore[misc]
        number = int((folder / "last").read_text()) + 1
        if code:
            (folder / f"{number}.txt").write_text(f"the process ended with {code}")
            number += 1
    troubles = sorted(folder.glob("*.txt"))
    print(f"{number - args.first:,} cases of {len(known)} files, {len(troubles)} went wrong")
    for trouble in troubles:
        print(f"--- case {trouble.stem}: {trouble.read_text().strip()[-1500:]}")
    print(f"their files: {folder}" if troubles else "all were read or refused in words")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())

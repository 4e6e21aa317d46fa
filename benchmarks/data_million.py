"""Process a million rows and print seconds and peak memory.

Run: python benchmarks/data_million.py [ROWS] [jsonl|json|csv|parquet]
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.process import DataProgress, process_files
from sftplay_ui.engine.workspace import Workspace

WORDS = (
    "river", "planet", "copper", "window", "garden", "signal", "engine", "harbour", "method",
    "vector", "market", "letter", "forest", "number", "pattern", "summer", "winter", "valley",
    "castle", "butter", "needle", "button", "island", "mirror", "orange", "pepper", "rocket",
    "saddle", "temple", "tunnel", "velvet", "wagon", "yellow", "zebra", "anchor", "basket",
    "candle", "dragon", "effort", "fabric", "gather", "hammer", "invent", "jacket", "kettle",
    "ladder",
)  # fmt: skip


def sentence(seed: int, words: int) -> str:
    """Make a sentence that differs for every seed, without a random generator's cost."""
    parts = []
    for _ in range(words):
        seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
        parts.append(WORDS[(seed >> 33) % len(WORDS)])
    return " ".join(parts)


def row(number: int) -> dict[str, str]:
    """Make one row; every thousandth repeats an earlier one, every two-thousandth has no answer."""
    number = number - 1 if number % 1000 == 999 else number
    answer = "" if number % 2000 == 7 else f"The {sentence(number * 3 + 1, 36)}."
    return {
        "question": f"How does the {sentence(number, 9)} work in case {number}?",
        "answer": answer,
    }


def write_rows(path: Path, rows: int) -> None:
    """Write the raw file in the form its ending names."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema([("question", pyarrow.string()), ("answer", pyarrow.string())])
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for start in range(0, rows, 50_000):
                batch = [row(n) for n in range(start, min(rows, start + 50_000))]
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
        return
    with path.open("wb") as stream:
        if path.suffix == ".json":
            stream.write(b"[")
        elif path.suffix == ".csv":
            stream.write(b"question,answer\n")
        for number in range(rows):
            if path.suffix == ".csv":
                stream.write(
                    ",".join(f'"{text}"' for text in row(number).values()).encode() + b"\n"
                )
            else:
                separator = b"\n" if path.suffix == ".jsonl" else b",\n" * (number > 0)
                line = orjson.dumps(row(number))
                stream.write(line + separator if path.suffix == ".jsonl" else separator + line)
        if path.suffix == ".json":
            stream.write(b"]")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    kind = sys.argv[2] if len(sys.argv) > 2 else "jsonl"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"million.{kind}")
        write_rows(path, rows)
        marks: dict[str, float] = {}

        def mark(progress: DataProgress) -> None:
            marks.setdefault(progress.phase, time.perf_counter())

        config = RunConfig.model_validate({"data": {"raw_path": str(path)}})
        started, begun_cpu = time.perf_counter(), time.process_time()
        report = process_files(config, Workspace(Path(folder)), mark)
        seconds = time.perf_counter() - started
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{rows:,} rows of {kind} ({path.stat().st_size >> 20} MB): {seconds:.1f} s")
        print(f"  of one processor: {time.process_time() - begun_cpu:.1f} s")
        print(f"  peak memory {peak_bytes >> 20} MB, {report.kept:,} examples")
        for phase, begin in marks.items():
            print(f"  {phase} began after {begin - started:.1f} s")


if __name__ == "__main__":
    main()

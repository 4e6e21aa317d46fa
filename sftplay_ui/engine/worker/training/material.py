"""What a run learns from: examples read, rendered and tokenised, with what was cut or left out."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, RenderedExample, read_examples
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.events import Event, PhaseProgressed, PhaseStarted, Warned
from sftplay_ui.engine.resolve import scored_answers
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import TokenisedExample, Tokeniser
from sftplay_ui.engine.worker.phases import StopRequested, leave_if_asked
from sftplay_ui.engine.worker.training.token_cache import TokenTable, tokenised
from sftplay_ui.engine.workspace import Workspace


@dataclass(frozen=True)
class Material:
    """Training and validation examples as tokens; `system` is the system text all of them share."""

    train: TokenTable
    val: Sequence[TokenisedExample]
    questions: Sequence[Example | RenderedExample]
    system: str
    longest: int
    train_path: Path
    tokens: Choice


def read_material(
    config: RunConfig, run_dir: Path, template: ChatTemplate, tokeniser: Tokeniser
) -> Generator[Event, None, Material]:
    """Read and tokenise the examples of a run, telling what was cut or teaches nothing.

    Raises DataError where nothing is left to learn, and StopRequested when asked to stop.
    """
    workspace = Workspace.of_run(run_dir)
    path = workspace.resolve(config.data.train_path)
    val_path = workspace.resolve(config.data.val_path)
    watched = config.train.eval_strategy != "no" and val_path.is_file()
    if config.train.eval_strategy != "no" and not watched:
        what = f"There is no {workspace.shorten(val_path)}, so nothing is evaluated on the way."
        yield Warned(code="no_validation", what=what)
    limit = config.model.max_seq_len
    paths = [path, val_path] if watched else [path]
    yield PhaseStarted(phase="tokenise", total=sum(map(count_lines, paths)))
    tables: list[TokenTable] = []
    for each in paths:
        before = sum(map(len, tables))
        made = tokenised(each, template, tokeniser, limit)
        tables.append((yield from told(made, run_dir, before)))
    train, *rest = (table.teaching() for table in tables)
    val = rest[0] if rest else ()
    yield from tell_lost_breaks(tables, tokeniser)
    yield from tell_losses(tables, limit)
    if not train:
        raise DataError(
            f"{path} has no example with anything to learn"
            f"{f' within {limit} tokens' if len(tables[0]) else ''}.",
            "Raise model.max_seq_len, or process another file.",
        )
    asked = max(config.train.sample_prompts, scored_answers(config.train)) if watched else 0
    return Material(
        train=train,
        val=val,
        questions=list(islice(read_examples(val_path), asked)) if asked else [],
        system=common_system(tables[0].systems),
        longest=max(max(table.lengths) for table in (train, *rest) if len(table)),
        train_path=path,
        tokens=where_from(tables),
    )


def told(
    made: Generator[int, None, TokenTable], run_dir: Path, before: int
) -> Generator[Event, None, TokenTable]:
    """Tell how far tokenising is; honour a stop request on the way."""
    while True:
        try:
            done = next(made)
        except StopIteration as end:
            table: TokenTable = end.value
            return table
        yield PhaseProgressed(done=before + done)
        try:
            leave_if_asked(run_dir)
        except StopRequested:
            made.close()
            raise


def count_lines(path: Path) -> int:
    """Count a file's lines; a missing one has none, its reader words that."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        blocks = iter(partial(file.read, 1 << 20), b"")
        return sum(block.count(b"\n") for block in blocks)


def where_from(tables: Sequence[TokenTable]) -> Choice:
    """Say whether the tokens were there already."""
    found = sum(table.cached for table in tables)
    if found == len(tables):
        return Choice("tokens", "from the cache", "same examples, template and tokenizer as before")
    which = "one file of two was there" if found else "not seen before"
    return Choice("tokens", "made and kept", f"{which}; the next run with them begins sooner")


def tell_lost_breaks(tables: Sequence[TokenTable], tokeniser: Tokeniser) -> Iterator[Warned]:
    """Warn where the tokenizer turns line breaks into blanks, as that of T5 does."""
    broken = sum(int(table.breaks.sum()) for table in tables)
    if broken and "\n" not in tokeniser.decode(tokeniser.encode("a\nb")):
        what = (
            f"{broken} of {sum(map(len, tables))} examples have line breaks, which this model's "
            "tokenizer turns into blanks: lists, code and paragraphs will be answered as one line."
        )
        yield Warned(code="line_breaks", what=what)


def tell_losses(tables: Sequence[TokenTable], limit: int) -> list[Warned]:
    """Count what is too long and what teaches nothing, so that nothing is dropped in silence."""
    told = []
    total = sum(map(len, tables))
    cut = sum(int((table.cut_tokens > 0).sum()) for table in tables)
    if cut:
        ends = sum(int((table.cut_learned > 0).sum()) for table in tables)
        what = (
            f"{cut} of {total} examples are longer than {limit} tokens and are cut; "
            f"{ends} of them lose the end of an answer."
        )
        told.append(Warned(code="cut", what=what))
    empty = sum(int((table.taught == 0).sum()) for table in tables)
    if empty:
        what = f"{empty} of {total} examples have nothing left to learn and are left out."
        told.append(Warned(code="left_out", what=what))
    return told


def common_system(systems: Sequence[str | None]) -> str:
    """Give the system text that all examples share, else nothing."""
    return systems[0] or "" if len(systems) == 1 else ""

"""What a run learns from: examples read, rendered and tokenised, with what was cut or left out."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, RenderedExample, read_examples
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.events import Event, PhaseProgressed, PhaseStarted, Warned
from sftplay_ui.engine.resolve import scored_answers
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import TokenisedExample, Tokeniser, tokenise_stream
from sftplay_ui.engine.worker.phases import leave_if_asked
from sftplay_ui.engine.worker.training.batches import learned_count
from sftplay_ui.engine.workspace import Workspace

LOOK_EVERY = 256


@dataclass(frozen=True)
class Material:
    """Training and validation examples as tokens; `system` is the system text all of them share."""

    train: Sequence[TokenisedExample]
    val: Sequence[TokenisedExample]
    questions: Sequence[Example | RenderedExample]
    system: str
    longest: int
    train_path: Path


def read_material(
    config: RunConfig, run_dir: Path, template: ChatTemplate, tokeniser: Tokeniser
) -> Generator[Event, None, Material]:
    """Read and tokenise the examples of a run, telling what was cut or teaches nothing.

    Raises DataError where nothing is left to learn, and StopRequested when asked to stop.
    """
    workspace = Workspace.of_run(run_dir)
    path = workspace.resolve(config.data.train_path)
    examples = list(read_examples(path))
    val_path = workspace.resolve(config.data.val_path)
    watched = config.train.eval_strategy != "no" and val_path.is_file()
    if config.train.eval_strategy != "no" and not watched:
        what = f"There is no {workspace.shorten(val_path)}, so nothing is evaluated on the way."
        yield Warned(code="no_validation", what=what)
    val_examples = list(read_examples(val_path)) if watched else []
    yield PhaseStarted(phase="tokenise", total=len(examples) + len(val_examples))
    tokens: list[TokenisedExample] = []
    stream = tokenise_stream(
        [*examples, *val_examples], template, tokeniser, config.model.max_seq_len
    )
    while batch := list(islice(stream, LOOK_EVERY)):
        leave_if_asked(run_dir)
        tokens += batch
        yield PhaseProgressed(done=len(tokens))
    train = [example for example in tokens[: len(examples)] if learned_count(example)]
    val = [example for example in tokens[len(examples) :] if learned_count(example)]
    yield from tell_lost_breaks(tokens, tokeniser)
    yield from tell_losses(tokens, len(tokens) - len(train) - len(val), config.model.max_seq_len)
    if not train:
        raise DataError(
            f"{path} has no example with anything to learn"
            f"{f' within {config.model.max_seq_len} tokens' if examples else ''}.",
            "Raise model.max_seq_len, or process another file.",
        )
    return Material(
        train=train,
        val=val,
        questions=val_examples[: max(config.train.sample_prompts, scored_answers(config.train))],
        system=common_system(examples),
        longest=max(len(example.input_ids) for example in (*train, *val)),
        train_path=path,
    )


def tell_lost_breaks(tokens: Sequence[TokenisedExample], tokeniser: Tokeniser) -> Iterator[Warned]:
    """Warn where the tokenizer turns line breaks into blanks, as that of T5 does."""
    broken = sum("\n" in example.text for example in tokens)
    if broken and "\n" not in tokeniser.decode(tokeniser.encode("a\nb")):
        what = (
            f"{broken} of {len(tokens)} examples have line breaks, which this model's tokenizer "
            "turns into blanks: lists, code and paragraphs will be answered as one line."
        )
        yield Warned(code="line_breaks", what=what)


def tell_losses(tokens: Sequence[TokenisedExample], empty: int, limit: int) -> list[Warned]:
    """Count what is too long and what teaches nothing, so that nothing is dropped in silence."""
    told = []
    cut = [example for example in tokens if example.cut_tokens]
    if cut:
        ends = sum(example.cut_learned > 0 for example in cut)
        what = (
            f"{len(cut)} of {len(tokens)} examples are longer than {limit} tokens and are cut; "
            f"{ends} of them lose the end of an answer."
        )
        told.append(Warned(code="cut", what=what))
    if empty:
        what = f"{empty} of {len(tokens)} examples have nothing left to learn and are left out."
        told.append(Warned(code="left_out", what=what))
    return told


def common_system(examples: Sequence[Example | RenderedExample]) -> str:
    """Give the system text that all examples share, else nothing."""
    texts = {example.system if isinstance(example, Example) else None for example in examples}
    only = texts.pop() if len(texts) == 1 else None
    return only or ""

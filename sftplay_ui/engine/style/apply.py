"""One style for all examples: a system prompt or rule put into each, and files written with it.

`apply_style` is the whole of the matter; `style_files` does it for the processed splits and tells
how many existing answers break the rule. Rendering to text pairs is left to `rendered_files`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from sftplay_ui.engine.atomic_file import replace_all
from sftplay_ui.engine.config import RunConfig, StyleConfig
from sftplay_ui.engine.data.examples import Example, Message, RenderedExample, read_examples
from sftplay_ui.engine.errors import ConfigError, DataError
from sftplay_ui.engine.style.checks import Adherence, AdherenceCounter, answer_checks
from sftplay_ui.engine.style.presets import rule_text
from sftplay_ui.engine.workspace import Workspace

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitStyle:
    """What became of one split: how many examples, how many of them changed, and where they lie."""

    split: str
    rows: int
    changed: int
    path: str


@dataclass(frozen=True)
class StyleReport:
    """The account of `style_files`; `text` is the system prompt the examples were given."""

    text: str
    how: str
    splits: tuple[SplitStyle, ...]
    adherence: tuple[Adherence, ...]

    def to_json(self) -> dict[str, object]:
        """Return the object that `style --json` prints."""
        return {
            "system": self.text,
            "how": self.how,
            "rows": sum(split.rows for split in self.splits),
            "changed": sum(split.changed for split in self.splits),
            "splits": {split.split: asdict(split) for split in self.splits},
            "adherence": [asdict(found) | {"share": found.share} for found in self.adherence],
            "paths": {split.split: split.path for split in self.splits},
        }

    def to_text(self) -> str:
        """Return the report for people, a line for each fact."""
        lines = [f'System prompt ({self.how}): "{self.text}"']
        lines += [f"{s.path}: {s.changed} of {s.rows} examples changed" for s in self.splits]
        lines += [found.sentence for found in self.adherence]
        return "\n".join(lines)


def style_text(style: StyleConfig) -> str:
    """Return the system prompt a style asks for: the prompt, then the rule; empty for no style."""
    return "\n".join(part for part in (style.system.strip(), rule_text(style.rule)) if part)


def apply_style(
    example: Example | RenderedExample, style: StyleConfig
) -> Example | RenderedExample:
    """Give an example the style's system prompt; rendered pairs have none, so they stay."""
    text = style_text(style)
    if not text or isinstance(example, RenderedExample):
        return example
    has_system = example.system is not None
    system = _joined((example.system or "").strip(), text, style.how)
    turns = example.messages[1:] if has_system else example.messages
    return Example((Message("system", system), *turns))


def style_files(
    config: RunConfig,
    workspace: Workspace,
    *,
    source: Path | None = None,
    target: Path | None = None,
) -> StyleReport:
    """Write the processed splits with the style applied; never over the files that are read.

    Splits the style leaves out are copied as they are. All files appear together or none does.
    Raises ConfigError where there is no style or both folders are one, DataError where nothing is
    there to read.
    """
    source = source or workspace.data / "processed"
    target = target or workspace.data / "processed_with_style"
    style = config.style
    _check_demand(style, source, target)
    jobs = [
        _SplitJob(split, source / f"{split}.jsonl", target / f"{split}.jsonl", style)
        for split in SPLITS
        if (source / f"{split}.jsonl").is_file()
    ]
    if not jobs:
        raise DataError(f"{source} holds no examples.", "Process a file in the Data tab first.")
    adherence = AdherenceCounter(answer_checks(style_text(style)))
    target.mkdir(parents=True, exist_ok=True)
    replace_all({job.target: job.lines(adherence) for job in jobs})
    # a split of an earlier styling would be taken for one of this
    for split in set(SPLITS) - {job.split for job in jobs}:
        (target / f"{split}.jsonl").unlink(missing_ok=True)
    return StyleReport(
        text=style_text(style),
        how=style.how,
        splits=tuple(
            SplitStyle(job.split, job.rows, job.changed, workspace.shorten(job.target))
            for job in jobs
        ),
        adherence=adherence.result(),
    )


def adherence_of(path: Path, style: StyleConfig, limit: int) -> tuple[Adherence, ...]:
    """Tell how the answers of the first `limit` examples of a file keep to a style's rule."""
    counter = AdherenceCounter(answer_checks(style_text(style)))
    for row, example in enumerate(islice(read_examples(path), limit), start=1):
        for answer in _answers(example):
            counter.add(answer, row)
    return counter.result()


class _SplitJob:
    """Streams one split and counts on the way; the counts are whole when the stream has ended."""

    def __init__(self, split: str, source: Path, target: Path, style: StyleConfig) -> None:
        self.split = split
        self.source = source
        self.target = target
        self.style = style
        self.rows = 0
        self.changed = 0

    def lines(self, adherence: AdherenceCounter) -> Iterator[str]:
        applies = self.split in self.style.splits
        for example in read_examples(self.source):
            styled = apply_style(example, self.style) if applies else example
            self.rows += 1
            self.changed += styled != example
            if applies:
                for answer in _answers(example):
                    adherence.add(answer, self.rows)
            yield json.dumps(styled.to_record(), ensure_ascii=False) + "\n"


def _joined(existing: str, text: str, how: str) -> str:
    if how == "override" or not existing:
        return text
    # a text that is there already is not said twice
    if how == "inject" or existing == text or existing.endswith("\n" + text):
        return existing
    return f"{existing}\n{text}"


def _answers(example: Example | RenderedExample) -> list[str]:
    if isinstance(example, RenderedExample):
        return [example.target.strip()]
    return [message.content for message in example.messages if message.role == "assistant"]


def _check_demand(style: StyleConfig, source: Path, target: Path) -> None:
    if not style_text(style):
        raise ConfigError(
            "style.system and style.rule are both empty, so there is no style to apply.",
            "Set one of them, for example style.rule: concise.",
        )
    if source.resolve() == target.resolve():
        raise ConfigError(
            f"The style would be written over the examples it is read from ({source}).",
            "Name another folder for the styled examples.",
        )

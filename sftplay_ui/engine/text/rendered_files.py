"""Examples as plain text pairs: what a model reads, and what it has to write.

A pair holds one answer; a conversation with several becomes several pairs, so everything that is
learned from the conversation is learned from its pairs. The end-of-turn mark is not written into
the target: it is the template's affair, and tokenising a pair puts it back.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.atomic_file import replace_all
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, RenderedExample, read_examples
from sftplay_ui.engine.errors import DataError, TemplateError
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import render_example
from sftplay_ui.engine.workspace import Workspace


@dataclass(frozen=True)
class RenderReport:
    """The account of `render_files`: examples read and pairs written, split by split."""

    template: str
    reason: str
    rows: dict[str, int]
    pairs: dict[str, int]
    paths: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """Return the object that `render --json` prints."""
        return {
            "template": self.template,
            "reason": self.reason,
            "rows": sum(self.rows.values()),
            "pairs": self.pairs,
            "paths": self.paths,
        }

    def to_text(self) -> str:
        """Return the report for people, a line for each file."""
        lines = [f"Rendered with {self.template}: {self.reason}"]
        lines += [
            f"{path}: {self.pairs[split]} pairs of {self.rows[split]} examples"
            for split, path in self.paths.items()
        ]
        return "\n".join(lines)


def render_files(config: RunConfig, workspace: Workspace, template: ChatTemplate) -> RenderReport:
    """Write the splits named in the configuration as pairs to `data/rendered`, all or none.

    Raises DataError where there is nothing to read, TemplateError with `file:number` of the example
    the template refuses.
    """
    folder = workspace.data / "rendered"
    data = config.data
    named = {"train": data.train_path, "val": data.val_path, "test": data.test_path}
    sources = {split: workspace.resolve(path) for split, path in named.items()}
    sources = {split: path for split, path in sources.items() if path.is_file()}
    if not sources:
        raise DataError(
            f"None of {', '.join(named.values())} exists.", "Process a file in the Data tab first."
        )
    rows, pairs = dict.fromkeys(sources, 0), dict.fromkeys(sources, 0)

    def lines(split: str, path: Path) -> Iterator[str]:
        for example in read_examples(path):
            rows[split] += 1
            for pair in _pairs(example, template, f"{workspace.shorten(path)}:{rows[split]}"):
                pairs[split] += 1
                yield json.dumps(pair.to_record(), ensure_ascii=False) + "\n"

    folder.mkdir(parents=True, exist_ok=True)
    targets = {split: folder / f"{split}.jsonl" for split in sources}
    replace_all({targets[split]: lines(split, path) for split, path in sources.items()})
    for split in set(named) - set(sources):
        (folder / f"{split}.jsonl").unlink(missing_ok=True)
    paths = {split: workspace.shorten(path) for split, path in targets.items()}
    return RenderReport(template.name, template.reason, rows, pairs, paths)


def rendered_pairs(example: Example, template: ChatTemplate) -> list[RenderedExample]:
    """Return one pair for each answer of a conversation."""
    text, spans = render_example(example, template)
    mark = template.turn_end.mark
    return [
        RenderedExample(text[:start], text[start:end].removesuffix(mark)) for start, end in spans
    ]


def _pairs(
    example: Example | RenderedExample, template: ChatTemplate, place: str
) -> list[RenderedExample]:
    if isinstance(example, RenderedExample):
        return [example]
    try:
        return rendered_pairs(example, template)
    except TemplateError as error:
        raise TemplateError(f"{place}: {error.what}", error.fix) from error

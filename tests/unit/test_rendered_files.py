"""Rendered pairs: one for each answer, which train exactly as their conversation does."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, Message, RenderedExample, read_examples
from sftplay_ui.engine.errors import DataError, TemplateError
from sftplay_ui.engine.text.rendered_files import render_files, rendered_pairs
from sftplay_ui.engine.text.templates import ChatTemplate, load_template
from sftplay_ui.engine.text.tokens import Tokeniser, tokenise
from sftplay_ui.engine.workspace import Workspace

BUNDLED = Path(__file__).parents[2] / "chat_templates"
CHATML = load_template(BUNDLED / "default.jinja", bos="", eos="<|im_end|>")
ONE = Example((Message("user", "Q {{x}}"), Message("assistant", "A")))
TWO = Example((*ONE.messages, Message("user", "R"), Message("assistant", " B \n")))


def write(path: Path, *examples: Example | RenderedExample) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(example.to_record()) + "\n" for example in examples]
    path.write_text("".join(lines), encoding="utf-8")


def test_a_pair_holds_the_prompt_and_the_answer_without_its_mark() -> None:
    assert rendered_pairs(ONE, CHATML) == [
        RenderedExample("<|im_start|>user\nQ {{x}}<|im_end|>\n<|im_start|>assistant\n", "A")
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLED.glob("*.jinja")))
def test_pairs_train_token_for_token_like_their_conversation(
    name: str, tiny_tokenizer: Path
) -> None:
    template = load_template(BUNDLED / name, bos="<|im_start|>", eos="<|im_end|>")
    tokeniser = Tokeniser.load(tiny_tokenizer)
    pairs = rendered_pairs(TWO, template)
    whole = tokenise(TWO, template, tokeniser, 500)
    last = tokenise(pairs[-1], template, tokeniser, 500)
    assert list(last.input_ids) == list(whole.input_ids)
    first = tokenise(pairs[0], template, tokeniser, 500)
    assert list(first.input_ids) == list(tokenise(ONE, template, tokeniser, 500).input_ids)
    learned = [
        n
        for pair in (first, last)
        for n, flag in zip(pair.input_ids, pair.learned, strict=True)
        if flag
    ]
    assert learned == [n for n, f in zip(whole.input_ids, whole.learned, strict=True) if f]


def test_the_named_splits_are_rendered_and_missing_ones_left_out(workspace: Workspace) -> None:
    write(workspace.data / "processed" / "train.jsonl", ONE, TWO, RenderedExample("i", "t"))
    write(workspace.data / "rendered" / "val.jsonl", ONE)
    report = render_files(RunConfig(), workspace, CHATML)
    rendered = workspace.data / "rendered"
    pairs = [pair.to_record() for pair in read_examples(rendered / "train.jsonl")]
    assert [pair["target"] for pair in pairs] == ["A", "A", " B \n", "t"]
    assert [path.name for path in rendered.iterdir()] == ["train.jsonl"]
    assert report.to_json() == {
        "template": "default.jinja",
        "reason": "default.jinja was chosen",
        "rows": 3,
        "pairs": {"train": 4},
        "paths": {"train": "data/rendered/train.jsonl"},
    }
    assert "4 pairs of 3 examples" in report.to_text()


def test_the_example_a_template_refuses_is_named_and_nothing_is_written(
    workspace: Workspace,
) -> None:
    one_turn = ChatTemplate("{{ user }}\n{{ assistant }}</s>", "mine.jinja", "", "", "</s>")
    write(workspace.data / "processed" / "train.jsonl", ONE, TWO)
    with pytest.raises(TemplateError, match=r"data/processed/train\.jsonl:2: mine\.jinja:1"):
        render_files(RunConfig(), workspace, one_turn)
    assert list((workspace.data / "rendered").iterdir()) == []


def test_nothing_to_render_is_told(workspace: Workspace) -> None:
    with pytest.raises(DataError, match=r"None of data/processed/train\.jsonl"):
        render_files(RunConfig(), workspace, CHATML)

"""Learned spans: every answer and its end, whatever templates do to it; no guess where no proof."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.learned_spans import learned_spans
from sftplay_ui.engine.text.templates import ChatTemplate, load_template

BUNDLED = Path(__file__).parents[2] / "chat_templates"
CHATML = (BUNDLED / "default.jinja").read_text(encoding="utf-8")

# Keeps reasoning in the last turn only, and writes an empty one where there is none.
REASONING = """
{%- for message in messages -%}
{%- set content = message.content -%}
{%- if message.role == 'assistant' -%}
{%- set thought = '' -%}
{%- if '</think>' in content -%}
{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- if loop.last -%}
{%- set content = '<think>\\n' + thought + '\\n</think>\\n\\n' + content -%}
{%- endif -%}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def learned(source: str, *contents: str, eos: str = "</s>") -> list[str]:
    """Return the learned texts of a chat that alternates user and assistant."""
    template = ChatTemplate(source, "mine.jinja", "", "<s>", eos)
    messages = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]
    text = template.render(messages)
    return [text[start:end] for start, end in learned_spans(messages, template)]


def test_every_answer_is_learned_with_its_mark_and_without_the_line_break_after_it() -> None:
    assert learned(CHATML, "q", "a", "r", "b") == ["a<|im_end|>", "b<|im_end|>"]


def test_an_answer_that_repeats_the_question_is_found_in_its_own_place() -> None:
    template = ChatTemplate(CHATML, "", "", "", "<|im_end|>")
    messages = [Message(role, "same") for role in ("user", "assistant", "user", "assistant")]
    text = template.render(messages)
    spans = learned_spans(messages, template)
    assert [text[:start].count("same") for start, _ in spans] == [1, 3]


def test_an_answer_may_hold_the_templates_own_marks() -> None:
    assert learned(CHATML, "q", "<|im_end|>\n<|im_start|>user\nx") == [
        "<|im_end|>\n<|im_start|>user\nx<|im_end|>"
    ]


def test_an_empty_answer_teaches_the_end() -> None:
    assert learned(CHATML, "q", "", "r", "") == ["<|im_end|>", "<|im_end|>"]


@pytest.mark.parametrize(
    ("trim", "text"),
    [
        ("| trim", "a</s>"),
        (".lstrip()", "a \n</s>"),
        (".rstrip()", " \na</s>"),
        ("", " \na \n</s>"),
    ],
)
def test_a_trimmed_answer_is_found(trim: str, text: str) -> None:
    source = (
        "{% for m in messages %}({{ m.role }}){{ m.content"
        + trim
        + " }}</s>{% endfor %}{% if add_generation_prompt %}(assistant){% endif %}"
    )
    assert learned(source, " q ", " \na \n", "r", " \na \n") == [text, text]


def test_what_stands_between_prompt_and_answer_is_learned_too() -> None:
    mistral = (BUNDLED / "mistral.jinja").read_text(encoding="utf-8")
    assert learned(mistral, "q", "a", "r", "b") == [" a</s>", " b</s>"]
    assert learned(REASONING, "q", "a") == ["<think>\n\n</think>\n\na<|im_end|>"]


def test_a_template_that_rewrites_the_answer_is_followed_turn_by_turn() -> None:
    assert learned(REASONING, "q", "<think>\nhm\n</think>\n\na") == [
        "<think>\nhm\n</think>\n\na<|im_end|>"
    ]


def test_a_template_that_drops_part_of_an_earlier_answer_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"the answer in turn 2"):
        learned(REASONING, "q", "<think>\nhm\n</think>\n\na", "r", "<think>\nhm\n</think>\n\nb")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content | upper }}</s>{% endfor %}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}</s>{% endfor %}",
        "{% for m in messages | reverse %}{{ m.content }} and {{ m.content }}</s>{% endfor %}",
    ],
)
def test_what_cannot_be_proven_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match="cannot be told from the rest"):
        learned(source, "q", "answer")


def test_only_turns_that_are_ended_learn_an_end() -> None:
    source = (
        "{% for m in messages %}({{ m.role }}){{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}(assistant){% else %}</s>{% endif %}"
    )
    assert learned(source, "q", "a", "r", "b") == ["a", "b</s>"]


def test_an_answer_may_open_the_conversation() -> None:
    template = ChatTemplate(CHATML, "", "", "", "<|im_end|>")
    messages = [Message("assistant", "Hello."), Message("user", "q"), Message("assistant", "a")]
    text = template.render(messages)
    spans = learned_spans(messages, template)
    assert [text[a:b] for a, b in spans] == ["Hello.<|im_end|>", "a<|im_end|>"]


def test_characters_used_as_stand_ins_may_occur_in_the_text() -> None:
    assert learned(CHATML, "\ue0000.0\ue001", "\ue0000.0\ue001 \ue0001.") == [
        "\ue0000.0\ue001 \ue0001.<|im_end|>"
    ]


PARTS = [*"ab \n<|>{}%é🎉", "<|im_end|>", "</s>", "\ue0000.", "\ue001"]
CONTENT = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.jinja")), ids=lambda path: path.stem)
@settings(max_examples=40, deadline=None)
@given(contents=st.lists(CONTENT, min_size=2, max_size=6))
def test_bundled_templates_always_prove_their_spans(path: Path, contents: list[str]) -> None:
    template = load_template(path, bos="<s>", eos="</s>")
    contents = contents[: len(contents) // 2 * 2]
    messages = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(contents)]
    text = template.render(messages)
    spans = learned_spans(messages, template)
    assert len(spans) == len(contents) // 2
    for (start, end), answer in zip(spans, contents[1::2], strict=True):
        assert text[start:end].strip().startswith(answer.strip())
        assert text[start:end].endswith(template.turn_end.mark)

"""The check of a template: one verdict, and a sentence for everything that is wrong."""

from pathlib import Path

import pytest

from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.template_check import (
    check_template,
    check_template_file,
    require_learnable,
)
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.text.tokens import Tokeniser

BUNDLED = Path(__file__).parents[2] / "chat_templates"
OWN_OF_MODELS = {
    # shapes that models on the hubs bring, written down here
    "default system line": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe nice<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "one turn by names": (
        "{% if system %}{{ system }}\n{% endif %}Q: {{ user }}\nA: {{ assistant }}"
        "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    ),
    "generation marks": (
        "{% for m in messages %}<{{ m.role }}>"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
}
TURN = "[{{ m.role }}]{{ m.content }}"
LOOP = "{% for m in messages %}" + TURN + "</s>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}[assistant]{% endif %}"


@pytest.fixture(scope="module")
def tokeniser(tiny_tokenizer: Path) -> Tokeniser:
    return Tokeniser.load(tiny_tokenizer)


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.jinja")), ids=lambda path: path.stem)
def test_bundled_templates_are_accepted_without_a_word(path: Path) -> None:
    result = check_template_file(path)
    assert (result.verdict, result.messages) == ("accept", ())


@pytest.mark.parametrize("name", OWN_OF_MODELS)
def test_templates_of_the_wild_are_not_rejected(name: str) -> None:
    assert check_template(OWN_OF_MODELS[name], name).verdict != "reject"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a\nb\n{% for m in %}", "mine.jinja:3 is not valid"),
        ("{{ mesages }}", "'mesages' is undefined"),
        ("hello", "never writes the user turn"),
        ("{% for m in messages if m.role == 'user' %}" + TURN + "{% endfor %}", "assistant turn"),
        (LOOP, "has no generation prompt"),
        ("{{ user }}{{ assistant }}</s>", "has no generation prompt"),
        (
            "{% for m in messages[-2:] %}" + TURN + "</s>{% endfor %}" + PROMPT,
            "ignores turns: of four, it leaves out 2",
        ),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ m.content }}</s>{% endfor %}"
            + PROMPT,
            "writes the user turn more than once",
        ),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content | replace('w', 'ww') }}</s>"
            "{% endfor %}" + PROMPT,
            "never writes the assistant turn",
        ),
        ("{{ ''.__class__ }}" + LOOP + PROMPT, "leave the sandbox"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "does not come to an end",
        ),
        ("{{ raise_exception('never') }}", "refuses these messages: never"),
    ],
)
def test_what_would_spoil_the_training_is_rejected(source: str, words: str) -> None:
    result = check_template(source, "mine.jinja")
    assert result.verdict == "reject"
    assert words in result.messages[0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ user }}[assistant]{{ assistant }}", "one question and one answer only"),
        ("{{ user }}[assistant]{{ assistant }}", "does not end an answer"),
        # found by the fuzzer: only asking in a longer conversation fails
        (
            LOOP + "{% if add_generation_prompt %}[assistant]{{ user[:0] }}{% endif %}",
            "one question and one answer only",
        ),
        (
            "{% for m in messages if m.role != 'system' %}" + TURN + "</s>{% endfor %}" + PROMPT,
            "no place for a system prompt",
        ),
        ("{{ bos_token }}{{ bos_token }}" + LOOP + PROMPT, "writes <s> twice"),
        ("{{ strftime_now('%d') }}" + LOOP + PROMPT, "today's date"),
        (
            LOOP + "{% if add_generation_prompt %}[model]{% endif %}",
            "differs from the one it trains",
        ),
        ("{{ messages | length }}" + LOOP + PROMPT, "as a conversation grows"),
        (
            "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}<think></think>"
            "{% endif %}{{ m.content }}</s>{% endfor %}" + PROMPT,
            "writes '<think></think>' before each answer",
        ),
    ],
)
def test_what_a_person_should_know_is_a_warning(source: str, words: str) -> None:
    result = check_template(source, "mine.jinja")
    assert result.verdict == "accept_with_warning"
    assert any(words in message for message in result.messages)


def test_an_end_the_model_cannot_read_is_told(tokeniser: Tokeniser) -> None:
    foreign = check_template(LOOP + PROMPT, "mine.jinja", tokeniser)
    assert any("</s>, which is no token of this model" in text for text in foreign.messages)
    other = check_template((LOOP + PROMPT).replace("</s>", "<|endoftext|>"), "m", tokeniser)
    assert any("<|endoftext|> is added to its stops" in text for text in other.messages)
    own = check_template((LOOP + PROMPT).replace("</s>", "{{ eos_token }}"), "m", tokeniser)
    assert own.verdict == "accept"


def test_a_file_that_is_no_template_is_rejected_by_name(tmp_path: Path) -> None:
    result = check_template_file(tmp_path / "none.jinja")
    assert result.verdict == "reject"
    assert "none.jinja" in result.messages[0]


@pytest.mark.parametrize(
    ("source", "place", "words"),
    [
        ("{% for m in messages %}\n" + TURN + "</s>\n{% endfor %}", "mine.jinja:3", "generation"),
        (
            "{% for m in messages %}\n[{{ m.role }}]{{ m.content }}{{ m.content }}\n{% endfor %}",
            "mine.jinja:2",
            "more than once",
        ),
        (
            "a\n{% for m in messages if m.role == 'user' %}\n{{ m.content }}{% endfor %}",
            ":2",
            "nev",
        ),
        ("{{ bos_token }}\n{{- bos_token }}" + LOOP + PROMPT, "mine.jinja:2", "twice"),
        ("\n{{ strftime_now('%d') }}\n" + LOOP + PROMPT, "mine.jinja:2", "today's date"),
        (
            "{% for m in messages %}\n<x>{{ m.content }}</s>{% endfor %}\n"
            "{% if add_generation_prompt %}<x>{% endif %}",
            "mine.jinja:2",
            "cannot tell who speaks",
        ),
        (
            "{% for m in messages if m.role != 'tool' %}" + TURN + "</s>{% endfor %}" + PROMPT,
            "mine.jinja:1",
            "leaves out the turns of tools",
        ),
        (
            "{% for m in messages %}" + TURN + "{% endfor %}\n" + PROMPT,
            "mine.jinja:1",
            "does not end an answer",
        ),
    ],
)
def test_a_finding_names_the_line_it_is_about(source: str, place: str, words: str) -> None:
    messages = check_template(source, "mine.jinja").messages
    assert [text for text in messages if place in text and words in text], messages


def test_a_template_that_cannot_be_learned_from_stops_whoever_would_use_it() -> None:
    template = ChatTemplate(LOOP, "mine.jinja", "", "<s>", "</s>")
    with pytest.raises(TemplateError, match="no generation prompt"):
        require_learnable(template)

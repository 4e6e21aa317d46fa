"""The meter: a template that passed its trial still cannot hang or fill the process it runs in."""

import pytest

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.template_check import check_template
from sftplay_ui.engine.text.templates import ChatTemplate

GOOD = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
BOMBS = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "filtered loop": "{% for a in range(9999) %}{% for b in range(9999) if no %}{% endfor %}"
    "{% endfor %}",
    "constant text": "{% set x %}{% for n in range(99999) %}"
    + "x" * 9000
    + "{% endfor %}{% endset %}",
    "doubled text": "{% for n in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
    "added text": "{% for n in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
    "nested lists": "{% for n in range(99) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t }}",
    "nested dicts": "{% for n in range(99) %}{% set ns.t = {1: ns.t, 2: ns.t} %}{% endfor %}",
    "numbers": "{% set ns.t = 9 %}{% for n in range(60) %}{% set ns.t = ns.t * ns.t %}{% endfor %}",
    "power": "{{ 9 ** 60 ** 60 }}",
    "repeated": "{{ 'x' * 10 ** 9 }}",
    "replace": "{% set x = 'a' * 9999 %}{{ x.replace('a', x) | replace('a', x) }}",
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "method join": "{{ ('x' * 99999).join(['a'] * 99999) }}",
    "center": "{{ 'x'.center(999999999) }}",
    "padding": "{{ '%999999999d' % 1 }}",
    "format": "{{ '{:>999999999}'.format(1) }}",
    "format filter": "{{ '%*d' | format(999999999, 1) }}",
    "indent": "{{ messages | tojson(indent=99999999) }}",
    "bytes": "{{ (1).to_bytes(999999999, 'big') }}",
    "slice": "{{ messages | slice(999999999) | list }}",
    "recursion": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "recursive loop": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "lazy filters": "{% for n in range(9999) %}{{ range(99999) | select | max }}{% endfor %}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_that_the_trial_never_saw_is_refused_with_its_line(bomb: str) -> None:
    hidden = "{% if messages | length > 9 %}\n{% set ns = namespace(t='x') %}" + BOMBS[bomb]
    source = hidden + "{% endif %}" + GOOD
    assert check_template(source, "sly.jinja").verdict == "accept"
    template = ChatTemplate(source, "sly.jinja", "", "<s>", "</s>")
    turns = [Message(("user", "assistant")[n % 2], "x") for n in range(10)]
    with pytest.raises(TemplateError, match=r"sly\.jinja:2 "):
        template.render(turns)


def test_long_honest_conversations_are_affordable() -> None:
    template = ChatTemplate(GOOD, "good.jinja", "", "<s>", "</s>")
    turns = [Message(("user", "assistant")[n % 2], f"turn {n} " * 40) for n in range(4000)]
    assert len(template.render(turns)) > 1_000_000


def test_a_large_document_may_be_cut_and_joined_by_its_template() -> None:
    source = GOOD.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1].strip() | trim }}")
    template = ChatTemplate(source, "good.jinja", "", "<s>", "</s>")
    text = template.render([Message("user", "word " * 400_000), Message("assistant", "ok")])
    assert text.endswith("<assistant>ok</s>")

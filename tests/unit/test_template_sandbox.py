"""The sandbox: what templates may use, what they may not, and how bombs end."""

import json

import pytest

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.template_sandbox import chat_values, render_source
from sftplay_ui.engine.text.template_trial import try_in_child

CHAT = (Message("user", "Why?"), Message("assistant", "So."))


def render(source: str, messages: tuple[Message, ...] = CHAT, limit: int = 1000) -> str:
    values = chat_values(messages, add_generation_prompt=False, bos="<s>", eos="</s>")
    return render_source(source, values, limit=limit, name="mine.jinja")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if tools %}t{% endif %}{{ bos_token }}", "<s>"),
        ("{% if nobody %}x{% else %}y{% endif %}", "y"),
        ("{% if tools is defined and tools is not none %}x{% else %}y{% endif %}", "y"),
        ("{% for call in messages[0].tool_calls %}x{% endfor %}y", "y"),
        ("a\n  {% generation %}b{% endgeneration %}\nc", "a\nbc"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", "x"),
        (
            "{{ messages | tojson }}",
            json.dumps([{"role": m.role, "content": m.content} for m in CHAT]),
        ),
        ("{{ {'k': '<é>'} | tojson }}", '{"k": "<é>"}'),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ system }}|{{ user }}|{{ assistant }}", "|Why?|So."),
        ("{% set ns = namespace(n=1) %}{% set ns.n = 2 %}{{ ns.n }}", "2"),
    ],
)
def test_templates_get_what_model_hubs_give_them(source: str, text: str) -> None:
    assert render(source) == text


def test_one_turn_names_are_missing_in_longer_conversations() -> None:
    with pytest.raises(TemplateError, match=r"mine\.jinja:2 uses something it is not given.*user"):
        render("\n{{ user }}", (*CHAT, *CHAT))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a\nb {% if %}", "mine.jinja:2 is not valid"),
        ("a\n{{ mesages }}", "mine.jinja:2 uses something it is not given: 'mesages' is undefined"),
        ("{{ messages[0].contnt }}", "has no attribute 'contnt'"),
        (
            "a\n\n{{ raise_exception('No tools here') }}",
            "mine.jinja:3 refuses these messages: No tools",
        ),
        ("{{ messages[0].content + 1 }}", "mine.jinja:1 fails"),
        ("{{ 1 / 0 }}", "mine.jinja:1 fails"),
        ("{{ ''.__class__.__mro__ }}", "mine.jinja:1 tries to leave the sandbox"),
        ("{{ messages.append(1) }}", "tries to leave the sandbox"),
        ("\n{% include 'x' %}", "mine.jinja:2 is not valid: a chat template cannot bring in other"),
        ("{{ 'x' * 10000000 }}", "mine.jinja:1 does not come to an end"),
        ("{{ 10 ** 100000000 }}", "mine.jinja:1 does not come to an end"),
        ("{% for n in range(99999) %}xxxxxxxxxxx{% endfor %}", "writes more than 1,000 characters"),
        ("{{ messages }}" + " " * 64_000, "larger than 64 kB"),
    ],
)
def test_a_fault_is_told_with_its_line(source: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert words in caught.value.what


BOMBS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(t='x') %}{% for a in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "{% set n = namespace(t=[1]) %}{% for a in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "{{ '%99999999999d' % 1 }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for n in range(99999) %}" + "x" * 100 + "{% endfor %}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_a_bomb_ends_in_the_child(source: str) -> None:
    with pytest.raises(TemplateError, match=r"bomb\.jinja"):
        try_in_child(source, "bomb.jinja")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ (messages | map(attribute='__class__') | list)[0].mro() }}",
        "{% for %}",
    ],
)
def test_an_escape_is_refused_by_the_child(source: str) -> None:
    with pytest.raises(TemplateError, match=r"mine\.jinja"):
        try_in_child(source, "mine.jinja")


def test_a_template_that_is_merely_choosy_passes_the_child() -> None:
    try_in_child("{{ raise_exception('never') }}", "choosy.jinja")
    try_in_child("{{ user }}", "one-turn.jinja")

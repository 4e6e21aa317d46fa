"""The sandbox: what templates may use, what they may not, and how bombs end."""

import json

import pytest

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.template_sandbox import chat_values, render_source

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
        # found by the fuzzer
        ("\n{% break %}", "mine.jinja:2 is not valid: break stands outside a loop"),
        (
            "{% for m in messages %}{% macro q() %}\n{% continue %}{% endmacro %}{% endfor %}",
            ":2 is",
        ),
        ("\n{{ 1e999 }}", "mine.jinja:2 is not valid: the number is too large"),
        ("{{ 'inf' | float * 2 }}{{ 1e308 / 1e-308 }}{{ nobody.x }}", "mine.jinja"),
        ("\n\n{{ '\\ud800' }}", "mine.jinja:3 is not valid: the text holds half a character"),
        ("{{ '%c' % 55296 }}", "holds half a character"),
        ("a\n\ud800", "mine.jinja:2 holds half a character"),
        ("{{ 'x' | truncate(1) }}", "mine.jinja:1 fails"),
        ("\n{% filter default(nobody, true) %}{% endfilter %}", "something it is not given"),
        ("{% if 1 %}" * 3000, "mine.jinja"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deeply"),
    ],
)
def test_a_fault_is_told_with_its_line(source: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert words in caught.value.what

"""The trial in a process of its own: bombs and escapes end there, and no process stays."""

import psutil
import pytest

from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.template_trial import try_in_child

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
    before = set(psutil.Process().children(recursive=True))  # of other tests, such as a browser
    with pytest.raises(TemplateError, match=r"bomb\.jinja"):
        try_in_child(source, "bomb.jinja")
    assert set(psutil.Process().children(recursive=True)) <= before


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

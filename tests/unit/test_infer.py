"""The questions of `infer --mode batch`: what is read, and what is refused with its line."""

from pathlib import Path

import pytest

from sftplay_ui.commands.infer import read_questions
from sftplay_ui.engine.errors import DataError


def test_questions_are_read_as_text_as_rows_and_as_conversations(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(
        'Why?\n"How?"\n{"system": "Be brief.", "user": "Who?"}\n\n'
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
        encoding="utf-8",
    )
    found = [[(m.role, m.content) for m in messages] for messages in read_questions(path)]
    assert found == [
        [("user", "Why?")],
        [("user", "How?")],
        [("system", "Be brief."), ("user", "Who?")],
        [("user", "a")],
    ]


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ('{"role": "wizard", "content": "x"}', "wizard"),
        ('{"role": null, "content": "x"}', "None"),
        ('{"role": "user", "content": 7}', "no model can read"),
    ],
)
def test_a_turn_no_model_can_read_is_refused_with_its_line(
    tmp_path: Path, turn: str, words: str
) -> None:
    path = tmp_path / "questions.jsonl"
    last = '{"role": "user", "content": "y"}'
    path.write_text(f'Why?\n{{"messages": [{turn}, {last}]}}\n', encoding="utf-8")
    with pytest.raises(DataError, match=rf"questions\.jsonl:2 .*{words}"):
        list(read_questions(path))

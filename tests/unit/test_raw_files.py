"""Raw files a person brings are kept, once, under names that are safe."""

from pathlib import Path

import pytest

from sftplay_ui.engine.data.raw_files import keep_copy, keep_pasted
from sftplay_ui.engine.data.readers import open_source
from sftplay_ui.engine.data.rows import RawRow
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.workspace import Workspace


def test_the_same_content_is_kept_once_and_another_beside_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("q,a\n1,2\n")
    first = keep_copy(tmp_path / "a.csv", workspace)
    assert keep_copy(tmp_path / "a.csv", workspace) == first
    (tmp_path / "a.csv").write_text("q,a\n3,4\n")
    assert keep_copy(tmp_path / "a.csv", workspace).name == "a-2.csv"
    assert first.read_text() == "q,a\n1,2\n"


def test_a_name_with_signs_of_its_own_is_made_plain(workspace: Workspace, tmp_path: Path) -> None:
    odd = tmp_path / "we:ird*na|me .csv"
    odd.write_text("q,a\n1,2\n")
    kept = keep_copy(odd, workspace)
    assert kept.parent == workspace.data / "raw"
    assert kept.name == "we_ird_na_me .csv"


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "Why?", "answer": "So."}\n{"question": "How?", "answer": "Thus."}',
        '[{"question": "Why?", "answer": "So."}, {"question": "How?", "answer": "Thus."}]',
        "question,answer\nWhy?,So.\nHow?,Thus.",
        "question\tanswer\nWhy?\tSo.\nHow?\tThus.",
        "Q: Why?\nA: So.\n\nQ: How?\nA: Thus.",
    ],
)
def test_pasted_text_of_any_form_is_read(workspace: Workspace, text: str) -> None:
    rows = open_source(keep_pasted(text, workspace)).rows()
    assert [row.value for row in rows if isinstance(row, RawRow)] == [
        {"question": "Why?", "answer": "So."},
        {"question": "How?", "answer": "Thus."},
    ]


def test_pasting_nothing_is_refused_and_pasting_twice_kept_once(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="Nothing was pasted"):
        keep_pasted(" \n", workspace)
    one = keep_pasted("Q: a\nA: b", workspace)
    assert keep_pasted("Q: a\nA: b", workspace) == one
    assert keep_pasted("Q: a\nA: c", workspace) != one
    assert sorted(p.name for p in (workspace.data / "raw").iterdir()) == [
        "pasted-2.txt",
        "pasted.txt",
    ]

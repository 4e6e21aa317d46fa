"""Data's handlers, called without a browser."""

from pathlib import Path

import pytest

from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs import data_tab
from sftplay_ui.tabs.data_files import ROLES, checked_file, raw_files
from sftplay_ui.tabs.data_tab import DataTab
from sftplay_ui.tabs.data_view import histogram

CAPITALS = "Frage;Antwort\n" + "".join(
    f"What is the capital of Land {n}?;City {n}\n" for n in range(40)
)
ELEMENTS = "symbol\tnumber\telement\n" + "".join(f"S{n}\t{n}\tElement {n}\n" for n in range(40))
NO_ROLES = [""] * len(ROLES)


@pytest.fixture
def tab(workspace: Workspace) -> DataTab:
    return DataTab(workspace, LiveRuns(workspace))


def bring(workspace: Workspace, name: str, text: str) -> str:
    path = workspace.data / "raw" / name
    path.write_text(text, encoding="utf-8")
    return f"data/raw/{name}"


def role(values: tuple, name: str) -> str:
    """Find a role's drop-down among what `reread` gives."""
    return values[2 + list(ROLES).index(name)].value


def process(tab: DataTab, file: str, roles: list[str] | None = None, *, test: float = 0.1):
    form = [file, "auto", "auto", "", *(roles or NO_ROLES)]
    return tab.process(*form, [], "starter", 512, 0.8, 0.1, test, 42)


def test_a_dropped_file_is_kept_and_chosen(tab: DataTab, tmp_path: Path) -> None:
    dropped = tmp_path / "capitals.csv"
    dropped.write_text(CAPITALS, encoding="utf-8")
    chosen, drop = tab.take(str(dropped))
    assert chosen.value == "data/raw/capitals.csv"
    assert drop is None


def test_foreign_headers_are_understood_with_a_reason(tab: DataTab) -> None:
    shown = tab.reread(bring(tab.workspace, "c.csv", CAPITALS), "auto", "auto", "")
    assert (role(shown, "user"), role(shown, "assistant")) == ("Frage", "Antwort")
    assert "&quot;Frage&quot; and &quot;Antwort&quot;" in shown[0]
    assert "City 0" in shown[-1]


def test_columns_that_nobody_can_guess_are_asked_for(tab: DataTab) -> None:
    shown = tab.reread(bring(tab.workspace, "e.tsv", ELEMENTS), "auto", "auto", "")
    assert role(shown, "user") == ""
    assert "Please choose the columns" in shown[0]


def test_chosen_columns_change_the_preview(tab: DataTab) -> None:
    file = bring(tab.workspace, "e.tsv", ELEMENTS)
    roles = ["element", "symbol", *NO_ROLES[2:]]
    preview = tab.remap(file, "auto", "auto", "", *roles)
    assert "Element 0" in preview
    assert "S0" in preview


def test_a_file_that_cannot_be_read_says_why_and_hides_the_last_one(tab: DataTab) -> None:
    file = bring(tab.workspace, "x.csv", "   \n")
    work, side, _, told, *_ = tab.choose(file)
    assert (work.visible, side.visible) == (False, False)
    assert "nothing but white space" in told


def test_the_doctor_offers_a_switch_for_what_it_can_mend(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS + CAPITALS.partition("\n")[2])
    form = [file, "auto", "auto", "", *NO_ROLES]
    facts, doctor, switches = tab.examine(*form, ["exact_duplicates", "gone"], "starter", 512)
    assert ">80<" in facts
    assert "The same example again" in doctor
    assert [kind for _, kind in switches.choices] == ["exact_duplicates"]
    assert switches.value == ["exact_duplicates"]


def test_processing_writes_the_splits_and_shows_the_account(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    _, report, lengths, table, page, place = process(tab, file)
    assert "of 40 rows" in report
    assert "not on this machine yet" in lengths
    assert (len(table), page) == (25, 1)
    assert "of 32" in place
    assert current_data(tab.workspace).source == file


def test_lengths_are_drawn_with_the_tokenizer_of_a_model_that_is_here(
    tab: DataTab, tiny_llama: Path
) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS))
    drawn = tab.result.measured(str(tiny_llama), 10)
    assert "32 training examples" in drawn
    assert "32 longer than 10" in drawn


def test_a_search_leafs_through_what_it_finds(tab: DataTab) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS))
    rows, *_ = tab.result.leaf("train", "cITY 3", 1)
    assert rows
    assert all("City 3" in row[3] for row in rows)
    assert tab.result.leaf("train", "no such text", 5)[0] == []


def test_splits_that_cannot_be_are_said_and_nothing_is_written(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    with pytest.raises(DataError):
        process(tab, file, test=500)
    assert current_data(tab.workspace) is None


def test_a_mapping_without_an_answer_is_refused_in_words(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    with pytest.raises(DataError, match="no column"):
        process(tab, file, ["Frage", *NO_ROLES[1:]])


def test_markup_in_the_data_stays_text(tab: DataTab) -> None:
    rows = "q,a\n" + "".join(f"<script>{n}</script>,<img src=x>{n}\n" for n in range(12))
    shown = tab.reread(bring(tab.workspace, "m.csv", rows), "auto", "auto", "")
    assert "<script>" not in shown[-1]
    assert "&lt;img src=x&gt;" in shown[-1]


@pytest.mark.parametrize("file", ["/etc/passwd", "../../secret.csv", "configs/config_base.yaml"])
def test_only_the_projects_data_can_be_opened(tab: DataTab, file: str) -> None:
    with pytest.raises(DataError, match="There is no data file"):
        checked_file(file, tab.workspace)


def test_pasted_text_becomes_a_file_of_the_list(tab: DataTab) -> None:
    chosen = tab.use_text("question,answer\nWhy?,Because.\n")
    assert chosen.value in [path for _, path in raw_files(tab.workspace)]


def test_the_sample_is_offered_in_a_project_without_files(tab: DataTab) -> None:
    assert Path(tab.workspace.resolve(tab.use_sample().value)).name == "trivia.csv"


def test_a_histogram_marks_what_will_be_cut() -> None:
    drawn = histogram([5, 6, 7, 90], 50)
    assert "1 longer than 50" in drawn
    assert "over" in drawn


def test_a_name_that_is_no_data_set_is_refused_before_anything_is_fetched(tab: DataTab) -> None:
    with pytest.raises(DataError, match="names no data set"):
        tab.use_hub("just words")


def test_a_fetched_data_set_is_kept_and_chosen(
    tab: DataTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = tmp_path / "train.csv"
    fetched.write_text(CAPITALS, encoding="utf-8")
    monkeypatch.setattr(data_tab, "fetch_data_set", lambda *_: [fetched])
    assert tab.use_hub(" owner/name ").value == "data/raw/train.csv"

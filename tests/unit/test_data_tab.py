"""Data's handlers, called without a browser."""

from pathlib import Path

import gradio as gr
import pytest

from sftplay_ui.engine.config_file import load_config, make_config
from sftplay_ui.engine.data.hub_data import HubName
from sftplay_ui.engine.data.process import DataProgress, Examination, process_files
from sftplay_ui.engine.data.table import open_table
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs import data_source, data_tab
from sftplay_ui.tabs.data_files import ROLES, checked_file, raw_files
from sftplay_ui.tabs.data_tab import DataTab
from sftplay_ui.tabs.data_view import histogram
from sftplay_ui.tabs.data_work import Superseded

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


def form_of(*files: str, roles: list[str] | None = None, header: str = "auto") -> list:
    return [list(files), "auto", "auto", header, "", *(roles or NO_ROLES)]


def process(tab: DataTab, *files: str, roles: list[str] | None = None, test: float = 0.1) -> tuple:
    """Press Process, and show what the page shows then."""
    plan = ["shares", 0.8, 0.1, test, 42, "CC0-1.0", True]
    tab.process(*form_of(*files, roles=roles), [], "starter", 512, *plan)
    return tab.refreshed("starter", 512)


def said(**data: object) -> gr.EventData:
    return gr.EventData(None, data)


def row_of(tab: DataTab, row: int, split: str = "train") -> dict:
    """Name a row the way the page does."""
    found = open_table(tab.result.rows.path(split)).row(row)
    return {"split": split, "row": row, "name": found.name}


def test_all_dropped_files_are_kept_and_chosen(tab: DataTab, tmp_path: Path) -> None:
    dropped = [tmp_path / "capitals.csv", tmp_path / "elements.tsv"]
    for path, text in zip(dropped, (CAPITALS, ELEMENTS), strict=True):
        path.write_text(text, encoding="utf-8")
    chosen, drop = tab.source.take([str(path) for path in dropped])
    assert chosen.value == ["data/raw/capitals.csv", "data/raw/elements.tsv"]
    assert drop is None
    files, *_ = tab.opened()
    assert files.value == chosen.value


def test_foreign_headers_are_understood_with_a_reason(tab: DataTab) -> None:
    shown = tab.reread(*form_of(bring(tab.workspace, "c.csv", CAPITALS))[:5])
    assert (role(shown, "user"), role(shown, "assistant")) == ("Frage", "Antwort")
    assert "&quot;Frage&quot; and &quot;Antwort&quot;" in shown[0]
    assert "City 0" in shown[-1]


def test_columns_that_nobody_can_guess_are_asked_for(tab: DataTab) -> None:
    shown = tab.reread(*form_of(bring(tab.workspace, "e.tsv", ELEMENTS))[:5])
    assert role(shown, "user") == ""
    assert "Please choose the columns" in shown[0]


def test_chosen_columns_change_the_preview(tab: DataTab) -> None:
    file = bring(tab.workspace, "e.tsv", ELEMENTS)
    roles = ["element", "symbol", *NO_ROLES[2:]]
    preview = tab.remap(*form_of(file, roles=roles))
    assert "Element 0" in preview
    assert "S0" in preview


def test_a_file_that_cannot_be_read_says_why_and_hides_the_last_one(tab: DataTab) -> None:
    file = bring(tab.workspace, "x.csv", "   \n")
    work, side, _, told, *_ = tab.choose([file])
    assert (work.visible, side.visible) == (False, False)
    assert "nothing but white space" in told


def test_the_doctor_offers_a_switch_for_what_it_can_mend(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS + CAPITALS.partition("\n")[2])
    asked = [*form_of(file), ["exact_duplicates", "gone"], "starter", 512]
    facts, doctor, switches = tab.examine(*asked)
    assert ">80<" in facts
    assert "The same example again" in doctor
    assert "Keep the first one." in doctor
    assert "data-fix='exact_duplicates'" in doctor
    assert [kind for _, kind in switches.choices] == ["exact_duplicates"]
    assert switches.value == ["exact_duplicates"]


def test_processing_writes_the_splits_and_shows_the_account(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    _, report, _, lengths, card, split, table, page, place, *_ = process(tab, file)
    assert "of 40 rows" in report
    assert "not on this machine yet" in lengths
    assert "CC0-1.0" in card
    assert (split, table.count("<tr data-row="), page) == ("train", 25, 1)
    assert "of 32" in place
    assert current_data(tab.workspace).source == file


def test_several_files_of_different_kinds_are_each_read_by_their_own_columns(tab: DataTab) -> None:
    rows = "prompt,completion\n" + "".join(f"Ask {n}?,Say {n}\n" for n in range(20))
    files = [bring(tab.workspace, "c.csv", CAPITALS), bring(tab.workspace, "p.csv", rows)]
    shown = tab.reread(*form_of(*files)[:5])
    assert "The files differ" in shown[0]
    assert "City 0" in shown[-1]
    assert "Say 0" in shown[-1]
    guessed = [role(shown, name) for name in ROLES]
    _, report, *_ = process(tab, *files, roles=guessed)
    assert "of 60 rows" in report
    assert tab.opened()[0].value == files


def test_a_first_row_that_is_an_example_is_not_lost(tab: DataTab) -> None:
    file = bring(tab.workspace, "n.csv", "Why?,Because.\nHow?,Like this.\n")
    shown = tab.reread(*form_of(file, header="no")[:5])
    assert "Because." in shown[-1]
    assert role(shown, "user") in ("column_1", "")


def test_settings_are_kept_with_the_project_and_work_in_a_terminal(tab: DataTab) -> None:
    file = bring(tab.workspace, "e.tsv", ELEMENTS)
    roles = ["element", "symbol", *NO_ROLES[2:]]
    plan = ["numbers", 20, 5, 5, 7, "CC0-1.0", True]
    told = tab.keep(*form_of(file, roles=roles), [], "starter", 512, *plan)
    assert "--config data/settings.yaml" in told
    path = tab.workspace.data / "settings.yaml"
    config = load_config(path, [], tab.workspace).config
    assert process_files(config, tab.workspace).splits == {"train": 20, "val": 5, "test": 5}
    again = DataTab(tab.workspace, tab.live)
    assert role(again.choose([file])[8:], "user") == "element"
    assert again.opened()[2:8] == ("numbers", 20, 5, 5, 7, "CC0-1.0")


def test_shares_become_numbers_of_the_examples_there_are_and_back(tab: DataTab) -> None:
    tab.work.examined(("a",), Examination(60, 55, {}, {}, {}, ()))
    assert tab.counted("numbers", 0.8, 0.1, 0.1) == [45, 5, 5]
    assert tab.counted("shares", 45, 5, 5) == [0.818, 0.091, 0.091]


def test_lengths_are_drawn_with_the_tokenizer_of_a_model_that_is_here(
    tab: DataTab, tiny_llama: Path
) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS))
    drawn = tab.result.measured(str(tiny_llama), 10)
    assert "32 training examples" in drawn
    assert "32 longer than 10" in drawn


def test_a_search_leafs_through_what_it_finds(tab: DataTab) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS))
    table, *_ = tab.result.rows.leaf("train", "cITY 3", "", 1)
    assert table.count("<tr data-row=") == table.count("City 3") > 0
    assert "No rows" in tab.result.rows.leaf("train", "no such text", "", 5)[0]


def test_the_rows_of_one_finding_are_shown(tab: DataTab) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS + CAPITALS.partition("\n")[2]))
    split, table, _, _, kind, *_ = tab.result.show_kind(said(kind="exact_duplicates"))
    assert (split, kind.value) == ("train", "exact_duplicates")
    assert kind.choices[1][0].startswith("The same example again (")
    assert "<li>The same example again</li>" in table


def test_a_typed_text_replaces_one_turn_and_can_be_taken_back(tab: DataTab) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS))
    rows = tab.result.rows
    asked = row_of(tab, 2)
    before = rows.whole_text({**asked, "turn": 1})["text"]
    shown = rows.edit("train", "", "", 1, said(**asked, turn=1, text="Typed <b>here</b>"))
    assert "Typed &lt;b&gt;here" in shown[0]
    assert "<li>Edited by hand</li>" in shown[0]
    assert shown[4].value == "Undo (1)"
    assert open_table(rows.path("train")).row(2).example.reference == "Typed <b>here</b>"
    shown = rows.delete("train", "", "", 1, said(**row_of(tab, 2)))
    assert "of 31" in shown[2]
    for _ in range(2):
        shown = rows.undo("train", "", "", 1)
    assert before in shown[0]
    assert shown[4].interactive is False


def test_a_page_that_shows_an_older_row_cannot_change_it(tab: DataTab) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS))
    rows, stale = tab.result.rows, row_of(tab, 2)
    rows.delete("train", "", "", 1, said(**row_of(tab, 0)))
    with pytest.raises(DataError, match="has changed since"):
        rows.delete("train", "", "", 1, said(**stale))
    assert "has changed since" in rows.whole_text({**stale, "turn": 0})["problem"]


def test_an_empty_answer_is_not_taken(tab: DataTab) -> None:
    process(tab, bring(tab.workspace, "c.csv", CAPITALS))
    with pytest.raises(DataError, match="would be empty"):
        tab.result.rows.edit("train", "", "", 1, said(**row_of(tab, 0), turn=1, text="  "))


def test_processing_again_says_that_edits_are_made_again(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    process(tab, file)
    tab.result.rows.edit("train", "", "", 1, said(**row_of(tab, 0), turn=1, text="Typed"))
    *_, switch = tab.refreshed("starter", 512)
    assert (switch.visible, switch.label) == (True, "Keep my 1 edit")
    assert "examples edited by hand" in process(tab, file)[1]


def test_what_try_it_now_processed_is_shown_and_stays_as_it_is(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    paths = {f"data.{split}_path": f"data/demo/{split}.jsonl" for split in ("train", "val", "test")}
    process_files(make_config({"data.raw_path": file, **paths}), tab.workspace)
    seen, report, following, *_ = tab.refreshed("starter", 512)
    assert (seen.visible, following.visible) == (True, False)
    assert "Try it now learned from" in report
    with pytest.raises(DataError, match="stay as they are"):
        tab.result.rows.delete("train", "", "", 1, said(**row_of(tab, 0)))


def test_a_reload_does_not_examine_the_same_files_again(
    tab: DataTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    asked = [*form_of(file), [], "starter", 512]
    seen = tab.examine(*asked)
    monkeypatch.setattr(data_tab, "examine", lambda *_, **__: pytest.fail("examined twice"))
    assert tab.examine(*asked)[:2] == seen[:2]
    monkeypatch.undo()
    bring(tab.workspace, "c.csv", CAPITALS + "One more?;Yes\n")
    assert ">41<" in tab.examine(*asked)[0]


def test_every_page_is_told_how_far_the_work_is_and_may_stop_it(tab: DataTab) -> None:
    work = tab.work
    work.examined(("a",), Examination(4000, 4000, {}, {}, {}, ()))
    assert work.state() == {"what": "", "set": ""}
    with pytest.raises(DataError, match="was stopped"), work.begin("process", ("a",)) as tell:
        tell(DataProgress("read", 2000, None))
        assert work.state()["words"] == "Reading: 2,000 of 4,000 rows"
        assert work.state()["share"] == 0.5
        work.stop()
        tell(DataProgress("compare", 0, 4000))
    assert work.state()["what"] == ""


def test_an_examination_ends_when_something_newer_is_looked_at(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    with pytest.raises(Superseded), tab.work.begin("examine", (file,)) as tell:
        tab.reread(*form_of(file)[:5])
        tell(DataProgress("read", 2000, None))


def test_splits_that_cannot_be_are_said_and_nothing_is_written(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    with pytest.raises(DataError):
        process(tab, file, test=500)
    assert current_data(tab.workspace) is None


def test_a_mapping_without_an_answer_is_refused_in_words(tab: DataTab) -> None:
    file = bring(tab.workspace, "c.csv", CAPITALS)
    with pytest.raises(DataError, match="no column"):
        process(tab, file, roles=["Frage", *NO_ROLES[1:]])


def test_markup_in_the_data_stays_text(tab: DataTab) -> None:
    rows = "q,a\n" + "".join(f"<script>{n}</script>,<img src=x>{n}\n" for n in range(12))
    shown = tab.reread(*form_of(bring(tab.workspace, "m.csv", rows))[:5])
    assert "<script>" not in shown[-1]
    assert "&lt;img src=x&gt;" in shown[-1]


@pytest.mark.parametrize("file", ["/etc/passwd", "../../secret.csv", "configs/config_base.yaml"])
def test_only_the_projects_data_can_be_opened(tab: DataTab, file: str) -> None:
    with pytest.raises(DataError, match="There is no data file"):
        checked_file(file, tab.workspace)


def test_pasted_text_becomes_a_file_of_the_list(tab: DataTab) -> None:
    chosen = tab.source.use_text("question,answer\nWhy?,Because.\n")
    assert chosen.value[0] in [path for _, path in raw_files(tab.workspace)]


def test_the_sample_is_offered_in_a_project_without_files(tab: DataTab) -> None:
    assert Path(tab.workspace.resolve(tab.source.use_sample().value[0])).name == "trivia.csv"


def test_a_histogram_marks_what_will_be_cut() -> None:
    drawn = histogram([5, 6, 7, 90], 50)
    assert "1 longer than 50" in drawn
    assert "over" in drawn


def test_a_name_that_is_no_data_set_is_refused_before_anything_is_fetched(tab: DataTab) -> None:
    with pytest.raises(DataError, match="names no data set"):
        tab.source.use_hub("just words", "", "", None)


def test_all_files_of_a_fetched_data_set_are_kept_and_chosen(
    tab: DataTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = [tmp_path / "train-0.csv", tmp_path / "train-1.csv"]
    for number, path in enumerate(fetched):
        path.write_text(CAPITALS + f"Why {number}?;So.\n", encoding="utf-8")
    asked: list[object] = []
    monkeypatch.setattr(
        data_source, "fetch_data_set", lambda name, _: asked.append(name) or fetched
    )
    chosen = tab.source.use_hub(" owner/name ", "main", "train", 1000)
    assert chosen.value == ["data/raw/train-0.csv", "data/raw/train-1.csv"]
    assert asked == [HubName("owner/name", "main", "train", 1000)]

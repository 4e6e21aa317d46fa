"""Style's handlers, called without a browser."""

import json
from pathlib import Path

import pytest

from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.errors import ConfigError, TemplateError
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs.style_tab import NONE, OWN, StyleTab
from sftplay_ui.tabs.style_view import before_after

SPLITS = ["train", "val", "test"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tab(workspace: Workspace) -> StyleTab:
    folder = workspace.data / "processed"
    folder.mkdir()
    for split in SPLITS:
        rows = [{"user": f"Question <b>{n}</b>?", "assistant": f"Answer {n}."} for n in range(3)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return StyleTab(workspace, LiveRuns(workspace))


def preview(tab: StyleTab, number: float, system: str, model: Path | str, longest: int = 512):
    style = (NONE, "", system, "inject", SPLITS)
    return tab.preview(number, "train", *style, str(model), longest, "", "")


def test_an_example_is_shown_before_and_after(tab: StyleTab, tiny_llama: Path) -> None:
    change, _, number, place = preview(tab, 2, "Be brief.", tiny_llama)
    assert "<ins>Be brief.</ins>" in change
    assert "Question &lt;b&gt;1&lt;/b&gt;?" in change
    assert (number, "2 of 3" in place) == (2, True)


def test_learned_tokens_are_marked_with_their_ids(tab: StyleTab, tiny_llama: Path) -> None:
    _, tokens, _, _ = preview(tab, 1, "", tiny_llama)
    assert "tok learned" in tokens
    assert "tok context special" in tokens
    assert "title='token " in tokens
    assert "<b>0</b>" not in tokens


def test_what_does_not_fit_is_struck_out(tab: StyleTab, tiny_llama: Path) -> None:
    _, tokens, _, _ = preview(tab, 1, "", tiny_llama, longest=20)
    assert "tok cut" in tokens
    assert "of the answer is lost" in tokens


def test_a_model_that_is_not_here_is_said_not_fetched(tab: StyleTab) -> None:
    _, tokens, _, _ = preview(tab, 1, "", "starter")
    assert "not on this machine yet" in tokens


def test_applying_writes_the_styled_set_and_hands_it_on(tab: StyleTab) -> None:
    done, to_train = tab.apply(NONE, "", "Be brief.", "inject", SPLITS, "", "starter")
    assert "3 of 3 examples changed" in done
    assert to_train.visible
    current = current_data(tab.workspace)
    assert current.train_path == "data/processed_with_style/train.jsonl"
    assert current.system == "Be brief."


def test_a_rule_in_own_words_is_used(tab: StyleTab) -> None:
    tab.apply(OWN, "Answer in rhyme.", "", "override", ["train"], "", "starter")
    text = (tab.workspace.data / "processed_with_style" / "train.jsonl").read_text("utf-8")
    assert "Answer in rhyme." in text


def test_applying_nothing_says_what_is_missing(tab: StyleTab) -> None:
    with pytest.raises(ConfigError):
        tab.apply(NONE, "", " ", "inject", SPLITS, "", "starter")


def test_a_template_alone_is_handed_on_without_new_files(tab: StyleTab) -> None:
    tab.apply(NONE, "", "", "inject", SPLITS, "chat_templates/mine.jinja", "starter")
    current = current_data(tab.workspace)
    assert current.template_path == "chat_templates/mine.jinja"
    assert current.train_path == "data/processed/train.jsonl"


def test_a_good_template_is_kept_as_an_own_file(tab: StyleTab) -> None:
    told, chosen = tab.templates.save(CHATML, "mine", "starter")
    assert "Kept as mine.jinja" in told
    assert chosen.value == "chat_templates/mine.jinja"
    assert (tab.workspace.templates / "mine.jinja").read_text("utf-8") == CHATML


def test_a_template_that_loses_a_turn_is_not_kept(tab: StyleTab) -> None:
    told, _ = tab.templates.save("{{ messages[0].content }}", "bad", "starter")
    assert "never writes the assistant turn" in told
    assert not (tab.workspace.templates / "bad.jinja").exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x" * 99])
def test_a_name_that_is_no_file_name_is_refused(tab: StyleTab, name: str) -> None:
    with pytest.raises(TemplateError, match="cannot be the name"):
        tab.templates.save(CHATML, name, "starter")


def test_a_template_never_overwrites_another(tab: StyleTab) -> None:
    tab.templates.save(CHATML, "mine", "starter")
    with pytest.raises(TemplateError, match="already"):
        tab.templates.save(CHATML, "mine.jinja", "starter")


def test_rendering_writes_pairs(tab: StyleTab, tiny_llama: Path) -> None:
    told = tab.templates.render("", str(tiny_llama))
    assert "note good" in told
    line = (tab.workspace.data / "rendered" / "train.jsonl").read_text("utf-8").splitlines()[0]
    assert set(json.loads(line)) == {"input", "target"}


def test_words_that_went_and_came_are_marked() -> None:
    old = Example((Message("user", "a b c"), Message("assistant", "x")))
    new = Example((Message("user", "a d c"), Message("assistant", "x")))
    shown = before_after(old, new)
    assert "<del>b</del>" in shown
    assert "<ins>d</ins>" in shown


def test_a_project_without_data_names_the_next_step(workspace: Workspace) -> None:
    empty = StyleTab(workspace, LiveRuns(workspace))
    assert "No examples yet" in preview(empty, 1, "", "starter")[0]


def test_a_split_that_is_left_out_stays_and_is_remembered(tab: StyleTab, tiny_llama: Path) -> None:
    style = (NONE, "", "Be brief.", "inject", ["train"])
    change, *_ = tab.preview(1, "val", *style, str(tiny_llama), 512, "", "")
    assert "stays as it is" in change
    tab.apply(*style, "", "starter")
    *_, splits = tab.opened()
    assert splits == ["train"]
    text = (tab.workspace.data / "processed_with_style" / "val.jsonl").read_text("utf-8")
    assert "Be brief." not in text


def test_the_answers_that_break_a_rule_are_told_with_their_rows(tab: StyleTab) -> None:
    shown = tab.judge("train", OWN, "Answer in at most one word.", "", "inject", SPLITS)
    assert "100% of the answers (3 of 3) break it: at most 1 word." in shown
    assert "data-row='2'" in shown
    assert "No program can judge" in tab.judge("train", "friendly", "", "", "inject", SPLITS)
    assert tab.judge("train", NONE, "", "", "inject", SPLITS) == ""
    assert tab.judge("train", "concise", "", "", "inject", ["val"]) == ""


def test_a_draft_is_shown_before_it_is_kept(tab: StyleTab, tiny_llama: Path) -> None:
    draft = CHATML.replace("<|im_end|>", "<END>")
    look = (NONE, "", "", "inject", SPLITS, str(tiny_llama), 512, "")
    _, tokens, _, _ = tab.preview(1, "train", *look, draft)
    assert "draft.jinja (being edited, not kept yet)" in tokens
    _, tokens, _, _ = tab.preview(1, "train", *look, "{{ messages }\n")
    assert "draft.jinja:1 is not valid" in tokens
    checked = tab.templates.check("{% for m in messages %}\n{% endfo %}", "", str(tiny_llama))
    assert "<b>Line 2</b>" in checked
    assert "<span class='at'><i>2</i>{% endfo %}</span>" in checked


def test_rendering_refuses_a_template_without_a_generation_prompt(
    tab: StyleTab, tiny_llama: Path
) -> None:
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    (tab.workspace.templates / "bad.jinja").write_text(source, encoding="utf-8")
    with pytest.raises(TemplateError, match="no generation prompt"):
        tab.templates.render("chat_templates/bad.jinja", str(tiny_llama))
    assert not (tab.workspace.data / "rendered").exists()

"""Merge's handlers, called without a browser."""

import json

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import DiskFullError, RunNotFoundError
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.live import LiveRuns
from sftplay_ui.tabs import merge_tab
from sftplay_ui.tabs.merge_tab import MergeTab, result_board
from tests.stand_in import make_run

RESULT = {
    "out": "/somewhere/else/merged",
    "bytes": 270_000_000,
    "dtype": "bf16",
    "reload": True,
    "parity": {
        "same_tokens": True,
        "prompts": 8,
        "tokens": 264,
        "different": 0,
        "largest_logit_difference": 0.0123,
        "largest_margin": 0.125,
    },
}


@pytest.fixture
def tab(workspace: Workspace) -> MergeTab:
    run = make_run(workspace, "merge-capitals", "merge")
    (run.folder / "worker.json").write_text("{}", encoding="utf-8")
    (run.folder / "metrics.json").write_text(json.dumps(RESULT), encoding="utf-8")
    return MergeTab(workspace, LiveRuns(workspace))


def test_the_newest_result_is_shown(tab: MergeTab) -> None:
    assert tab.newest().value == "merge-capitals"
    shown = tab.show("merge-capitals")
    assert "270.0 MB" in shown
    assert "0.0123" in shown
    assert "/somewhere/else/merged" in shown
    assert "the same 264 tokens to 8 questions" in shown


def test_a_merge_that_changed_answers_says_so(workspace: Workspace) -> None:
    parity = {**RESULT["parity"], "same_tokens": False, "different": 3}
    changed = result_board({**RESULT, "parity": parity}, workspace)
    assert "3 of 264 tokens came out differently" in changed
    assert "0.12 at most" in changed


def test_a_merge_without_a_comparison_does_not_claim_one(workspace: Workspace) -> None:
    shown = result_board({**RESULT, "parity": None, "reload": False}, workspace)
    assert "not enough memory to compare" in shown
    assert "Same tokens" not in shown


def test_a_folder_name_never_becomes_markup(workspace: Workspace) -> None:
    assert "<img" not in result_board({**RESULT, "out": "/x/<img src=x>"}, workspace)


def test_nothing_merged_names_the_next_step(tab: MergeTab) -> None:
    assert "press Merge" in tab.show(None)


def test_a_result_outside_the_list_is_refused(tab: MergeTab) -> None:
    with pytest.raises(RunNotFoundError):
        tab.show("../merge-capitals")


def test_merging_without_a_run_says_what_to_do(tab: MergeTab) -> None:
    with pytest.raises(RunNotFoundError, match="No run is chosen"):
        tab.start("", "bf16", "")


def test_too_little_space_is_said_before_the_start(
    tab: MergeTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_tab, "tuned_runs", lambda _workspace: ["capitals"])
    monkeypatch.setattr(merge_tab, "follow_up", lambda *_: RunConfig(job="merge"))
    monkeypatch.setattr(tab, "needed_bytes", lambda _run: 10**18)
    with pytest.raises(DiskFullError, match="GB are free"):
        tab.start("capitals", "bf16", "")


def test_stopping_nothing_says_so(tab: MergeTab) -> None:
    with pytest.raises(RunNotFoundError, match="No merge is running"):
        tab.stop()


def test_a_running_merge_is_no_result_yet(tab: MergeTab) -> None:
    make_run(tab.workspace, "merge-other", "merge")
    assert tab.merges() == ["merge-capitals"]

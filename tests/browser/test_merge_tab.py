"""The Merge tab in a browser: results, and what is said when something is missing."""

import json

from playwright.sync_api import expect

from tests import stand_in

RESULT = {
    "out": "outputs/merge-capitals/model",
    "bytes": 270_000_000,
    "dtype": "bf16",
    "reload": True,
    "parity": {
        "same_tokens": True,
        "prompts": 8,
        "tokens": 264,
        "different": 0,
        "largest_logit_difference": 0.01,
    },
}


def test_the_proof_of_the_newest_merge_is_shown(workspace, open_page):
    run = stand_in.make_run(workspace, "merge-capitals", "merge")
    (run.folder / "worker.json").write_text("{}", encoding="utf-8")
    (run.folder / "metrics.json").write_text(json.dumps(RESULT), encoding="utf-8")
    page = open_page("merge")
    expect(page.locator("#merge-result")).to_contain_text("the same 264 tokens to 8 questions")
    expect(page.locator("#merge-result")).to_contain_text("outputs/merge-capitals/model")


def test_merging_without_a_run_says_what_to_do(open_page):
    page = open_page("merge")
    expect(page.locator("#merge-result")).to_contain_text("No merged model yet")
    page.locator("#merge-out input, #merge-out textarea").fill("my/folder")
    page.locator("#merge-start").click()
    expect(page.locator("#merge-note")).to_contain_text("No run is chosen")
    expect(page.locator("#merge-out input, #merge-out textarea")).to_have_value("my/folder")

"""Secrets in the errors of other libraries."""

import pytest

from sftplay_ui.engine.redaction import redacted


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("401 for hf_ABCDEFGHIJKLMNOPQRSTU at x", "401 for [secret] at x"),
        ("Authorization: Bearer abc.def-9", "Authorization: Bearer [secret]"),
        ("http://me:hunter2@proxy:80/x", "http://[secret]@proxy:80/x"),
        ("key sk-abcdefghijklmnop1234", "key [secret]"),
        ("https://host:80/a@b and hf_short stay", "https://host:80/a@b and hf_short stay"),
    ],
)
def test_what_opens_doors_is_not_written_down(text, kept):
    assert redacted(text) == kept

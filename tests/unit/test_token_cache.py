"""Tokens kept on the disk: the same examples, made once, and never stale or torn."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from sftplay_ui.engine.data.examples import read_examples
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.text.tokens import Tokeniser, tokenise_many
from sftplay_ui.engine.worker.training import token_cache
from sftplay_ui.engine.worker.training.batches import learned_count
from sftplay_ui.engine.worker.training.token_cache import cache_file, tokenised
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace
from tests.training import write_examples

LIMIT = 40


@pytest.fixture
def source(tiny_llama, workspace: Workspace):
    write_examples(workspace, train=20)
    template = choose_template(tiny_llama, None, PROJECT_ROOT / "chat_templates")
    return workspace.data / "processed" / "train.jsonl", template, Tokeniser.load(tiny_llama)


def open_table(path, template, tokeniser, limit=LIMIT):
    steps = tokenised(path, template, tokeniser, limit)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_the_tokens_are_those_of_the_examples_in_their_order(source, monkeypatch):
    monkeypatch.setattr(token_cache, "BATCH", 7)
    path, template, tokeniser = source
    expected = tokenise_many(read_examples(path), template, tokeniser, LIMIT)
    for table in (open_table(*source), open_table(*source)):
        assert len(table) == len(expected) == 20
        for found, example in zip(table, expected, strict=True):
            assert (found.input_ids, found.learned) == (example.input_ids, example.learned)
        assert table.lengths == [len(example.input_ids) for example in expected]
        assert table.taught.tolist() == [learned_count(example) for example in expected]
        assert table.cut_tokens.tolist() == [example.cut_tokens for example in expected]
        assert table.cut_learned.tolist() == [example.cut_learned for example in expected]
        assert table.breaks.tolist() == ["\n" in example.text for example in expected]
        assert list(table.systems) == [""] or list(table.systems) == [None]


def test_columns_are_laid_and_seen_without_importing_pandas():
    code = (
        "import sys, numpy as np, pyarrow as pa;"
        "from sftplay_ui.engine.worker.training.token_cache import laid, seen;"
        "numbers = laid(np.arange(5, dtype=np.int32), pa.int32());"
        "marks = laid(np.array([True, False, True]), pa.bool_());"
        "print(seen(numbers[2:]).tolist(), seen(marks[1:]).tolist(), 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT
    )
    assert done.stdout == "[2, 3, 4] [False, True] False\n"


def test_a_second_opening_makes_nothing(source):
    assert not open_table(*source).cached
    assert open_table(*source).cached


def test_only_examples_that_teach_are_chosen(source):
    path, template, tokeniser = source
    rows = [{"user": user, "assistant": "b"} for user in ("a" * 200, "a", "a" * 300)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    table = open_table(path, template, tokeniser, limit=100)
    teaching = table.teaching()
    assert (len(table), len(teaching)) == (3, 1)
    assert teaching.lengths == [table.lengths[1]]
    assert learned_count(teaching[0]) == table.taught[1] > 0


def test_other_examples_lengths_or_templates_are_other_tokens(source):
    path, template, tokeniser = source
    names = {
        cache_file(path, template, tokeniser, LIMIT),
        cache_file(path, template, tokeniser, LIMIT + 1),
        cache_file(path, replace(template, source=template.source + " "), tokeniser, LIMIT),
    }
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    names.add(cache_file(path, template, tokeniser, LIMIT))
    assert len(names) == 4


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_torn_file_is_made_anew(source, damage):
    expected = [list(example.input_ids) for example in open_table(*source)]
    cache = cache_file(*source, LIMIT)
    content = cache.read_bytes()
    cache.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "other": b"x"}[damage])
    table = open_table(*source)
    assert not table.cached
    assert [list(example.input_ids) for example in table] == expected


def test_a_broken_off_writing_leaves_nothing_behind(source):
    steps = tokenised(*source, LIMIT)
    next(steps)
    steps.close()
    assert list(cache_file(*source, LIMIT).parent.iterdir()) == []


def test_the_files_used_longest_ago_go_when_there_are_too_many(source, monkeypatch):
    open_table(*source)
    old = cache_file(*source, LIMIT)
    monkeypatch.setattr(token_cache, "MOST_BYTES", 1)
    open_table(*source, limit=LIMIT + 1)
    new = cache_file(*source, LIMIT + 1)
    assert [*new.parent.iterdir()] == [new]
    assert not old.exists()


def test_the_system_texts_are_told(source):
    path, template, tokeniser = source
    rows = [{"system": text, "user": "a", "assistant": "b"} for text in ("One.", "One.", "Two.")]
    path.write_text("\n".join(map(json.dumps, rows[:2])) + "\n", encoding="utf-8")
    assert list(open_table(path, template, tokeniser).systems) == ["One."]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    assert list(open_table(path, template, tokeniser).systems) == ["One.", "Two."]


def test_a_file_that_cannot_be_read_is_told_in_the_readers_words(source):
    path, template, tokeniser = source
    path.unlink()
    with pytest.raises(DataError, match="does not exist"):
        open_table(path, template, tokeniser)

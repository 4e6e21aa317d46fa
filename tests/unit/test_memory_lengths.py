"""Token lengths of the training examples, as a run would cut them."""

import json
from pathlib import Path

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.memory.lengths import TokenLengths, measure_lengths
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.workspace import Workspace


def write_examples(workspace: Workspace, answers: list[str]) -> None:
    path = workspace.data / "processed" / "train.jsonl"
    path.parent.mkdir()
    lines = [json.dumps({"system": "", "user": "Why?", "assistant": a}) for a in answers]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_examples_are_measured_and_cut(workspace: Workspace, tiny_llama: Path) -> None:
    write_examples(workspace, ["no", "a much longer answer " * 40])
    config = RunConfig.model_validate({"model": {"max_seq_len": 64}})
    lengths = measure_lengths(config, ModelFolder("tiny", tiny_llama, "folder"), workspace)
    assert lengths is not None
    assert lengths.longest == 64
    assert lengths.examples == 2
    assert lengths.tokens == sum(lengths.longest_first)
    assert 0 < lengths.learned_share < 1


def test_without_examples_there_is_nothing_to_measure(
    workspace: Workspace, tiny_llama: Path
) -> None:
    model = ModelFolder("tiny", tiny_llama, "folder")
    assert measure_lengths(RunConfig(), model, workspace) is None


def test_the_heaviest_micro_batch_holds_the_longest_examples() -> None:
    lengths = TokenLengths.of([10, 50, 20, 40], learned=60)
    assert lengths.heaviest(2) == 90
    assert lengths.heaviest(6) == 120 + 2 * 50


def test_what_was_not_measured_is_taken_to_be_like_the_rest() -> None:
    lengths = TokenLengths.of([10, 30], learned=20, examples=1000)
    assert (lengths.examples, lengths.tokens) == (1000, 20_000)

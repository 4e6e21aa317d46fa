"""Identity: what may not change between a stop and a resume."""

import shutil
from dataclasses import fields, replace

import pytest

from sftplay_ui.engine.errors import ResumeError
from sftplay_ui.engine.worker.training.identity import Identity, model_hash

ONE = Identity(
    base_model="a",
    tokenizer="b",
    template="c",
    train_data="d",
    seed=1,
    mode="lora",
    backend="bnb",
    precision="bf16",
    lora="r 16",
    optimizer="adamw",
    effective_batch=8,
    max_seq_len=512,
    packing=True,
)


def test_the_same_run_passes(tmp_path):
    ONE.write(tmp_path / "identity.json")
    ONE.check(tmp_path / "identity.json")


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_each_difference_is_named_with_both_values(tmp_path, name):
    ONE.write(tmp_path / "identity.json")
    other = replace(ONE, **{name: "other"})
    with pytest.raises(ResumeError) as problem:
        other.check(tmp_path / "identity.json")
    assert f"{name} was {getattr(ONE, name)!r} and is 'other'" in problem.value.what


def test_without_a_record_nothing_is_resumed(tmp_path):
    with pytest.raises(ResumeError, match="missing or damaged"):
        ONE.check(tmp_path / "identity.json")


def test_a_model_with_other_numbers_is_another_model(tiny_llama, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    assert model_hash(folder) == model_hash(tiny_llama)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_hash(folder) != model_hash(tiny_llama)

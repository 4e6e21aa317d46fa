"""Folding an adapter in: exact arithmetic, a folder that loads anywhere, nothing half done."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftplay_ui.engine.adapters import read_adapter
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.errors import (
    AdapterError,
    ConfigError,
    DiskFullError,
    ModelError,
    NotFiniteError,
)
from sftplay_ui.engine.events import PhaseProgressed, RunFinished, RunStopped, Warned
from sftplay_ui.engine.worker import merge as merge_module
from sftplay_ui.engine.worker.merge import merge
from sftplay_ui.engine.worker.merging.fold import (
    LowRank,
    fold,
    fold_file,
    plan_files,
    read_low_ranks,
    write_index,
)
from sftplay_ui.engine.worker.merging.parity import Spoken, compare
from sftplay_ui.engine.worker.model.load import without_peft_noise
from sftplay_ui.engine.workspace import Workspace
from tests.tuned import build_adapter, build_full


@pytest.fixture
def run_dir(workspace: Workspace) -> Path:
    folder = workspace.outputs / "merge-tuned"
    folder.mkdir()
    return folder


def settings(base: Path, **merge_settings) -> RunConfig:
    return RunConfig.model_validate(
        {
            "job": "merge",
            "model": {"name": str(base)},
            "train": {"bf16": False},
            "merge": merge_settings,
        }
    )


def metrics(run_dir: Path):
    return json.loads((run_dir / "metrics.json").read_text())


def fold_all(base: Path, adapter: Path, out: Path, dtype: str = "bf16"):
    low_ranks = read_low_ranks(adapter)
    out.mkdir()
    plans = plan_files(base, low_ranks, dtype)
    for plan in plans:
        assert sum(fold_file(plan, low_ranks, out, dtype)) == plan.byte_count
    write_index(plans, out)
    return {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 32}}])
@pytest.mark.parametrize("base_name", ["tiny_llama", "tiny_qwen2", "tiny_llama_untied"])
def test_folded_weights_are_those_of_peft(workspace, tmp_path, request, base_name, lora):
    base = request.getfixturevalue(base_name)
    adapter = build_adapter(workspace, base, **lora).path
    folded = fold_all(base, adapter, tmp_path / "out")
    with without_peft_noise():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    expected = model.merge_and_unload().state_dict()
    for name, tensor in folded.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name
    assert set(folded) == set(load_file(base / "model.safetensors"))


def test_a_dora_adapter_is_folded_with_the_lengths_it_learned(workspace, tmp_path, tiny_llama):
    adapter = build_adapter(workspace, tiny_llama, use_dora=True).path
    weights = load_file(adapter / "adapter_model.safetensors")
    longer = {k: 1.5 * w if k.endswith("magnitude_vector") else w for k, w in weights.items()}
    save_file(longer, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    folded = fold_all(tiny_llama, adapter, tmp_path / "out")
    with without_peft_noise():
        base = AutoModelForCausalLM.from_pretrained(tiny_llama)
        model = PeftModel.from_pretrained(base, adapter)
    expected = model.merge_and_unload().state_dict()
    for name, tensor in folded.items():
        theirs = expected[name].to(torch.bfloat16)
        torch.testing.assert_close(tensor, theirs, rtol=2**-7, atol=0, msg=name)
    plain = load_file(tiny_llama / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    lengths = folded["model.layers.0.mlp.up_proj.weight"].float().norm(dim=1) / plain.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 1.5), rtol=1e-2, atol=0)


def test_shards_stay_shards(workspace, tmp_path, tiny_llama):
    adapter = build_adapter(workspace, tiny_llama).path
    whole = fold_all(tiny_llama, adapter, tmp_path / "whole")
    base = tmp_path / "sharded"
    shutil.copytree(tiny_llama, base)
    weights = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(weights)
    files = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: weights[name] for name in names if files[name] == file}
        save_file(part, base / file, metadata={"format": "pt"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    parts = fold_all(base, adapter, tmp_path / "parts")
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == files


def test_a_transposed_layer_is_folded_in_its_own_layout():
    down, up = torch.randn(2, 3), torch.randn(5, 2)
    folded = fold("w", torch.zeros(3, 5), LowRank(down, up, 2.0, True), torch.bfloat16)
    assert torch.equal(folded, (2 * (up @ down)).T.to(torch.bfloat16))


def test_what_fp16_cannot_hold_is_refused():
    with pytest.raises(NotFiniteError, match="up to 7e"):
        fold("w", torch.full((2, 2), 7e4), None, torch.float16)
    assert fold("w", torch.full((2, 2), 7e4), None, torch.bfloat16).isfinite().all()


def test_buffers_of_whole_numbers_are_copied():
    positions = torch.arange(4)
    assert torch.equal(fold("positions", positions, None, torch.bfloat16), positions)


def test_an_adapter_of_another_shape_or_model_is_refused(workspace, tiny_llama, tmp_path):
    low_ranks = read_low_ranks(build_adapter(workspace, tiny_llama).path)
    name, low_rank = next(iter(low_ranks.items()))
    with pytest.raises(AdapterError, match="which the base model"):
        plan_files(tiny_llama, {f"{name}.elsewhere": low_rank}, "bf16")
    narrow = replace(low_rank, down=low_rank.down[:, :-1])
    with pytest.raises(AdapterError, match=" x "):
        plan_files(tiny_llama, {name: narrow}, "bf16")


def test_adapters_that_are_more_than_lora_are_refused(workspace, tiny_llama):
    adapter = build_adapter(workspace, tiny_llama).path
    config = json.loads((adapter / "adapter_config.json").read_text())
    for change in ({"use_qalora": True}, {"bias": "all"}, {"peft_type": "IA3"}):
        (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(AdapterError, match="not a plain LoRA"):
            read_low_ranks(adapter)


def test_a_quantised_base_is_refused(tmp_path):
    save_file({"w": torch.zeros(4, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="quantised"):
        plan_files(tmp_path, {}, "bf16")


def test_the_merged_folder_loads_anywhere_and_says_the_same(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    events = list(merge(settings(tiny_llama), run_dir))
    assert isinstance(events[-1], RunFinished)
    out = Path(events[-1].adapter)
    assert out == run_dir / "model"
    found = metrics(run_dir)
    assert found["parity"]["same_tokens"]
    assert found["parity"]["precision"] == "fp32"
    assert 0 < found["parity"]["largest_logit_difference"] < 0.2
    assert found["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]
    assert "<|im_start|>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert json.loads((out / "sftplay.json").read_text())["run"] == "tuned"
    assert "tuned" in (out / "README.md").read_text()
    done = [event.done for event in events if isinstance(event, PhaseProgressed)]
    assert (out / "model.safetensors").stat().st_size > max(done) > 0


def test_fp16_and_a_folder_of_ones_own(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    list(merge(settings(tiny_llama, out="mine/merged", dtype="fp16"), run_dir))
    weights = load_file(workspace.root / "mine" / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def test_a_whole_tuned_model_is_merged_by_rounding(workspace, run_dir, tiny_llama):
    adapter = build_full(workspace, tiny_llama)
    list(merge(settings(tiny_llama), run_dir))
    ours = load_file(adapter.path / "model.safetensors")
    for name, tensor in load_file(run_dir / "model" / "model.safetensors").items():
        assert torch.equal(tensor, ours[name].to(torch.bfloat16))


def test_a_taken_folder_is_left_alone(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    (workspace.root / "mine").mkdir()
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        list(merge(settings(tiny_llama, out="mine"), run_dir))


def test_the_base_alone_has_nothing_to_merge(run_dir, tiny_llama):
    with pytest.raises(AdapterError, match="nothing to merge"):
        list(merge(settings(tiny_llama, adapter="base"), run_dir))


def test_a_full_disk_is_told_before_anything_is_written(
    workspace, run_dir, tiny_llama, monkeypatch
):
    build_adapter(workspace, tiny_llama)
    usage = shutil.disk_usage(run_dir)._replace(free=1000)
    monkeypatch.setattr(merge_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match="GB free"):
        list(merge(settings(tiny_llama), run_dir))
    assert not list(run_dir.iterdir())


def test_a_stop_leaves_nothing_behind(workspace, run_dir, tiny_llama):
    build_adapter(workspace, tiny_llama)
    seen = []
    for event in merge(settings(tiny_llama), run_dir):
        seen.append(event)
        if isinstance(event, PhaseProgressed):
            (run_dir / "stop").touch()
    assert isinstance(seen[-1], RunStopped)
    assert [path.name for path in run_dir.iterdir()] == ["stop"]


def test_too_little_memory_for_the_proof_is_said(workspace, run_dir, tiny_llama, monkeypatch):
    build_adapter(workspace, tiny_llama)
    monkeypatch.setattr(merge_module, "PROOF_SHARE", 1e9)
    events = list(merge(settings(tiny_llama), run_dir))
    assert [event.code for event in events if isinstance(event, Warned)] == ["no_proof"]
    assert metrics(run_dir)["parity"] is None
    assert not metrics(run_dir)["reload"]


def test_parity_counts_tokens_that_would_be_chosen_otherwise():
    ours = Spoken(((1, 2),), (torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 1.5]]),))
    theirs = Spoken(((1, 1),), (torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.5, 1.25]]),))
    found = compare(ours, theirs, "bf16")
    assert not found.same_tokens
    assert (found.tokens, found.different) == (2, 1)
    assert (found.largest_logit_difference, found.largest_margin) == (0.5, 0.5)


def test_a_merged_adapter_carries_its_contract(workspace, run_dir, tiny_llama):
    adapter = build_adapter(workspace, tiny_llama, system="Be brief.")
    list(merge(settings(tiny_llama), run_dir))
    out = run_dir / "model"
    assert read_adapter(adapter.path).contract.hash in (out / "sftplay.json").read_text()
    assert "Be brief." in (out / "README.md").read_text()

"""Adapters for the tiny models, made in a second without training; needs torch.

Their weights are random and large enough to change what the model says, so a test can tell the
tuned side from the base.
"""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sftplay_ui.engine.adapters import Adapter, mark_newest, write_contract
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.worker.model.load import without_peft_noise
from sftplay_ui.engine.worker.training.identity import model_hash
from sftplay_ui.engine.workspace import Workspace


def build_adapter(
    workspace: Workspace, base: Path, name: str = "tuned", *, system: str = "", **lora: object
) -> Adapter:
    """Write `adapters/<name>` for a base model folder, as the newest adapter; return its facts."""
    folder = workspace.adapters / name
    with torch.random.fork_rng(devices=[]), without_peft_noise():
        torch.manual_seed(1)
        shape = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **lora}
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **shape)
        )
        for parameter_name, parameter in model.named_parameters():
            if ".lora_B." in parameter_name:
                torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder, save_embedding_layers=False)
    return note_contract(workspace, base, folder, system=system, mode="lora")


def build_full(workspace: Workspace, base: Path, name: str = "whole") -> Adapter:
    """Write `adapters/<name>` as full tuning leaves it: a whole model, every weight changed."""
    folder = workspace.adapters / name
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((base / file).read_bytes())
    return note_contract(workspace, base, folder, system="", mode="full")


def note_contract(
    workspace: Workspace, base: Path, folder: Path, *, system: str, mode: str
) -> Adapter:
    """Write `sftplay.json` beside the weights and name the folder in `adapters/last`."""
    adapter = Adapter(
        path=folder,
        base_model=str(base),
        revision=None,
        base_hash=model_hash(base),
        run=folder.name,
        mode=mode,
        template=choose_template(base, None, workspace.templates),
        system=system,
    )
    write_contract(adapter)
    mark_newest(workspace, folder.name)
    return adapter

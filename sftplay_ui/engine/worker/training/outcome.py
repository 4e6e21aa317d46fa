"""What a finished training leaves behind: the adapter (or whole model) folder, and its figures."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor

from sftplay_ui.engine.adapters import Adapter, mark_newest, write_contract
from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.checkpoints import discard, sync, tells_full_disk
from sftplay_ui.engine.errors import DiskFullError
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.models.starter import STARTER_HUB_ID
from sftplay_ui.engine.worker.model.load import Prepared
from sftplay_ui.engine.worker.training.state import write_weights
from sftplay_ui.engine.workspace import Workspace

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
README = """---
base_model: {base}
library_name: {library}
---

# {name}

{kind} of `{base}`, trained with SFT-Play on one's own questions and answers
({mode}, {steps} steps, {examples} examples). Ask it with the chat template in
`chat_template.jinja`; `sftplay.json` says what it was trained with.

| figure | value |
|---|---|
{figures}
"""


@dataclass(frozen=True)
class Tuned:
    """What a training has made: the model, and its weights that learned, whole."""

    prepared: Prepared
    weights: Mapping[str, Tensor]


def leave_adapter(
    facts: Adapter, base: ModelFolder, tuned: Tuned, figures: Mapping[str, object]
) -> Path:
    """Write the folder `facts.path` in one move, name it in `adapters/last`, and return it.

    An adapter that the same run left earlier (it was extended) is replaced.
    """
    final = facts.path
    staged = final.with_name(f".staging-{final.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        fill(staged, facts, base, tuned, figures)
        if final.exists():
            discard(final)
        staged.replace(final)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not tells_full_disk(error):
            raise
        raise DiskFullError(
            f"The disk of {final.parent} is full: the adapter {final.name} was not written.",
            "Make room, then resume the run; its training is kept in its last checkpoint.",
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    sync(final.parent)
    mark_newest(Workspace(final.parents[1]), final.name)
    return final


def fill(
    folder: Path,
    facts: Adapter,
    base: ModelFolder,
    tuned: Tuned,
    figures: Mapping[str, object],
) -> None:
    """Write all that belongs into the adapter's folder, and force it to the disk."""
    model = tuned.prepared.model
    if isinstance(model, PeftModel):
        model.peft_config["default"].base_model_name_or_path = public_name(base)
        write_weights(folder, model, tuned.weights)
    else:
        state, names = model.state_dict(), {id(w): name for name, w in model.named_parameters()}
        for name, weight in model.named_parameters(remove_duplicate=False):
            # tied weights have several names, and one tensor
            state[name] = tuned.weights[names[id(weight)]]
        tuned.prepared.base.save_pretrained(folder, state_dict=state)
    for name in TOKENIZER_FILES:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, folder / name)
    write_contract(replace(facts, path=folder))
    replace_text(folder / "README.md", model_card(facts, public_name(base), figures))
    for file in folder.iterdir():
        sync(file)


def public_name(base: ModelFolder) -> str:
    """Give the name others know the base model by: its id on the Hub, or its folder."""
    match base.source:
        case "starter":
            return STARTER_HUB_ID
        case "hub":
            return base.name
        case "folder":
            return str(base.path)


def write_figures(path: Path, figures: Mapping[str, object]) -> None:
    """Write `metrics.json`."""
    replace_text(path, json.dumps(figures, indent=2) + "\n")


def model_card(facts: Adapter, base: str, figures: Mapping[str, object]) -> str:
    """Write the README that goes with an adapter."""
    rows = [f"| {name} | {value} |" for name, value in figures.items()]
    return README.format(
        base=base,
        library="transformers" if facts.mode == "full" else "peft",
        name=facts.run,
        kind="A fully tuned version" if facts.mode == "full" else "A LoRA adapter",
        mode=facts.mode,
        steps=figures["steps"],
        examples=figures["examples"],
        figures="\n".join(rows),
    )

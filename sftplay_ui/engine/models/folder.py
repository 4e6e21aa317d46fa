"""A base model as a folder on this machine, and the check that it can be used.

Only the files are looked at: nothing is loaded. How a folder gets here is left to `model_store`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sftplay_ui.engine.errors import AdapterError, ModelError
from sftplay_ui.engine.models.safetensors_header import read_header

INDEX = "model.safetensors.index.json"
# Formats that run code of their maker when they are opened.
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class ModelFolder:
    """A base model that is here: the name it was asked for by, its folder, where it came from."""

    name: str
    path: Path
    source: Literal["starter", "folder", "hub"]

    @property
    def tokenizer_path(self) -> Path:
        """Name the file the `tokenizers` library reads; a rare model has none."""
        return self.path / "tokenizer.json"

    def config(self) -> dict[str, Any]:
        """Read config.json. Raises ModelError when it is missing or broken."""
        return read_config(self.path)


def check_model_folder(folder: Path) -> None:
    """Raise ModelError unless the folder holds a whole model in files that are safe to open."""
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {folder}.",
            "Name a folder that exists, `starter`, or the id of a model on the Hub.",
        )
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ModelError(
            f"{folder} is an adapter, not a base model.",
            "Name the base model it was trained from, or merge the adapter first.",
        )
    read_config(folder)
    for weights in weight_files(folder):
        try:
            read_header(weights)
        except AdapterError as problem:
            raise ModelError(problem.what, "Fetch or copy the model again.") from problem
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer (no {', '.join(TOKENIZER_FILES[:3])} ...).",
            "Copy the tokenizer's files from the model's page into the folder.",
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json. Raises ModelError when it is missing or broken."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} has no config.json, so it is not a model folder.",
            "Choose the folder that holds config.json and the *.safetensors files.",
        ) from None
    except ValueError as problem:
        raise ModelError(
            f"{path} is not valid JSON: {problem}.", "Fetch the model again; the file is damaged."
        ) from problem
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"{path} names no model_type, so the kind of model is not known.",
            "Fetch the model again, or choose another one.",
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model folder. Raises ModelError when any is missing."""
    index = folder / INDEX
    if index.exists():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ModelError(
                f"{index} is damaged.", "Fetch the model again; the file is not complete."
            ) from problem
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of {len(names)} weight files, first {missing[0]}.",
                "Fetch the model again; it goes on where it stopped.",
            )
        return sorted(folder / name for name in names)
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise no_safe_weights(folder)
    return found


def no_safe_weights(folder: Path) -> ModelError:
    """Say why a folder without safetensors files is not used."""
    others = sorted(path.name for path in folder.iterdir() if path.suffix in UNSAFE_SUFFIXES)
    if others:
        return ModelError(
            f"{folder} holds its weights as {others[0]}, a kind of file that can run code when it "
            "is opened. Only .safetensors files are read.",
            "Choose a version of the model that comes as safetensors.",
        )
    if any(folder.glob("*.gguf")):
        return ModelError(
            f"{folder} holds a GGUF file: made for answering, not for tuning.",
            "Choose the same model as safetensors.",
        )
    return ModelError(
        f"{folder} holds no weights (no *.safetensors file).",
        "Fetch the model again, or choose another folder.",
    )

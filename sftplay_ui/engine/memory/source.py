"""Where a model's config.json comes from: built in for the starter, a folder, or the Hub.

The weights are not needed, so the answer comes before any download; from the Hub one small file is
fetched, once.
"""

import json
from pathlib import Path
from typing import Any

import huggingface_hub

from sftplay_ui.engine.models.folder import read_config
from sftplay_ui.engine.models.hub import looks_like_hub_id, plain_hub_errors
from sftplay_ui.engine.models.starter import STARTER
from sftplay_ui.engine.workspace import Workspace

# SmolLM2-135M-Instruct
STARTER_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def model_config(name: str, revision: str | None = None, *, workspace: Workspace) -> dict[str, Any]:
    """Read a base model's config.json, without its weights.

    Raises ModelError where there is no such model, or its config.json cannot be had.
    """
    if name == STARTER:
        return STARTER_CONFIG
    folder = workspace.resolve(name)
    if folder.exists() or not looks_like_hub_id(name):
        return read_config(folder)
    with plain_hub_errors(name, revision):
        path = huggingface_hub.hf_hub_download(name, "config.json", revision=revision)
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found

"""What lies beside the weights of a merged model: configuration, tokenizer, template, card."""

import json
import shutil
from pathlib import Path

from sftplay_ui.engine.adapters import CONTRACT_FILE
from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.models.starter import STARTER_HUB_ID
from sftplay_ui.engine.text.special_tokens import read_json
from sftplay_ui.engine.worker.scoring.sides import Pair

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
FULL_NAMES = {"bf16": "bfloat16", "fp16": "float16"}
# says what was done to weights that are plain again, or asks for code to be run
UNWANTED = ("quantization_config", "auto_map", "_name_or_path", "torch_dtype")
CARD = """---
base_model: {base}
library_name: transformers
tags:
- sft-play
---

# {name}

`{base}`, tuned with SFT-Play ({mode}) and merged into one model in {dtype}. It loads like any
other:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="{dtype}")
```

Ask it with the chat template it brings; it was taught with that one{system}.
The licence of the base model holds for this model too.
"""


def write_extras(pair: Pair, source: Path, out: Path, dtype: str) -> None:
    """Write everything but the weights; `source` is the folder the weights came from."""
    config = {**read_json(source / "config.json"), "dtype": FULL_NAMES[dtype]}
    write_json(out / "config.json", {k: v for k, v in config.items() if k not in UNWANTED})
    write_json(out / "generation_config.json", generation_config(pair, source))
    for name in TOKENIZER_FILES:
        if (pair.base.path / name).is_file():
            shutil.copyfile(pair.base.path / name, out / name)
    for pattern in LICENCES:
        for path in pair.base.path.glob(pattern):
            shutil.copyfile(path, out / path.name)
    # the template of training, which a template in tokenizer_config.json must not contradict
    tokenizer = read_json(out / "tokenizer_config.json")
    write_json(out / "tokenizer_config.json", {**tokenizer, "chat_template": pair.template.source})
    replace_text(out / "chat_template.jinja", pair.template.source)
    if pair.adapter:
        shutil.copyfile(pair.adapter.path / CONTRACT_FILE, out / CONTRACT_FILE)
    replace_text(out / "README.md", model_card(pair, dtype))


def generation_config(pair: Pair, source: Path) -> dict[str, object]:
    """Let every program end an answer where training did; what the model brought stays."""
    brought = read_json(source / "generation_config.json")
    return {**brought, "eos_token_id": list(pair.eos_ids), "pad_token_id": pair.tokeniser.pad_id}


def model_card(pair: Pair, dtype: str) -> str:
    """Write the README that goes with a merged model."""
    system = pair.adapter.system if pair.adapter else ""
    return CARD.format(
        base=STARTER_HUB_ID if pair.base.source == "starter" else pair.base.name,
        name=pair.name,
        mode=pair.adapter.mode if pair.adapter else "",
        dtype=FULL_NAMES[dtype],
        system=f', and with the system prompt "{system}"' if system else "",
    )


def write_json(path: Path, value: dict[str, object]) -> None:
    replace_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

"""What a model folder says about its special tokens: where a text begins, ends, and is padded.

Four files may tell (tokenizer_config, special_tokens_map, generation_config, config), and they do
not always agree; the order here is the order of trust. Tokenising is left to `tokens`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.errors import ModelError

# Tried in this order where a model has no padding token of its own, or pads with its end token.
PAD_NAMES = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<|endoftext|>", "<unk>")


@dataclass(frozen=True)
class SpecialTokens:
    """Names and numbers; `eos_ids` are all tokens that end an answer, the tokenizer's own first."""

    bos: str
    adds_bos: bool
    """Whether the model was taught texts that begin with `bos`, as its tokenizer would write it."""
    eos: str
    eos_ids: tuple[int, ...]
    pad: str
    pad_id: int
    marks: frozenset[str]
    """All added tokens, such as `<|im_end|>`: what a chat template may count on."""


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Read the facts of a model or adapter folder; missing files are empty, broken ones refused."""
    named = read_json(folder / "special_tokens_map.json") | read_json(
        folder / "tokenizer_config.json"
    )
    tokenizer = read_json(folder / "tokenizer.json")
    added = _added_tokens(tokenizer)
    generation = read_json(folder / "generation_config.json")
    config = read_json(folder / "config.json")
    ids = [n for source in (generation, config) for n in _ids(source.get("eos_token_id"))]
    eos = _content(named.get("eos_token"))
    if not eos:
        texts = {number: text for text, number in added.items()}
        eos = next((texts[n] for n in ids if n in texts), "")
    if eos in added:
        ids.insert(0, added[eos])
    eos_ids = tuple(dict.fromkeys(ids))
    pad, pad_id = _padding(_content(named.get("pad_token")), added, eos_ids)
    bos = _content(named.get("bos_token"))
    return SpecialTokens(
        bos=bos,
        adds_bos=bool(bos) and _adds(bos, tokenizer, named),
        eos=eos,
        eos_ids=eos_ids,
        pad=pad,
        pad_id=pad_id,
        marks=frozenset(added),
    )


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object; a missing file is an empty one, anything else broken a ModelError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}.", "Fetch the model again, or choose another folder."
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object.", "Fetch the model again.")
    return value


def _adds(bos: str, tokenizer: Mapping[str, object], named: Mapping[str, object]) -> bool:
    setting = named.get("add_bos_token")
    if isinstance(setting, bool):
        return setting
    return json.dumps(bos) in json.dumps(tokenizer.get("post_processor"))


def _added_tokens(tokenizer: Mapping[str, object]) -> dict[str, int]:
    tokens = tokenizer.get("added_tokens")
    if not isinstance(tokens, list):
        return {}
    return {
        token["content"]: token["id"]
        for token in tokens
        if isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and isinstance(token.get("id"), int)
    }


def _content(token: object) -> str:
    # older tokenizers write {"content": "</s>", "lstrip": ...} where newer ones write "</s>"
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [n for n in values if isinstance(n, int) and not isinstance(n, bool)]


def _padding(named: str, added: Mapping[str, int], eos_ids: tuple[int, ...]) -> tuple[str, int]:
    for name in (named, *PAD_NAMES):
        if name in added and added[name] not in eos_ids:
            return name, added[name]
    # masks count positions, so even padding with the end token does no harm
    return (named, added[named]) if named in added else ("", eos_ids[0] if eos_ids else 0)

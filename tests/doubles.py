"""Tiny models that behave like real ones, built when a test asks for them.

Each builder writes an ordinary model folder (safetensors, tokenizer.json, config, chat template):
the code under test loads it through the doors it uses for real models. The Llama and Qwen2 builders
need no torch, so tests of the torch-free engine may use them; the T5 builder imports torch inside.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOCAB_SIZE = 400
HIDDEN_SIZE = 64
HEADS = 4
KV_HEADS = 2
LAYERS = 2
FEED_FORWARD_SIZE = 128
MAX_POSITIONS = 2048
# Wider than the usual 0.02: with near-equal logits, rounding would decide what tests compare.
WEIGHT_STD = 0.08

PAD, BOS, EOS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, BOS, EOS)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEXTS = (
    "What is the capital of France? The capital of France is Paris.",
    "Explain what a list comprehension is, in two short sentences.",
    "A loop repeats a block of code. A function gives a block of code a name.",
    "Who wrote this book? The author of the book is not known.",
    "system user assistant question answer example 0 1 2 3 4 5 6 7 8 9",
)


def build_tiny_llama(folder: Path, *, tied: bool = True, pad_is_eos: bool = False) -> Path:
    """Write a seeded two-layer Llama: byte-level tokenizer, ChatML template; return the folder."""
    config = {
        **_decoder_config(tied=tied, pad_is_eos=pad_is_eos),
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
    }
    return _write_decoder(folder, config)


def build_tiny_qwen2(folder: Path) -> Path:
    """Write a seeded two-layer Qwen2: like the Llama, but q, k and v carry biases."""
    config = {
        **_decoder_config(tied=True, pad_is_eos=False),
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "use_sliding_window": False,
    }
    return _write_decoder(folder, config)


def build_tokenizer_folder(folder: Path, *, pad_is_eos: bool = False) -> Path:
    """Write the tokenizer files and the chat template of the tiny models, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": EOS if pad_is_eos else PAD,
            "unk_token": PAD,
            "model_max_length": MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
        },
    )
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    return folder


def byte_level_tokenizer() -> Tokenizer:
    """Train the tiny models' tokenizer: all 256 bytes, three special tokens, a few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def build_tiny_t5(folder: Path) -> Path:
    """Write a seeded T5 of 2 + 2 layers (FLAN-T5's shape), unigram tokenizer; return the folder."""
    import torch
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigram_tokenizer(),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=64,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
                decoder_start_token_id=0,
                pad_token_id=0,
                eos_token_id=1,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def unigram_tokenizer() -> Tokenizer:
    """Make T5's kind of tokenizer: pieces with scores; line breaks become blanks.

    The pieces are the texts' characters and words: trained ones would differ from time to time.
    """
    words = sorted({f"▁{word}" for text in TEXTS for word in text.split()})
    characters = sorted({"▁", *"".join(TEXTS).replace(" ", "")})
    pieces = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    pieces += [(character, -4.0) for character in characters]
    pieces += [(word, -6.0) for word in words if word not in characters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def _decoder_config(*, tied: bool, pad_is_eos: bool) -> dict[str, object]:
    bos, eos = SPECIAL_TOKENS.index(BOS), SPECIAL_TOKENS.index(EOS)
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": FEED_FORWARD_SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "initializer_range": WEIGHT_STD,
        "attention_dropout": 0.0,
        "tie_word_embeddings": tied,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": eos if pad_is_eos else SPECIAL_TOKENS.index(PAD),
        "dtype": "float32",
        "use_cache": True,
    }


def _write_decoder(folder: Path, config: dict[str, object]) -> Path:
    tokens = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    build_tokenizer_folder(folder, pad_is_eos=tokens["pad_token_id"] == tokens["eos_token_id"])
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", tokens)
    weights = dict(
        _decoder_weights(
            tied=bool(config["tie_word_embeddings"]), biased=config["model_type"] == "qwen2"
        )
    )
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _decoder_weights(*, tied: bool, biased: bool) -> "Iterator[tuple[str, NDArray[np.float32]]]":
    random = np.random.default_rng(0)

    def normal(*shape: int) -> "NDArray[np.float32]":
        return random.normal(0.0, WEIGHT_STD, shape).astype(np.float32)

    ones = np.ones(HIDDEN_SIZE, dtype=np.float32)
    kv_size = HIDDEN_SIZE * KV_HEADS // HEADS
    yield "model.embed_tokens.weight", normal(VOCAB_SIZE, HIDDEN_SIZE)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN_SIZE), ("k", kv_size), ("v", kv_size)):
            yield f"{prefix}.self_attn.{name}_proj.weight", normal(rows, HIDDEN_SIZE)
            if biased:
                yield f"{prefix}.self_attn.{name}_proj.bias", normal(rows)
        yield f"{prefix}.self_attn.o_proj.weight", normal(HIDDEN_SIZE, HIDDEN_SIZE)
        yield f"{prefix}.mlp.gate_proj.weight", normal(FEED_FORWARD_SIZE, HIDDEN_SIZE)
        yield f"{prefix}.mlp.up_proj.weight", normal(FEED_FORWARD_SIZE, HIDDEN_SIZE)
        yield f"{prefix}.mlp.down_proj.weight", normal(HIDDEN_SIZE, FEED_FORWARD_SIZE)
        yield f"{prefix}.input_layernorm.weight", ones
        yield f"{prefix}.post_attention_layernorm.weight", ones.copy()
    yield "model.norm.weight", ones.copy()
    if not tied:
        yield "lm_head.weight", normal(VOCAB_SIZE, HIDDEN_SIZE)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

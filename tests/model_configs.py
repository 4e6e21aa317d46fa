"""config.json of well-known models, as far as their size depends on it."""

from typing import Any


def config(
    family: str,
    width: tuple[int, int],
    layers: int,
    heads: tuple[int, int],
    vocabulary: int,
    **more: Any,
) -> dict[str, Any]:
    """Write a config.json; `width` and `heads` are pairs: residual and feed-forward, q and kv."""
    return {
        "model_type": family,
        "hidden_size": width[0],
        "intermediate_size": width[1],
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        **more,
    }


TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
QWEN = {
    "Qwen2.5-0.5B": config("qwen2", (896, 4864), 24, (14, 2), 151936, **TIED),
    "Qwen2.5-1.5B": config("qwen2", (1536, 8960), 28, (12, 2), 151936, **TIED),
    "Qwen2.5-3B": config("qwen2", (2048, 11008), 36, (16, 2), 151936, **TIED),
    "Qwen2.5-7B": config("qwen2", (3584, 18944), 28, (28, 4), 152064, **UNTIED),
}
OTHERS = {
    "Llama-3.2-1B": config("llama", (2048, 8192), 16, (32, 8), 128256, head_dim=64, **TIED),
    "SmolLM2-135M": config("llama", (576, 1536), 30, (9, 3), 49152, **TIED),
    "SmolLM2-360M": config("llama", (960, 2560), 32, (15, 5), 49152, **TIED),
    "SmolLM2-1.7B": config("llama", (2048, 8192), 24, (32, 32), 49152, **TIED),
    "Qwen3-0.6B": config("qwen3", (1024, 3072), 28, (16, 8), 151936, head_dim=128, **TIED),
    "Mistral-7B-v0.3": config("mistral", (4096, 14336), 32, (32, 8), 32768, **UNTIED),
    "Gemma-2B": config("gemma", (2048, 16384), 18, (8, 1), 256000, head_dim=256),
    "Gemma-3-1B": config("gemma3_text", (1152, 6912), 26, (4, 1), 262144, head_dim=256),
    "Phi-2": config("phi", (2560, 10240), 32, (32, 32), 51200, **UNTIED),
    "Phi-3-mini": config("phi3", (3072, 8192), 32, (32, 32), 32064, **UNTIED),
    "GPT-2": {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "vocab_size": 50257,
    },
    "FLAN-T5-small": {
        "model_type": "t5",
        "d_model": 512,
        "d_ff": 1024,
        "d_kv": 64,
        "num_heads": 6,
        "num_layers": 8,
        "num_decoder_layers": 8,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}
ALL = {**QWEN, **OTHERS}

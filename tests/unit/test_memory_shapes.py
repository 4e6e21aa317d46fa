"""Shapes of models: every weight is counted, from config.json alone."""

import pytest

from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.memory.shapes import ModelShape
from tests.model_configs import ALL, OTHERS, QWEN

# What the models' own pages, or the sums of their weight files, say.
PARAMETERS = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.2-1B": 1_235_814_400,
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "Qwen3-0.6B": 596_049_920,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Gemma-2B": 2_506_172_416,
    "Gemma-3-1B": 999_885_952,
    "Phi-2": 2_779_683_840,
    "Phi-3-mini": 3_821_079_552,
    "GPT-2": 124_439_808,
    "FLAN-T5-small": 76_961_152,
}


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_is_counted(name: str) -> None:
    assert ModelShape.of(ALL[name]).parameters == PARAMETERS[name]


def test_an_adapter_on_all_linear_layers_of_a_3b_model_has_29_9_million_weights() -> None:
    shape = ModelShape.of(QWEN["Qwen2.5-3B"])
    assert shape.adapter_weights(16, "all-linear") == 29_933_568


def test_an_adapter_reaches_the_named_layers_only() -> None:
    shape = ModelShape.of(OTHERS["SmolLM2-135M"])
    assert shape.adapter_weights(8, ["q_proj", "model.layers.self_attn.v_proj"]) == (
        30 * 8 * ((576 + 576) + (576 + 192))
    )


def test_a_model_of_text_and_pictures_is_read_for_its_text() -> None:
    inner = OTHERS["Gemma-3-1B"]
    shape = ModelShape.of({"model_type": "gemma3", "text_config": inner})
    assert shape == ModelShape.of(inner)


def test_the_weights_of_experts_are_counted_but_get_no_adapter() -> None:
    dense = ModelShape.of(QWEN["Qwen2.5-0.5B"])
    config = {**QWEN["Qwen2.5-0.5B"], "num_experts": 8, "moe_intermediate_size": 512}
    mixture = ModelShape.of({**config, "model_type": "qwen2_moe"})
    assert mixture.other_weights > 24 * 8 * 3 * 896 * 512
    assert mixture.adapter_weights(16, "all-linear") < dense.adapter_weights(16, "all-linear")


def test_capped_scores_are_no_plain_head() -> None:
    capped = {**OTHERS["Gemma-2B"], "model_type": "gemma2", "final_logit_softcapping": 30.0}
    assert not ModelShape.of(capped).plain_head
    assert ModelShape.of(OTHERS["Gemma-2B"]).plain_head


def test_a_config_without_sizes_is_refused_in_words() -> None:
    with pytest.raises(ModelError, match="names no hidden_size"):
        ModelShape.of({"model_type": "llama", "vocab_size": 10})

"""The prepared model: all fast paths together compute what plain transformers and peft compute."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from sftplay_ui.engine.config import LoraConfig as LoraSettings
from sftplay_ui.engine.config import TrainConfig
from sftplay_ui.engine.device import cpu_device
from sftplay_ui.engine.errors import AdapterError, ModelError
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.resolve import ModelSize, parameter_count, resolve
from sftplay_ui.engine.worker.model.load import (
    add_adapter,
    load_base,
    load_with_adapter,
    prepare,
    without_peft_noise,
)
from sftplay_ui.engine.worker.training.batches import Plan, padded
from sftplay_ui.engine.worker.training.learner import Course, Learner, Stepper
from tests.training import config_for, tokenised


def prepared_for(folder: Path, **how):
    config = config_for(folder, **how)
    model = ModelFolder(str(folder), folder, "folder")
    size = ModelSize.of(model.config(), parameter_count(folder))
    resolved = resolve(config, cpu_device(), size, longest=128)
    return prepare(model, config, resolved, device="cpu", longest=128)


def plain_gradients(folder: Path, examples, mode: str, dtype=torch.float32):
    """Compute loss and gradients with nothing but the libraries, padded, one batch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(42)
    if mode == "lora":
        shape = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
        with without_peft_noise():
            model = get_peft_model(model, shape)
    stir(model)
    model.to(dtype).train()
    batch = padded(examples, pad_id=0)
    logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits
    loss = functional.cross_entropy(logits.flatten(0, 1)[batch.keep], batch.target)
    loss.backward()
    return loss.item(), named_gradients(model)


def stir(model) -> None:
    """Give the second adapter matrices values: fresh ones are zero, and so are many gradients."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def named_gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def stepper_for(prepared, examples, batch_size: int) -> Stepper:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    plan = Plan.make([len(e.input_ids) for e in examples], TrainConfig(max_steps=1), len(examples))
    course = Course(examples, plan, batch_size, pad_id=0, max_grad_norm=0.0)
    weights = [p for p in prepared.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights)
    learner = Learner(prepared)
    return Stepper(learner, course, accelerator=Accelerator(cpu=True), optimizer=optimizer)


def gather(stepper: Stepper) -> float:
    learned = sum(sum(e.learned[1:]) for e in stepper.course.examples)
    return float(stepper.backward_all(1, learned)) / learned


@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_llama_untied", "tiny_qwen2"])
def test_loss_and_gradients_are_those_of_the_plain_libraries(fixture, mode, request):
    folder = request.getfixturevalue(fixture)
    examples = tokenised(folder, 6)
    expected, gradients = plain_gradients(folder, examples, mode)
    prepared = prepared_for(folder, mode=mode)
    assert (prepared.side_by_side, prepared.plain_head) == (True, True)
    stir(prepared.model)
    assert gather(stepper_for(prepared, examples, 6)) == pytest.approx(expected, rel=1e-5)
    for name, grad in named_gradients(prepared.model).items():
        difference = (grad - gradients[name]).norm() / gradients[name].norm()
        assert difference < 1e-5, name


@pytest.mark.parametrize("packing", ["auto", False])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_cutting_a_step_into_micro_batches_does_not_change_its_gradient(
    tiny_llama, batch_size, packing
):
    examples = tokenised(tiny_llama, 7)
    found = []
    for size in (7, batch_size):
        prepared = prepared_for(tiny_llama, packing=packing)
        stir(prepared.model)
        found.append((gather(stepper_for(prepared, examples, size)), prepared.model))
    (whole, model), (cut, other) = found
    assert cut == pytest.approx(whole, rel=1e-6)
    gradients = named_gradients(other)
    for name, grad in named_gradients(model).items():
        torch.testing.assert_close(grad, gradients[name], rtol=1e-4, atol=1e-7)


def test_a_model_that_caps_its_scores_takes_the_plain_loss(tiny_llama, monkeypatch):
    monkeypatch.setattr(
        "sftplay_ui.engine.worker.model.load.head_is_plain", lambda _model: (False, "it caps")
    )
    examples = tokenised(tiny_llama, 4)
    prepared = prepared_for(tiny_llama, packing=False)
    assert not prepared.plain_head
    expected, gradients = plain_gradients(tiny_llama, examples, "lora")
    stir(prepared.model)
    assert gather(stepper_for(prepared, examples, 4)) == pytest.approx(expected, rel=1e-5)
    for name, grad in named_gradients(prepared.model).items():
        torch.testing.assert_close(grad, gradients[name], rtol=1e-4, atol=1e-7)


def test_recomputed_activations_give_the_same_gradients(tiny_llama):
    examples = tokenised(tiny_llama, 4)
    gradients = []
    for recompute in (False, True):
        prepared = prepared_for(tiny_llama, gradient_checkpointing=recompute)
        stir(prepared.model)
        gather(stepper_for(prepared, examples, 4))
        gradients.append(named_gradients(prepared.model))
    for name, grad in gradients[0].items():
        torch.testing.assert_close(grad, gradients[1][name], msg=name)


def test_every_fast_path_is_told_with_its_reason(tiny_llama):
    told = {c.setting: c for c in prepared_for(tiny_llama, lora={"dropout": 0.1}).choices}
    assert told["adapter layers"].value == "peft's own"
    assert "dropout" in told["adapter layers"].reason
    assert told["train.packing"].value is True
    assert told["loss"].value == "chunked"


def test_a_layer_that_is_not_there_is_refused_with_the_nearest_names(tiny_llama):
    base = load_base(tiny_llama, dtype=torch.float32, device="cpu")
    with pytest.raises(AdapterError) as problem:
        add_adapter(base, LoraSettings(target_modules=["q_porj"]))
    assert '"q_porj"' in problem.value.what
    assert "q_proj" in problem.value.fix


def test_an_encoder_decoder_is_loaded_whole(tiny_t5):
    base = load_base(tiny_t5, dtype=torch.float32, device="cpu")
    assert type(base).__name__ == "T5ForConditionalGeneration"


def test_weights_that_are_missing_are_named(tiny_llama, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        load_base(folder, dtype=torch.float32, device="cpu")


def test_an_adapter_of_another_model_is_refused(tiny_llama, tiny_models, tmp_path):
    from tests import doubles

    base = load_base(tiny_llama, dtype=torch.float32, device="cpu")
    add_adapter(base, LoraSettings(r=4)).save_pretrained(tmp_path / "adapter")
    wider = doubles.build_tiny_llama(tmp_path / "wider")
    import json

    from safetensors.torch import load_file, save_file

    weights = load_file(wider / "model.safetensors")
    config = json.loads((wider / "config.json").read_text())
    config["intermediate_size"] *= 2
    for name, weight in weights.items():
        if "mlp" in name:
            weights[name] = torch.cat([weight, weight], 1 if "down" in name else 0)
    save_file(weights, wider / "model.safetensors", metadata={"format": "pt"})
    (wider / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="does not fit"):
        load_with_adapter(wider, tmp_path / "adapter", dtype=torch.float32, device="cpu")


@pytest.mark.parametrize(("change", "said"), [("missing", "lacks"), ("foreign", "no place for")])
def test_an_adapter_that_is_not_whole_is_refused_and_not_filled_up_at_random(
    tiny_llama, tmp_path, change, said
):
    from safetensors.torch import load_file, save_file

    base = load_base(tiny_llama, dtype=torch.float32, device="cpu")
    add_adapter(base, LoraSettings(r=4)).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    if change == "missing":
        weights.pop(sorted(weights)[0])
    else:
        weights["base_model.model.model.layers.99.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 64)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=said):
        load_with_adapter(tiny_llama, tmp_path / "adapter", dtype=torch.float32, device="cpu")


def test_weights_of_other_shapes_than_the_configuration_are_told_in_words(tmp_path):
    import json

    from tests import doubles

    folder = doubles.build_tiny_llama(tmp_path / "wrong")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 128}))
    with pytest.raises(ModelError, match=r"other shapes than its config\.json says"):
        load_base(folder, dtype=torch.float32, device="cpu")


QLORA = """
import logging, sys
logging.disable(logging.WARNING)
import torch
from pathlib import Path
from tests.training import config_for, tokenised
from tests.unit.test_model import gather, named_gradients, prepared_for, stepper_for, stir
folder = Path(sys.argv[1])
examples = tokenised(folder, 4)
prepared = prepared_for(folder, mode="qlora", bf16=True, tuning={"unpack_4bit": False})
stir(prepared.model)
stepper = stepper_for(prepared, examples, 4)
gather(stepper)
before = named_gradients(prepared.model)
prepared.model.zero_grad()
prepared.model.eval()
with torch.no_grad():
    stepper.learner(stepper.lay(examples))
prepared.model.train()
gather(stepper)
after = named_gradients(prepared.model)
assert len(before) == 28 and all(g.norm() > 0 for g in before.values())
for name in before:
    assert torch.equal(before[name], after[name]), name
kinds = {type(m.base_layer).__name__ for m in prepared.model.modules() if hasattr(m, "lora_A")}
dtypes = {m.base_layer.compute_dtype for m in prepared.model.modules() if hasattr(m, "lora_A")}
print(kinds, dtypes)
"""


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_qwen2"])
def test_4_bit_gradients_are_the_same_before_and_after_an_evaluation(fixture, request):
    """In a process of its own: bitsandbytes warns when it is imported."""
    folder = request.getfixturevalue(fixture)
    done = subprocess.run(
        [sys.executable, "-c", QLORA, str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'Linear4bit'} {torch.bfloat16}"


@pytest.mark.slow
def test_the_real_starter_learns_as_with_the_plain_libraries_in_double_precision(starter_model):
    """In fp32 the plain libraries are 4e-5 off the exact gradients, more than this may differ."""
    examples = tokenised(starter_model, 4)
    expected, exact = plain_gradients(starter_model, examples, "lora", torch.float64)
    prepared = prepared_for(starter_model)
    stir(prepared.model)
    assert gather(stepper_for(prepared, examples, 4)) == pytest.approx(expected, abs=5e-5)
    ours = named_gradients(prepared.model)
    whole = torch.cat([grad.flatten() for grad in exact.values()])
    difference = torch.cat([(ours[name] - exact[name]).flatten() for name in exact])
    assert difference.norm() < 2e-5 * whole.norm()


def test_the_learner_holds_each_weight_once(tiny_llama):
    prepared = prepared_for(tiny_llama)
    assert sum(1 for _ in Learner(prepared).parameters()) == sum(
        1 for _ in prepared.model.parameters()
    )


@pytest.fixture
def tiny_gemma2(tmp_path, tiny_tokenizer):
    """Build a tiny Gemma 2: it caps the scores of its attention and of its head."""
    shape = Gemma2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=0.5,
        final_logit_softcapping=0.5,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    folder = tmp_path / "gemma2"
    Gemma2ForCausalLM(shape).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_tokenizer / name, folder / name)
    return folder


def test_a_model_that_caps_its_attention_learns_with_its_own(tiny_gemma2, tiny_llama):
    examples = tokenised(tiny_llama, 4)
    prepared = prepared_for(tiny_gemma2)
    assert (prepared.side_by_side, prepared.plain_head) == (False, False)
    assert prepared.base.config._attn_implementation == "eager"
    expected, gradients = plain_gradients(tiny_gemma2, examples, "lora")
    stir(prepared.model)
    assert gather(stepper_for(prepared, examples, 4)) == pytest.approx(expected, rel=1e-5)
    for name, grad in named_gradients(prepared.model).items():
        torch.testing.assert_close(grad, gradients[name], rtol=1e-4, atol=1e-7)

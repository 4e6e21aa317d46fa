"""The form: every control comes from its setting, and what it holds comes back checked."""

import gradio as gr
import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import SETTINGS
from sftplay_ui.engine.errors import ConfigError
from sftplay_ui.form import Form, as_shown, as_value, values_of
from sftplay_ui.presets import PRESETS

SIMPLE = [path for path, setting in SETTINGS.items() if setting.kind not in ("map", "list")]


@pytest.fixture
def form() -> Form:
    made = Form("test")
    with gr.Blocks(analytics_enabled=False):
        for path in SIMPLE:
            made.add(path)
    return made


def untouched(form: Form) -> dict:
    return {control: control.value for control in form.inputs}


def test_an_untouched_form_is_the_default_configuration(form):
    assert form.config(untouched(form)) == RunConfig()


@pytest.mark.parametrize("path", SIMPLE)
def test_every_default_survives_the_way_through_its_control(path):
    setting = SETTINGS[path]
    assert as_value(setting, as_shown(setting, setting.default)) == setting.default


@pytest.mark.parametrize(
    ("path", "typed", "value"),
    [
        ("train.learning_rate", "2e-4", 2e-4),
        ("train.learning_rate", " auto ", "auto"),
        ("train.batch_size", "4", 4),
        ("train.bf16", "on", True),
        ("train.bf16", "off", False),
        ("tuning.lora.target_modules", "[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("model.revision", "", None),
        ("model.name", "org/model", "org/model"),
        ("train.epochs", 2, 2.0),
    ],
)
def test_what_is_typed_becomes_a_value(form, path, typed, value):
    filled = {**untouched(form), form.controls[path]: typed}
    assert values_of(form.config(filled), [path])[path] == value


def test_a_list_is_shown_the_way_it_is_typed():
    setting = SETTINGS["tuning.lora.target_modules"]
    assert as_shown(setting, ["q_proj", "v_proj"]) == "[q_proj, v_proj]"


def test_all_problems_are_told_at_once(form):
    filled = {
        **untouched(form),
        form.controls["train.learning_rate"]: "fast",
        form.controls["train.epochs"]: -1,
        form.controls["model.max_seq_len"]: None,
        form.controls["train.bf16"]: "on",
        form.controls["train.fp16"]: "on",
    }
    with pytest.raises(ConfigError) as caught:
        form.config(filled)
    for path in (
        "train.learning_rate",
        "'fast'",
        "train.epochs",
        "model.max_seq_len",
        "train.fp16",
    ):
        assert path in caught.value.what


def test_a_form_filled_from_a_configuration_gives_that_configuration_back(form):
    config = form.config(
        {
            **untouched(form),
            form.controls["train.epochs"]: 7,
            form.controls["train.packing"]: "off",
            form.controls["tuning.lora.target_modules"]: "[q_proj]",
        }
    )
    updates = form.filled(values_of(config, form.controls))
    assert form.config({control: update["value"] for control, update in updates.items()}) == config


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_configuration(form, name):
    updates = form.filled(PRESETS[name])
    filled = {**untouched(form), **{c: update["value"] for c, update in updates.items()}}
    config = form.config(filled)
    assert values_of(config, PRESETS[name]) == PRESETS[name]


def test_presets_set_the_same_settings_so_that_none_lingers():
    assert len({frozenset(preset) for preset in PRESETS.values()}) == 1


def test_the_balanced_preset_is_the_default():
    assert values_of(RunConfig(), PRESETS["balanced"]) == PRESETS["balanced"]


def test_every_control_has_a_name_a_help_text_and_an_id(form):
    for path, control in form.controls.items():
        assert control.label, path
        assert control.info, path
        assert control.elem_id == f"test-{path.replace('.', '-')}"

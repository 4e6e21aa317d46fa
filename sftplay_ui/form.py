"""A form made from the settings: one control for each, read back by name into a checked RunConfig.

What a setting takes, its limits, default and help text all come from `engine.settings`; nothing
is said twice here. Which settings a tab shows, and where, is the tab's affair.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import SETTINGS, make_config
from sftplay_ui.engine.settings import Setting, show
from sftplay_ui.engine.yaml_file import parse_value

LABELS = {
    "model.name": "Base model",
    "model.max_seq_len": "Max seq len",
    "tuning.lora.r": "Rank (r)",
    "tuning.lora.use_rslora": "rsLoRA",
    "tuning.lora.use_dora": "DoRA",
    "train.neftune_noise_alpha": "NEFTune noise (alpha)",
    "train.label_smoothing_factor": "Label smoothing",
    "train.lr_scheduler_type": "Learning rate schedule",
    "train.optim": "Optimizer",
    "train.grad_accum": "Gradient accumulation (grad accum)",
    "train.bf16": "bf16",
    "train.fp16": "fp16",
    "logging.backend": "TensorBoard",
    "run_name": "Run name",
}
SWITCH = {"auto": "auto", "on": True, "off": False}


class Form:
    """Controls for some settings, keyed by their dotted paths."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.controls: dict[str, Component] = {}
        self.paths: dict[Component, str] = {}

    @property
    def inputs(self) -> set[Component]:
        """Give the controls as a set: a handler then gets values by component, not place."""
        return set(self.controls.values())

    def add(self, path: str, control: Component | None = None) -> Component:
        """Make the control of one setting here (or take a special one), and remember it."""
        made = control or control_of(SETTINGS[path], self.prefix)
        self.controls[path] = made
        self.paths[made] = path
        return made

    def section(self, title: str, paths: Sequence[str]) -> None:
        """Lay out settings under a closed accordion, two in a row, with a reset button."""
        with gr.Accordion(title, open=False, elem_classes=["section"]):
            for pair in zip(paths[::2], [*paths[1::2], None], strict=False):
                with gr.Row(elem_classes=["pair"]):
                    for path in filter(None, pair):
                        self.add(path)
            ident = f"{self.prefix}-reset-{title.split()[0].lower()}"
            reset = gr.Button("Reset these", size="sm", elem_id=ident, elem_classes=["quiet"])
            reset.click(
                lambda: self.filled({path: SETTINGS[path].default for path in paths}),
                outputs=[self.controls[path] for path in paths],
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )

    def filled(self, values: Mapping[str, Any]) -> dict[Component, Any]:
        """Turn values by path into updates of the controls that show them."""
        return {
            self.controls[path]: gr.update(value=as_shown(SETTINGS[path], value))
            for path, value in values.items()
            if path in self.controls
        }

    def values(self, filled: Mapping[Component, Any]) -> dict[str, Any]:
        """Read the controls into values by dotted path, unchecked."""
        return {
            path: as_value(SETTINGS[path], filled[control])
            for path, control in self.controls.items()
            if control in filled
        }

    def config(self, filled: Mapping[Component, Any], **fixed: Any) -> RunConfig:
        """Check the form; ConfigError lists every problem. `fixed` are settings not on it."""
        return make_config({**self.values(filled), **fixed})


def values_of(config: RunConfig, paths: Iterable[str]) -> dict[str, Any]:
    """Take some settings out of a configuration, by dotted path."""
    found = {}
    for path in paths:
        value: Any = config
        for key in path.split("."):
            value = getattr(value, key)
        found[path] = value
    return found


def label_of(setting: Setting) -> str:
    """Name a setting for a person; the words are those of the configuration."""
    return LABELS.get(setting.path) or setting.name.replace("_", " ").capitalize()


def help_of(setting: Setting) -> str:
    """Say what a setting does, and what it is if nobody touches it."""
    if setting.essential or setting.default in (None, ""):
        return setting.help.replace("`", "")
    return f"{setting.help} Default: {show(setting.default)}.".replace("`", "")


def control_of(setting: Setting, prefix: str) -> Component:
    """Make the control that suits a setting's kind."""
    look: dict[str, Any] = {
        "label": label_of(setting),
        "info": help_of(setting),
        "value": as_shown(setting, setting.default),
        "elem_id": f"{prefix}-{setting.path.replace('.', '-')}",
        "min_width": 120,
    }
    if setting.kind == "choice":
        return gr.Dropdown(list(setting.choices), **look)
    if setting.kind == "bool" and setting.auto:
        return gr.Dropdown(list(SWITCH), **look)
    if setting.kind == "bool":
        return gr.Checkbox(**look)
    if setting.kind in ("int", "float") and not setting.auto:
        return gr.Number(precision=0 if setting.kind == "int" else None, **look)
    return gr.Textbox(**look, max_lines=1)


def as_shown(setting: Setting, value: Any) -> Any:
    """Turn a setting's value into what its control shows."""
    if setting.kind == "bool" and setting.auto:
        return next(word for word, meaning in SWITCH.items() if meaning == value)
    if setting.kind in ("choice", "bool") or (
        setting.kind in ("int", "float") and not setting.auto
    ):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "" if value is None else str(value)


def as_value(setting: Setting, shown: Any) -> Any:
    """Turn what a control holds into a value; what is not understood is left to the check."""
    if setting.kind == "bool" and setting.auto:
        return SWITCH.get(shown, shown)
    if not isinstance(shown, str):
        return shown
    text = shown.strip()
    if not text and setting.optional:
        return None
    if setting.kind in ("int", "float", "list") or text.startswith("["):
        return parse_value(text)
    return text

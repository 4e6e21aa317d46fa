"""The two sides of a comparison: the base model, and the same model tuned.

Evaluate, Chat and Merge all ask "which model, which adapter, which template, in which precision":
`find_pair` answers that from files alone, `Sides` loads it. A LoRA pair is loaded once and its
adapter switched on and off; after full tuning the sides are two models.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from sftplay_ui.engine.adapters import (
    Adapter,
    check_contract,
    find_adapter,
    refuse_not_finite,
)
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import AdapterError, RunNotFoundError
from sftplay_ui.engine.events import Event
from sftplay_ui.engine.models.downloads import OnProgress
from sftplay_ui.engine.models.folder import ModelFolder
from sftplay_ui.engine.models.store import fetch_model
from sftplay_ui.engine.resolve import choose_precision
from sftplay_ui.engine.runs import Run, find_run
from sftplay_ui.engine.text.templates import ChatTemplate, choose_template
from sftplay_ui.engine.text.tokens import Tokeniser, prompt_text, stop_ids
from sftplay_ui.engine.worker.model.load import load_base, load_with_adapter
from sftplay_ui.engine.worker.model.lora_linear import use_lean_linears
from sftplay_ui.engine.worker.model.placement import usable_device
from sftplay_ui.engine.worker.model.precision import DTYPES
from sftplay_ui.engine.worker.phases import tell_progress
from sftplay_ui.engine.worker.training.identity import model_hash
from sftplay_ui.engine.workspace import Workspace

Side = Literal["base", "tuned"]


@dataclass(frozen=True)
class Pair:
    """A base model and, where one was asked for, an adapter: found and checked, not loaded.

    `config` is that of the run that trained the adapter, or the job's own where that is gone.
    """

    base: ModelFolder
    adapter: Adapter | None
    template: ChatTemplate
    tokeniser: Tokeniser
    config: RunConfig

    @property
    def name(self) -> str:
        """Name the tuned side for people; the base model where there is none."""
        return self.adapter.name if self.adapter else self.base.name

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """All tokens that end an answer."""
        return stop_ids(self.template, self.tokeniser)

    def prompt(self, messages: tuple[Message, ...]) -> str:
        """Render the text the model is asked with, as in training.

        A conversation without a system turn gets the one the adapter was trained with; a system
        turn that is empty asks for none.
        """
        if messages and messages[0].role == "system":
            messages = messages if messages[0].content else messages[1:]
        elif self.adapter and self.adapter.system:
            messages = (Message("system", self.adapter.system), *messages)
        return prompt_text(messages, self.template)


def find_pair(
    adapter_name: str | None, config: RunConfig, run_dir: Path
) -> Generator[Event, None, Pair]:
    """Find adapter, base model and template; a base model that is not here is fetched.

    Raises AdapterError where the adapter was trained on another base model or template.
    """
    run = Run(run_dir)
    adapter = find_adapter(adapter_name, run.workspace)
    name, revision = config.model.name, config.model.revision
    if adapter:
        name, revision = adapter.base_model, adapter.revision

    def fetch(on_progress: OnProgress) -> ModelFolder:
        return fetch_model(
            name, revision=revision, workspace=run.workspace, on_progress=on_progress
        )

    base = yield from tell_progress(fetch, run_dir)
    if adapter:
        refuse_not_finite(adapter)
    if adapter and adapter.base_hash not in ("", model_hash(base.path)):
        raise AdapterError(
            f"The base model {base.path} is not the one adapter {adapter.name} was trained on.",
            "Put the same version of the base model there, or train again.",
        )
    return Pair(
        base=base,
        adapter=adapter,
        template=find_template(adapter, base, config, run.workspace),
        tokeniser=Tokeniser.load(base.path),
        config=training_config(adapter, config, run.workspace),
    )


def find_template(
    adapter: Adapter | None, base: ModelFolder, config: RunConfig, workspace: Workspace
) -> ChatTemplate:
    """Choose the adapter's own template; one that is named as well has to be the same."""
    named = config.data.template_path
    if adapter and not named:
        return adapter.template
    template = choose_template(
        base.path, workspace.resolve(named) if named else None, workspace.templates
    )
    if adapter:
        check_contract(adapter, template, adapter.system)
    return template


def training_config(adapter: Adapter | None, config: RunConfig, workspace: Workspace) -> RunConfig:
    """Read the configuration an adapter was trained by; the job's own where that run is gone."""
    if adapter is None:
        return config
    try:
        return find_run(adapter.run, workspace).config()
    except RunNotFoundError:
        return config


class Sides:
    """The loaded pair; `asking` gives the model of a side, ready to answer."""

    def __init__(self, pair: Pair, precision: Choice | None = None) -> None:
        """Prepare to load; `precision` is that of training unless it is given."""
        self.pair = pair
        self.device = usable_device()
        self.precision = precision or choose_precision(
            pair.config.train, self.device, encodes=pair.template.is_encoded
        )
        self.loaded: dict[Side, PreTrainedModel] = {}

    @property
    def choices(self) -> tuple[Choice, ...]:
        return (self.precision,)

    @property
    def switched(self) -> bool:
        """Whether one loaded model is both sides."""
        return self.pair.adapter is not None and self.pair.adapter.mode != "full"

    def load(self, side: Side) -> PreTrainedModel:
        """Load the model of a side, once."""
        key: Side = "tuned" if self.switched else side
        if key not in self.loaded:
            self.loaded[key] = self.load_new(key)
        return self.loaded[key]

    def load_new(self, side: Side) -> PreTrainedModel:
        dtype, device = DTYPES[self.precision.value], self.device.id
        adapter = self.pair.adapter
        if side == "base" or adapter is None:
            return load_base(self.pair.base.path, dtype=dtype, device=device)
        if adapter.mode == "full":
            return load_base(adapter.path, dtype=dtype, device=device)
        # a card that had to train on 4-bit weights has no room for 16-bit ones
        quantised = adapter.mode == "qlora" and self.device.kind == "cuda"
        model = load_with_adapter(
            self.pair.base.path, adapter.path, dtype=dtype, device=device, quantised=quantised
        )
        round_adapter(model, dtype)
        use_lean_linears(model)
        return model

    @contextmanager
    def asking(self, side: Side) -> Iterator[PreTrainedModel]:
        """Give the model of a side; a shared one is that side until the block ends."""
        model = self.load(side)
        if side == "base" and self.switched:
            with model.disable_adapter():
                yield model
        else:
            yield model


def round_adapter(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Keep the adapter in what it is multiplied in, as every training step rounds it anyway."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(dtype)

"""Several machines: prepare a run, and show the command to start on each of them."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import detect_device
from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.engine.launching import Cluster, node_commands
from sftplay_ui.engine.runs import make_run
from sftplay_ui.engine.workspace import Workspace
from sftplay_ui.tabs.guard import guarded
from sftplay_ui.tabs.parts import note_box, problem, said


class NodeCommands:
    """A closed part of the form; `config` reads what is filled in there."""

    def __init__(
        self, workspace: Workspace, config: Callable[[Mapping[Component, Any]], RunConfig]
    ) -> None:
        self.workspace = workspace
        self.config = config

    def build(self, inputs: set[Component]) -> None:
        """Lay out the questions, the button and the commands."""
        with gr.Accordion("Several machines", open=False, elem_classes=["card"]):
            with gr.Row(elem_classes=["pair"]):
                self.nodes = gr.Number(
                    2, label="Machines", precision=0, minimum=2, elem_id="train-nodes"
                )
                self.address = gr.Textbox(
                    label="Address of the first",
                    placeholder="HOST or HOST:PORT",
                    lines=1,
                    elem_id="train-address",
                )
            ask = gr.Button("Prepare", size="sm", elem_id="train-prepare")
            note = note_box("train-nodes-note")
            self.commands = gr.Textbox(
                label="Start on each machine, in the project's folder",
                lines=6,
                buttons=["copy"],
                elem_id="train-node-commands",
                elem_classes=["mono"],
            )
        ask.click(
            guarded(self.prepare),
            inputs={self.nodes, self.address, *inputs},
            outputs=[note, self.commands],
            show_progress="minimal",
            api_visibility="private",
        ).then(None, js="() => SFTPlay.soon()")

    def prepare(self, filled: Mapping[Component, Any]) -> tuple[str, str]:
        """Write the run's folder, which every machine must see; no worker is started."""
        try:
            config = self.config(filled)
            cluster = Cluster.at(
                filled[self.address] or "",
                nodes=int(filled[self.nodes] or 2),
                processes=config.train.processes,
                kind=detect_device().kind,
            )
            run = make_run(config, self.workspace)
        except SFTPlayError as error:
            return problem(error), ""
        commands = node_commands(run.folder, cluster)
        lines = (f"# machine {place}\n{line}" for place, line in enumerate(commands, 1))
        told = f"{run.name} is prepared. All machines must see its folder under the same path."
        return said(told), "\n".join(lines)

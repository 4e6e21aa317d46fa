"""The headless commands: each a thin call of one engine part.

A command takes a `Context` and gives an `Answer`; parsing arguments and printing are left to `cli`.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftplay_ui.console import Reporter
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import load_config
from sftplay_ui.engine.workspace import Workspace

DONE = 0
FAILED = 1
USAGE = 2
STOPPED = 130


@dataclass(frozen=True)
class Answer:
    """What a command found: a value for `--json`, text for a person, and the exit code."""

    value: Any
    text: str = ""
    code: int = DONE


@dataclass(frozen=True)
class Context:
    """What every command gets: its arguments, the workspace, and where to report progress."""

    args: Namespace
    workspace: Workspace
    reporter: Reporter

    def config(self, overrides: Sequence[str] = ()) -> RunConfig:
        """Load `--config` with `--set` and the command's own overrides; warnings are shown."""
        path = Path(self.args.config) if self.args.config else None
        loaded = load_config(path, [*self.args.set, *overrides], self.workspace)
        for warning in loaded.warnings:
            self.reporter.say(f"warning: {warning}")
        return loaded.config

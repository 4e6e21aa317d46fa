"""What this project works with at the moment: the examples, the chat template, the base model.

Data and Style write it down, Train starts from it, so that each tab finds what the one before it
made. It is a small file beside the data; a project without one works with the defaults of `config`.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_args

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.config import DataConfig, RunConfig, Split, StyleConfig
from sftplay_ui.engine.workspace import Workspace

PROJECT_FILE = "current.json"
DEFAULTS = DataConfig()


@dataclass(frozen=True)
class CurrentData:
    """Which files to learn from (paths as in `data.*`), how to render them, what they were made of.

    `system`, `rule` and `how` are the style they got, `splits` (names with commas between) which
    of them got it; `source` is the raw file; `model` the base
    model they were last looked at with, which Style and Data take for counting tokens.
    """

    train_path: str = DEFAULTS.train_path
    val_path: str = DEFAULTS.val_path
    test_path: str = DEFAULTS.test_path
    template_path: str | None = None
    system: str = ""
    rule: str = ""
    how: str = StyleConfig().how
    splits: str = ",".join(StyleConfig().splits)
    source: str = ""
    model: str = ""

    def apply(self, config: RunConfig) -> RunConfig:
        """Give the configuration with these examples, this template and this style."""
        data = {
            "train_path": self.train_path,
            "val_path": self.val_path,
            "test_path": self.test_path,
            "template_path": self.template_path,
        }
        style = {
            "system": self.system,
            "rule": self.rule,
            "how": self.how,
            "splits": [split for split in get_args(Split) if split in self.splits.split(",")],
        }
        return config.model_copy(
            update={
                "data": config.data.model_copy(update=data),
                "style": config.style.model_copy(update=style),
            }
        )


def project_file(workspace: Workspace) -> Path:
    """Name the file; it need not be there."""
    return workspace.data / PROJECT_FILE


def current_data(workspace: Workspace) -> CurrentData | None:
    """Read what the project works with; None where nothing was processed yet.

    A damaged file counts as none: it only holds what two clicks bring back.
    """
    try:
        record = json.loads(project_file(workspace).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    known = {field.name for field in fields(CurrentData)}
    texts = {key: value for key, value in record.items() if key in known and isinstance(value, str)}
    current = CurrentData(**texts)
    return current if workspace.resolve(current.train_path).is_file() else None


def set_current_data(workspace: Workspace, current: CurrentData) -> None:
    """Write down what the project works with from now on."""
    text = json.dumps(asdict(current), ensure_ascii=False, indent=2)
    replace_text(project_file(workspace), text + "\n")

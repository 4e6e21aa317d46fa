"""What can be told before a run begins, while nothing is written and no worker is started.

A wrong name, a missing file or a full disk is said at once and leaves no run behind. What only the
worker can find out, such as weights that do not fit their configuration, is left to it.
"""

from itertools import islice

from sftplay_ui.engine.adapters import find_adapter
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import read_examples
from sftplay_ui.engine.models.downloads import need_space
from sftplay_ui.engine.models.store import find_model
from sftplay_ui.engine.workspace import Workspace

# room for the record of a run: its events, its log
RECORD_BYTES = 1 << 20


def refuse_hopeless(config: RunConfig, workspace: Workspace) -> None:
    """Raise the SFTPlayError that the worker would end with, where that is known already."""
    need_room(workspace)
    name, revision = config.model.name, config.model.revision
    if config.job in ("train", "find_lr"):
        # the first of them: the rest is read by the worker
        list(islice(read_examples(workspace.resolve(config.data.train_path)), 1))
    else:
        adapter = find_adapter(adapter_name(config), workspace)
        if adapter is not None:
            name, revision = adapter.base_model, adapter.revision
    find_model(name, revision, workspace=workspace)


def adapter_name(config: RunConfig) -> str | None:
    """Give the adapter a job asks for; None is the newest."""
    match config.job:
        case "evaluate":
            return config.evaluate.run
        case "merge":
            return config.merge.adapter
    return config.chat.run


def need_room(workspace: Workspace) -> None:
    """Raise DiskFullError unless a run can keep its record."""
    workspace.outputs.mkdir(parents=True, exist_ok=True)
    need_space(workspace.outputs, RECORD_BYTES, "A run")

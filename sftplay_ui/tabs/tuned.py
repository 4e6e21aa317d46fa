"""Which tuned models there are, and the configuration a later job takes over from their run."""

from sftplay_ui.engine.adapters import list_adapters
from sftplay_ui.engine.config import Job, RunConfig
from sftplay_ui.engine.errors import RunNotFoundError
from sftplay_ui.engine.project import current_data
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.workspace import Workspace


def tuned_runs(workspace: Workspace) -> list[str]:
    """Name the adapters that can be used, newest first."""
    return [adapter.name for adapter in list_adapters(workspace)]


def follow_up(run: str | None, job: Job, workspace: Workspace) -> RunConfig:
    """Give the configuration a later job starts from: that of the run it is about.

    An adapter whose run folder is gone starts from the project's current data.
    """
    if not run:
        raise RunNotFoundError("No run is chosen.", "Choose one of the list, or train one first.")
    if run not in tuned_runs(workspace):
        raise RunNotFoundError(
            f"There is no tuned model of a run called {run!r}.", "Choose one of the list."
        )
    folder = workspace.outputs / run
    if (folder / "config.yaml").is_file():
        config = Run(folder).config()
    else:
        current = current_data(workspace)
        config = current.apply(RunConfig()) if current else RunConfig()
    return config.model_copy(update={"job": job, "run_name": "auto"})

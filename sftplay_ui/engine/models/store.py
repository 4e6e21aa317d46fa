"""Base models by name: `starter`, a folder, or a model's id on the Hub.

Finding asks nobody but this machine; fetching may download. What a folder must hold is left to
`model_folder`, the two ways of getting one to `starter` and `hub`.
"""

from pathlib import Path

import yaml

from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.models import hub
from sftplay_ui.engine.models.downloads import OnProgress, Progress, ignore_progress
from sftplay_ui.engine.models.folder import ModelFolder, check_model_folder
from sftplay_ui.engine.models.starter import STARTER, STARTER_HUB_ID, fetch_starter, find_starter
from sftplay_ui.engine.workspace import Workspace

__all__ = ["ModelFolder", "OnProgress", "Progress", "fetch_model", "find_model", "list_models"]

RECENT_RUNS = 20


def find_model(
    name: str, revision: str | None = None, *, workspace: Workspace
) -> ModelFolder | None:
    """Return a base model that is on this machine and whole, or None when it must be fetched.

    Raises ModelError when the name is a folder that cannot be used: fetching would not help.
    """
    if name == STARTER:
        if (folder := find_starter()) is not None:
            return ModelFolder(name, folder, "starter")
        cached = hub.find_cached(STARTER_HUB_ID)
        return ModelFolder(name, cached, "hub") if cached else None
    folder = workspace.resolve(name)
    if folder.exists() or not hub.looks_like_hub_id(name):
        check_model_folder(folder)
        return ModelFolder(name, folder, "folder")
    cached = hub.find_cached(name, revision)
    return ModelFolder(name, cached, "hub") if cached else None


def fetch_model(
    name: str,
    *,
    revision: str | None = None,
    workspace: Workspace,
    on_progress: OnProgress = ignore_progress,
) -> ModelFolder:
    """Return a base model, fetched first where it is not here; progress is told in this thread.

    Raises ModelError or DiskFullError with what to do about it.
    """
    found = find_model(name, revision, workspace=workspace)
    if found is not None:
        return found
    if name == STARTER:
        return ModelFolder(name, fetch_starter(on_progress), "starter")
    return ModelFolder(name, hub.fetch_cached(name, revision, on_progress), "hub")


def list_models(workspace: Workspace) -> list[str]:
    """List names to choose from: the starter, those of recent runs, those in the Hub's cache."""
    names = [STARTER, *recent_names(workspace), *hub.cached_names()]
    return [*dict.fromkeys(names)]


def recent_names(workspace: Workspace) -> list[str]:
    """Read the base models of the newest runs that can still be found, newest first."""
    configs = sorted(
        workspace.outputs.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    names = [name for path in configs[:RECENT_RUNS] if (name := model_of(path))]
    return [name for name in dict.fromkeys(names) if is_here(name, workspace)]


def model_of(config_path: Path) -> str | None:
    """Read `model.name` from a run's config; a damaged one has none."""
    try:
        values = yaml.safe_load(config_path.read_text(encoding="utf-8"))
        name = values["model"]["name"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def is_here(name: str, workspace: Workspace) -> bool:
    """Tell whether a model can be had without fetching."""
    try:
        return find_model(name, workspace=workspace) is not None
    except ModelError:
        return False

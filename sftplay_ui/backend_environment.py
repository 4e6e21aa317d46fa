"""Make `.venv-unsloth`, the environment of the backend `unsloth`: its pins would move the app's.

Made like the app's own one, by `environment`; what is special is which builds go together on a
machine without a card. Whether it then works is left to `engine.backends`.
"""

import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sftplay_ui.environment import (
    Environment,
    Say,
    SetupError,
    find_uv,
    has_nvidia_card,
    prepare,
    run_first_that_works,
    run_logged,
)

REQUIREMENTS = "requirements-unsloth.txt"
WITHOUT_CARD = "requirements-unsloth-cpu.txt"
FOLDER = ".venv-unsloth"
NEWEST_PYTHON = (3, 14)
# On a CPU: an index has the first as a CUDA build only, which cannot be imported beside a CPU
# torch, and the second is for CUDA alone. A model of text needs neither.
FOR_CARDS = ("torchvision", "xformers")


def prepare_unsloth(root: Path, say: Say) -> Environment:
    """Make or mend the environment below `root`; does nothing when it holds what is wanted.

    Raises SetupError where unsloth has no builds, or the installation fails.
    """
    refuse_machines_without_builds()
    files = [root / REQUIREMENTS]
    environment = Environment(root / FOLDER)
    if not has_nvidia_card():
        files.append(root / WITHOUT_CARD)
    elif WITHOUT_CARD in environment.installed():
        say("There is an NVIDIA card now, and the builds in place are for the CPU.")
        shutil.rmtree(environment.folder)
    prepare(environment, files, say, fill)
    return environment


def refuse_machines_without_builds() -> None:
    """Say at once where unsloth cannot be installed."""
    system, machine = platform.system(), platform.machine()
    if system not in ("Linux", "Windows") or machine not in ("x86_64", "AMD64"):
        raise SetupError(
            f"unsloth has builds for Linux and Windows on x86-64, not for {system} on {machine}.",
            "Use the backend bnb: tuning.backend: bnb.",
        )
    if sys.version_info[:2] > NEWEST_PYTHON:
        raise SetupError(
            f"unsloth does not know Python {platform.python_version()} yet.",
            "Start SFT-Play with Python 3.12, or use the backend bnb.",
        )


def fill(environment: Environment, requirement_files: Sequence[Path], say: Say) -> None:
    """Install unsloth and what it needs; without a card, builds for the CPU that go together."""
    first, *without_card = requirement_files
    # unlike the app's own, so that both environments share one download of torch
    torch = app_torch() if without_card else None
    named = ["-r", str(first), *([f"torch=={torch}"] if torch else [])]
    pip = [str(environment.python), "-m", "pip"]
    quiet = ["--progress-bar", "off", "--no-input"]
    installers = [[*pip, "install", *quiet, *named]]
    uv = find_uv(environment, pip)
    if uv is not None:
        target = ["--python", str(environment.python), "--torch-backend=auto"]
        installers.insert(0, [uv, "pip", "install", *target, *named])
    say("Installing unsloth into an environment of its own. The first time this takes minutes.")
    environment.log.unlink(missing_ok=True)
    run_first_that_works(installers, environment, say)
    for path in without_card:
        say("There is no NVIDIA card: taking a version that trains on the CPU.")
        run_logged([*pip, "uninstall", "--yes", *FOR_CARDS], environment.log, say)
        again = [*pip, "install", *quiet, "--no-deps", "-r", str(path)]
        run_first_that_works([again], environment, say)


def app_torch() -> str | None:
    """Tell the version of torch beside us where it is a build for the CPU."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        return None
    return found if found.endswith("+cpu") else None

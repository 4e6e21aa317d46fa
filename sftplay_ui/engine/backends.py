"""Which backend a run is trained with: bnb in the app's environment, or unsloth in its own.

Whether unsloth works here is tried once, in a process of its own, and remembered for as long as its
versions and the device stay. Making that environment is left to `backend_environment`, what unsloth
then loads to the worker.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.checkpoints import list_checkpoints
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo, detect_device
from sftplay_ui.engine.errors import ResumeError
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.workspace import PROJECT_ROOT, user_cache

BACKEND = "tuning.backend"
RECEIPT = "backend.json"
SETUP = "`python launch.py setup --backend unsloth`"
# Names another interpreter that has unsloth.
PYTHON = "SFTPLAY_UNSLOTH_PYTHON"
PROBE = "sftplay_ui.engine.worker.try_unsloth"
# On a busy computer the import alone takes two minutes.
PROBE_SECONDS = 300
POLL_SECONDS = 0.2
# What is said where memory was short, which may be different the next time.
SHORT_OF_MEMORY = ("out of memory", "memoryerror", "allocate memory")
# Stands in a receipt until the worker has tried whether unsloth works here.
UNTRIED = "untried"
# What a verdict holds for.
DECISIVE = (
    *("unsloth", "unsloth_zoo", "torch", "transformers", "peft", "trl", "accelerate", "datasets"),
    *("bitsandbytes", "triton", "triton-windows", "torchvision"),
)


@dataclass(frozen=True)
class Receipt:
    """The backend that was asked for, the one that is used, and why; kept with the run."""

    asked: str
    used: str
    why: str

    @classmethod
    def read(cls, run_dir: Path) -> "Receipt | None":
        """Read what was decided when the run's worker was started; None where nothing was."""
        try:
            found = json.loads((run_dir / RECEIPT).read_text(encoding="utf-8"))
            return cls(found["asked"], found["used"], found["why"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, run_dir: Path) -> None:
        replace_text(run_dir / RECEIPT, json.dumps(asdict(self), indent=2) + "\n")

    def choice(self) -> Choice:
        return Choice(BACKEND, self.used, self.why)


@dataclass(frozen=True)
class Verdict:
    """Whether unsloth works here, and why not or how; `passing` where it may be otherwise soon."""

    usable: bool
    reason: str
    passing: bool = False


def settle_backend(
    run_dir: Path,
    config: RunConfig,
    fallen: str = "",
    *,
    stopped: Callable[[], bool] | None = None,
) -> Receipt:
    """Decide which backend the worker is started for, and leave the receipt in the run's folder.

    `fallen` tells why unsloth gave up before the first step. Trying unsloth takes up to minutes:
    where nobody knows yet, the receipt says `untried`, unless `stopped` is given: then it is tried
    now, until that says so; then it stays untried. Raises ResumeError where a run that began with
    unsloth cannot go on with it.
    """
    receipt = decide(run_dir, config, fallen, stopped)
    if config.job in ("train", "find_lr"):
        receipt.write(run_dir)
    return receipt


def decide(
    run_dir: Path, config: RunConfig, fallen: str, stopped: Callable[[], bool] | None
) -> Receipt:
    """Choose the backend; the first reason against unsloth counts."""
    asked = config.tuning.backend
    if asked == "bnb" or config.job not in ("train", "find_lr"):
        return Receipt(asked, "bnb", "as asked")
    began = began_with(run_dir, config)
    if began == "bnb":
        return Receipt(asked, "bnb", "the run began with bnb, and no run changes its backend")
    obstacle = fallen or beyond_unsloth(config)
    if not obstacle:
        python, device = unsloth_python(), detect_device()
        verdict = known_verdict(python, device)
        if verdict is None and stopped is None:
            return Receipt(asked, UNTRIED, "whether unsloth works here is tried first")
        verdict = verdict or verdict_on(python, device, stopped=stopped)
        if stopped is not None and stopped():
            return Receipt(asked, UNTRIED, "the run was stopped while unsloth was tried")
        if verdict.usable:
            return Receipt(asked, "unsloth", verdict.reason)
        obstacle = verdict.reason
    if began == "unsloth":
        raise ResumeError(
            f"{run_dir.name} began with unsloth, which cannot be used now: {obstacle}.",
            f"Mend that with {SETUP}, or start a new run with tuning.backend: bnb.",
        )
    return Receipt(asked, "bnb", obstacle)


def hoped_for(config: RunConfig) -> Choice:
    """Give the backend that a run gets where what it asks for works."""
    if config.tuning.backend == "unsloth" and not beyond_unsloth(config):
        return Choice(BACKEND, "unsloth", "as asked, where it works")
    return Choice(BACKEND, "bnb", "as asked")


def beyond_unsloth(config: RunConfig) -> str:
    """Name what the run asks for that is left to bnb; empty where there is nothing."""
    if config.tuning.mode == "full":
        return "unsloth is used for adapters, and here all weights learn"
    if config.tuning.lora.use_dora:
        return "DoRA is left to bnb"
    if config.train.processes > 1:
        return "unsloth is used by one process, and here several learn together"
    return ""


def began_with(run_dir: Path, config: RunConfig) -> str | None:
    """Tell which backend the checkpoint was made with that the run goes on from, if any."""
    other = config.train.resume
    sources = [run_dir, *([run_dir.parent / Path(other).name] if other else [])]
    for source in sources:
        if not list_checkpoints(source / "checkpoints"):
            continue
        try:
            text = (source / "identity.json").read_text(encoding="utf-8")
            return str(json.loads(text)["backend"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return None


def unsloth_python(root: Path = PROJECT_ROOT) -> Path:
    """Name the interpreter of the environment that unsloth has to itself."""
    named = os.environ.get(PYTHON)
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return Path(named) if named else root / ".venv-unsloth" / inside


def unsloth_surroundings(device: DeviceInfo) -> dict[str, str]:
    """Give the variables unsloth is started with: no statistics, its files in the user's cache.

    Beside a GPU it must not fall back to the processor, which would pass for success.
    """
    found = {
        "UNSLOTH_COMPILE_LOCATION": str(user_cache() / "unsloth"),
        "UNSLOTH_DISABLE_STATISTICS": "1",
    }
    if device.kind == "cuda":
        found["UNSLOTH_DISABLE_CPU_FALLBACK"] = "1"
    return found


def verdict_on(
    python: Path,
    device: DeviceInfo,
    *,
    anew: bool = False,
    stopped: Callable[[], bool] | None = None,
) -> Verdict:
    """Tell whether unsloth works with this interpreter on this device; tried where unknown.

    `anew` tries again in any case. Trying takes from seconds to minutes; `stopped` ends it. What
    may pass is not remembered: the next run tries again.
    """
    known = known_verdict(python, device)
    if known is not None and not (anew and python.exists()):
        return known
    verdict = try_it(python, device, stopped)
    if verdict.passing:
        return verdict
    kept = {
        "key": key_of(python, device),
        **{"usable": verdict.usable, "reason": verdict.reason},
    }
    kept_verdict().parent.mkdir(parents=True, exist_ok=True)
    replace_text(kept_verdict(), json.dumps(kept, indent=2) + "\n")
    return verdict


def known_verdict(python: Path, device: DeviceInfo) -> Verdict | None:
    """Give the verdict where nothing has to be tried for it; None where only a trial can tell."""
    if not python.exists():
        return Verdict(False, f"unsloth is not installed here ({SETUP} does that)")
    return recall(kept_verdict(), key_of(python, device))


def kept_verdict() -> Path:
    """Name the file that remembers the verdict."""
    return user_cache() / "unsloth.json"


def key_of(python: Path, device: DeviceInfo) -> dict[str, object]:
    """Say what a verdict holds for."""
    return {
        "python": str(python),
        "device": f"{device.name}, {device.reason}",
        "versions": installed(python),
    }


def recall(memory: Path, key: Mapping[str, object]) -> Verdict | None:
    """Read the kept verdict where it was made for the same versions and device."""
    try:
        kept = json.loads(memory.read_text(encoding="utf-8"))
        return Verdict(bool(kept["usable"]), str(kept["reason"])) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def try_it(python: Path, device: DeviceInfo, stopped: Callable[[], bool] | None = None) -> Verdict:
    """Try unsloth in a process that is thrown away; what it says last is its verdict.

    Passing where it gave no answer in time or before `stopped` was true, where something ended it,
    or where memory was short.
    """
    deadline = time.monotonic() + PROBE_SECONDS
    with subprocess.Popen(
        [str(python), "-m", PROBE, device.kind],
        cwd=PROJECT_ROOT,
        env={**os.environ, **unsloth_surroundings(device)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        while True:
            try:
                told, noise = process.communicate(timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline or (stopped is not None and stopped()):
                    ProcessRecord.of(process.pid).kill_tree()
                    # the computer may only have been busy
                    why = f"unsloth was not ready within {PROBE_SECONDS} seconds"
                    return Verdict(False, why, passing=True)
    try:
        answer = json.loads(told.strip().rpartition("\n")[2])
        return Verdict(bool(answer["usable"]), str(answer["reason"]))
    except (ValueError, KeyError, TypeError):
        return unanswered(noise, process.returncode)


def unanswered(noise: str, code: int) -> Verdict:
    """Say why a trial ended without an answer; `noise` is what it wrote to stderr."""
    if code < 0:
        return Verdict(False, f"its trial was ended by signal {-code}", passing=True)
    last = noise.strip().rpartition("\n")[2] or f"it ended with {code}"
    short = any(words in noise.casefold() for words in SHORT_OF_MEMORY)
    return Verdict(False, f"unsloth cannot be imported ({last})", passing=short)


def installed(python: Path) -> dict[str, str]:
    """List the versions that decide, in an environment, without starting anything in it."""
    # not resolved: an environment's interpreter is a link to the system's
    home = python.parent.parent
    folders = [*home.glob("lib/python*/site-packages"), home / "Lib" / "site-packages"]
    places = [str(folder) for folder in folders if folder.is_dir()]
    return {
        name: found.version for name in DECISIVE for found in distributions(name=name, path=places)
    }

"""Install unsloth when a person asks for it, in a process of its own that outlives the window.

`python -m sftplay_ui.backend_setup ROOT` is that process. What it says and how it ended lie in the
person's cache folder, so that a page which comes back finds it again; whether it goes on is derived
from whether it lives. What is installed is left to `backend_environment`, whether it works to
`engine.backends`.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from sftplay_ui.backend_environment import (
    FOLDER,
    prepare_unsloth,
    refuse_machines_without_builds,
)
from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.backends import (
    PYTHON,
    SETUP,
    Verdict,
    known_verdict,
    unsloth_python,
    verdict_on,
)
from sftplay_ui.engine.device import DeviceInfo, detect_device
from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.engine.launching import OWN_SESSION
from sftplay_ui.engine.models.downloads import in_words, need_space
from sftplay_ui.engine.processes import ProcessRecord, reap
from sftplay_ui.engine.workspace import PROJECT_ROOT, user_cache
from sftplay_ui.environment import Environment, Say, SetupError

# Without a card the folder had 3.3 GB, after three minutes on two quiet cores and ten on busy ones;
# with CUDA's libraries it is a guess.
CPU_BYTES, CARD_BYTES = 3.5e9, 9e9
LINES_SHOWN = 60
# How long a page that is opened anew is told of an end that it has not seen.
NEWS_SECONDS = 15 * 60
AGAIN = "Install it again: it goes on where it ended."

State = Literal["none", "running", "ended", "failed", "stopped"]


def set_up(root: Path, say: Say) -> Verdict:
    """Install unsloth into its environment below `root`, and try whether it works on this device.

    Raises SetupError where that fails.
    """
    prepare_unsloth(root, say)
    say("Trying it in a process of its own; on a busy computer that takes minutes.")
    return verdict_on(unsloth_python(root), detect_device(), anew=True)


@dataclass(frozen=True)
class Progress:
    """How an installation goes, or how it ended; `what` and `fix` are the sentences for its end.

    `seconds` is how long it has taken; `is_news` is False where the end was long ago.
    """

    state: State
    lines: tuple[str, ...] = ()
    what: str = ""
    fix: str = ""
    seconds: float = 0.0
    is_news: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give it as plain values, for a page."""
        return asdict(self)


@dataclass(frozen=True)
class BackendSetup:
    """The installation of unsloth for the copy of the app that lies in `root`."""

    root: Path

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:16]
        return user_cache() / "setup-unsloth" / digest

    @property
    def record(self) -> Path:
        return self.folder / "process.json"

    @property
    def said(self) -> Path:
        return self.folder / "said.txt"

    @property
    def end(self) -> Path:
        return self.folder / "end.json"

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    def start(self) -> None:
        """Begin to install, unless that goes on already.

        Raises SetupError where unsloth has no builds, DiskFullError where it has no room.
        """
        refuse_machines_without_builds()
        need_space(self.root, needed_bytes(detect_device()), "unsloth")
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock"):
            if self.is_running():
                return
            for file in (self.record, self.said, self.end):
                file.unlink(missing_ok=True)
            with self.log.open("w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(self.root)],
                    cwd=PROJECT_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **OWN_SESSION,
                )
            ProcessRecord.of(process.pid).write(self.record)
        reap(process)

    def stop(self) -> None:
        """End the installation; what it has fetched is kept by the installer, the rest mended."""
        process = ProcessRecord.read(self.record)
        if process is None or not process.is_alive():
            return
        process.kill_tree()
        if not self.end.exists():  # it came to its end just before
            there = "installed, but was not tried" if self.is_installed() else "not installed"
            self.finish("stopped", f"The installation was stopped; unsloth is {there}.")

    def is_running(self) -> bool:
        process = ProcessRecord.read(self.record)
        return process is not None and process.is_alive()

    def progress(self) -> Progress:
        """Tell how it goes; an installer that died without a word counts as failed."""
        process = ProcessRecord.read(self.record)
        # asked before reading: what a dead process wrote is all there
        alive = process is not None and process.is_alive()
        if process is None:
            return Progress("none")
        lines = self.lines()
        if alive:
            return Progress("running", lines, seconds=time.time() - process.started, is_news=True)
        try:
            end = json.loads(self.end.read_text(encoding="utf-8"))
            state, what, fix, at = end["state"], end["what"], end["fix"], float(end["at"])
        except (OSError, ValueError, KeyError, TypeError):
            what = f"The installation ended without saying why; its log is {self.log}."
            fix = AGAIN
            state, at = "failed", self.last_sign(process)
        news = time.time() - at < NEWS_SECONDS
        return Progress(state, lines, what, fix, at - process.started, news)

    def last_sign(self, process: ProcessRecord) -> float:
        """Give the time at which the installer last wrote something, or else began."""
        found = [process.started]
        for file in (self.said, self.log):
            with suppress(OSError):
                found.append(file.stat().st_mtime)
        return max(found)

    def lines(self) -> tuple[str, ...]:
        """Read the newest lines of what was said."""
        try:
            text = self.said.read_text(encoding="utf-8")
        except OSError:
            return ()
        return tuple(text.splitlines()[-LINES_SHOWN:])

    def say(self, text: str) -> None:
        """Write a line for the pages that look on."""
        with self.said.open("a", encoding="utf-8") as said:
            said.write(f"{text}\n")

    def finish(self, state: State, what: str, fix: str = "") -> None:
        """Write how it ended."""
        end = {"state": state, "what": what, "fix": fix, "at": time.time()}
        replace_text(self.end, json.dumps(end) + "\n")

    def situation(self) -> str:
        """Say in a few sentences whether unsloth would train here, and what it takes if not."""
        if not self.is_installed():
            return f"unsloth is not installed here: runs that ask for it use bnb. {self.cost()}"
        verdict = known_verdict(unsloth_python(self.root), detect_device())
        if verdict is None:
            return (
                "unsloth is installed. Whether it works here is tried when the run begins, "
                "which takes from seconds to minutes, once."
            )
        if verdict.usable:
            return f"{verdict.reason}."
        return refusal(verdict)

    def is_installed(self) -> bool:
        """Tell whether unsloth's environment is whole, or another one was named that is there."""
        if os.environ.get(PYTHON):
            return unsloth_python(self.root).exists()
        environment = Environment(self.root / FOLDER)
        return environment.python.exists() and bool(environment.installed())

    def cost(self) -> str:
        """Say what installing takes on this computer, or why it cannot be done."""
        if named := os.environ.get(PYTHON):
            return f"{PYTHON} names {named}, which is not there."
        try:
            refuse_machines_without_builds()
        except SetupError as refusal:
            return f"{refusal.what} {refusal.fix}"
        device = detect_device()
        size, told = in_words(int(needed_bytes(device))), "3 to 10 minutes"
        if device.kind == "cuda":
            told = "some ten minutes (a guess: this was not measured with a card)"
        return (
            f"Installing takes about {size} of disk in a folder of its own ({FOLDER}) and "
            f"{told}; a slow connection takes longer."
        )

    def can_install(self) -> bool:
        """Tell whether there is something to install, and nothing that forbids it."""
        if self.is_installed() or os.environ.get(PYTHON):
            return False
        try:
            refuse_machines_without_builds()
        except SetupError:
            return False
        return not self.is_running()


def refusal(verdict: Verdict) -> str:
    """Say why unsloth is not used though it is installed, and how that is tried again."""
    return (
        f"unsloth is installed and cannot be used, so bnb trains: {verdict.reason}. "
        f"{SETUP} tries it again."
    )


def needed_bytes(device: DeviceInfo) -> int:
    """Give the disk space that unsloth's environment takes, roughly."""
    return int(CARD_BYTES if device.kind == "cuda" else CPU_BYTES)


def main(root: Path) -> int:
    """Be the process that installs; the exit code is 0 unless it failed."""
    setup = BackendSetup(root)
    try:
        verdict = set_up(root, setup.say)
    except SFTPlayError as error:
        setup.finish("failed", error.what, error.fix)
        return 1
    except OSError as error:
        setup.finish("failed", f"The installation failed: {error}.", AGAIN)
        return 1
    setup.finish("ended", f"{verdict.reason}." if verdict.usable else refusal(verdict))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

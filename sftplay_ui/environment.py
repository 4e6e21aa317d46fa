"""Make and mend `.venv`, the app's own Python environment, and others like it.

Standard library only: this runs before anything is installed. What is then started in the
environment is left to `launcher`, what goes into a backend's own one to `backend_environment`.
"""

import contextlib
import hashlib
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sftplay_ui.engine.errors import SFTPlayError

ON_WINDOWS = os.name == "nt"
HEARTBEAT_SECONDS = 5.0
SUGGESTED_PYTHON = "3.12"

Say = Callable[[str], None]
# Installs the requirement files of an environment, telling how it goes.
Install = Callable[["Environment", Sequence[Path], Say], None]


class SetupError(SFTPlayError):
    """The environment cannot be made here."""

    code = "setup"


@dataclass(frozen=True)
class Environment:
    """One virtual environment: its folder and the facts kept in it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if ON_WINDOWS else "bin/python")

    @property
    def stamp(self) -> Path:
        """Name the file that says what is installed; written last, so it never says too much."""
        return self.folder / "installed.json"

    @property
    def log(self) -> Path:
        return self.folder / "install.log"

    def installed(self) -> dict[str, str]:
        """Read which requirement files (name to sha256) are installed; empty when unsure."""
        try:
            facts = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def satisfies(self, wanted: dict[str, str]) -> bool:
        """Tell whether every wanted requirement file is installed exactly as it is now."""
        return self.python.exists() and wanted.items() <= self.installed().items()

    def is_running(self) -> bool:
        """Tell whether this very process runs inside the environment."""
        return Path(sys.prefix).resolve() == self.folder.resolve()


def fingerprint(requirement_files: Sequence[Path]) -> dict[str, str]:
    """Hash each requirement file; line ends do not count (git may change them)."""
    return {
        path.name: hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for path in requirement_files
    }


def prepare(
    environment: Environment,
    requirement_files: Sequence[Path],
    say: Say,
    fill: Install | None = None,
) -> None:
    """Make the environment hold what the requirement files name; do nothing when it does.

    `fill` installs them in another way than `install`. Heals what an interrupted earlier start left
    behind. Raises SetupError when that fails.
    """
    wanted = fingerprint(requirement_files)
    if environment.satisfies(wanted):
        return
    refuse_unsupported_machines()
    with one_at_a_time(environment.folder, say):
        if environment.satisfies(wanted):
            return
        try:
            known = environment.installed() if works(environment.python) else {}
            environment.stamp.unlink(missing_ok=True)
            if not (works(environment.python) and ensure_pip(environment.python)):
                make(environment, say)
            (fill or install)(environment, requirement_files, say)
            write_stamp(environment, {**known, **wanted})
        except OSError as problem:
            raise SetupError(*explain_failure(f"error: {problem}", environment.folder)) from problem
    say("The environment is ready.")


def refuse_unsupported_machines() -> None:
    """Say at once where PyTorch has no builds, instead of after ten minutes."""
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        raise SetupError(
            "PyTorch has no builds for Intel Macs, nor for an Intel Python on Apple silicon.",
            "On an Apple silicon Mac install the arm64 Python from python.org; "
            "an Intel Mac cannot run SFT-Play.",
        )
    if sys.maxsize < 2**32:
        raise SetupError(
            "This is a 32-bit Python, and PyTorch has builds for 64-bit ones only.",
            f"Install the 64-bit Python {SUGGESTED_PYTHON} and start again with it.",
        )


def works(python: Path) -> bool:
    """Tell whether an environment's Python starts, is new enough and is the environment's own."""
    code = "import sys; sys.exit(sys.version_info < (3, 10) or sys.prefix == sys.base_prefix)"
    return succeeds([python, "-c", code])


def ensure_pip(python: Path) -> bool:
    """See that the environment has its own pip; those made by uv come without one."""
    return succeeds([python, "-c", "import pip"]) or succeeds([python, "-m", "ensurepip"])


def succeeds(command: Sequence[str | Path]) -> bool:
    """Run a command without a word; tell whether it started and ended well."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def make(environment: Environment, say: Say) -> None:
    """Make the environment anew with the Python that runs now; what was there is cleared."""
    mended = environment.folder.exists()
    say(f"{'Mending' if mended else 'Making'} {environment.folder} (once).")
    # The base interpreter: an environment made from inside another one breaks when that one goes.
    base = getattr(sys, "_base_executable", None) or sys.executable
    try:
        made = subprocess.run(
            [base, "-m", "venv", "--clear", environment.folder],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as problem:
        raise SetupError(f"{base} cannot be started: {problem}.", "Reinstall Python.") from problem
    if made.returncode != 0:
        raise SetupError(*explain_failure(made.stdout + made.stderr, environment.folder))


def install(environment: Environment, requirement_files: Sequence[Path], say: Say) -> None:
    """Install the requirement files with uv where it works, else with pip; log every line."""
    names = [argument for path in requirement_files for argument in ("-r", str(path))]
    pip = [str(environment.python), "-m", "pip"]
    installers = [[*pip, "install", "--progress-bar", "off", "--no-input", *names]]
    uv = find_uv(environment, pip)
    if uv is not None:
        target = ["--python", str(environment.python), "--torch-backend=auto"]
        installers.insert(0, [uv, "pip", "install", *target, *names])
    say("Installing what SFT-Play needs. The first time this takes some minutes.")
    environment.log.unlink(missing_ok=True)
    run_first_that_works(installers, environment, say)
    if ON_WINDOWS and has_nvidia_card() and not has_cuda_torch(environment.python):
        say(
            "note: this machine has an NVIDIA card, but PyTorch got installed as its CPU build.\n"
            "fix: install uv (winget install astral-sh.uv), delete .venv and start again; "
            "uv chooses the CUDA build."
        )


def run_first_that_works(
    installers: Sequence[Sequence[str]], environment: Environment, say: Say
) -> None:
    """Run the installers until one ends well; SetupError, with the reason, where none does."""
    for command in installers:
        if run_logged(command, environment.log, say) == 0:
            break
        if command is not installers[-1]:
            say("uv did not manage it; trying pip.")
    else:
        text = environment.log.read_text(encoding="utf-8", errors="replace")
        what, fix = explain_failure(text, environment.folder)
        raise SetupError(f"{what} (Everything that was said: {environment.log})", fix)


def find_uv(environment: Environment, pip: list[str]) -> str | None:
    """Find a uv that starts; on Windows with an NVIDIA card install one into the environment.

    pip alone would take the CPU build of PyTorch there, uv picks the one for the card's driver.
    """
    uv = shutil.which("uv")
    if uv is None and ON_WINDOWS and has_nvidia_card():
        succeeds([*pip, "install", "uv"])
        uv = str(environment.python.with_name("uv.exe"))
    return uv if uv is not None and succeeds([uv, "--version"]) else None


def has_nvidia_card() -> bool:
    """Ask the driver's own tool; no driver counts as no card."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and succeeds([tool, "-L"])


def has_cuda_torch(python: Path) -> bool:
    """Tell whether the environment's PyTorch is a CUDA build."""
    return succeeds([python, "-c", "import sys, torch; sys.exit(torch.version.cuda is None)"])


def run_logged(command: Sequence[str], log: Path, say: Say) -> int:
    """Run an installer; every line goes to the log, what a person wants to know is said."""
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1"}
    # An environment that is active around us must not be mistaken for the target.
    for name in ("VIRTUAL_ENV", "PYTHONHOME", "PIP_TARGET", "PIP_USER", "PIP_PREFIX"):
        quiet.pop(name, None)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=quiet,
        # Lets it inherit the lock: should we be killed, the next start waits until it has ended.
        close_fds=False,
    ) as process:
        try:
            with log.open("a", encoding="utf-8") as record:
                for line in lines_with_heartbeat(process, say):
                    record.write(line)
                    record.flush()
                    if said := progress_line(line):
                        say(said)
            return process.wait()
        finally:
            # On Ctrl-C: an installer must not go on behind the person's back.
            process.kill()


def lines_with_heartbeat(process: "subprocess.Popen[str]", say: Say) -> Iterator[str]:
    """Yield the process's lines; in a terminal, say from time to time that it is still at work."""
    lines: queue.Queue[str | None] = queue.Queue()
    output = process.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    quiet_seconds = 0.0
    while True:
        try:
            line = lines.get(timeout=HEARTBEAT_SECONDS)
        except queue.Empty:
            quiet_seconds += HEARTBEAT_SECONDS
            if sys.stderr.isatty() and quiet_seconds % (4 * HEARTBEAT_SECONDS) == 0:
                say(f"  ... still at work ({quiet_seconds:.0f} s)")
            continue
        quiet_seconds = 0.0
        if line is None:
            return
        yield line


def progress_line(line: str) -> str | None:
    """Turn one line of pip or uv into what a person wants to read, or nothing.

    One line for each package: when its file is taken (pip) or when it is installed (uv).
    """
    text = line.strip()
    taken = r"(?:Downloading|Using cached|Processing) (\S+)(?: \((\d[^()]*B)\)| \(.*)?$"
    if found := re.match(taken, text):
        file = found[1].rsplit("/", 1)[-1]
        if not file.endswith((".whl", ".tar.gz", ".zip")):
            return f"  {file} {found[2]}" if found[2] else None
        name, version, *_ = file.removesuffix(".tar.gz").removesuffix(".zip").split("-")
        return f"  {name} {version}" + (f" ({found[2]})" if found[2] else "")
    if found := re.match(r"\+ (\S+)==(\S+)$", text):
        return f"  {found[1]} {found[2]}"
    if text.startswith("Installing collected packages:"):
        return f"Unpacking {text.count(',') + 1} packages; a minute or more."
    return None


FAILURES = (
    (
        r"ensurepip is not available|No module named ensurepip|No module named venv",
        "This Python lacks the part that makes virtual environments.",
        "On Debian or Ubuntu: sudo apt install python3-venv. Then start again.",
    ),
    (
        r"No space left on device|\[Errno 28\]|not enough space on the disk",
        "The disk is full.",
        "Free about 8 GB and start again; it goes on where it stopped.",
    ),
    (
        r"No matching distribution found for torch|satisfies the requirement torch",
        f"PyTorch has no build for Python {platform.python_version()} on this machine "
        f"({platform.system()} {platform.machine()}).",
        f"Install the 64-bit Python {SUGGESTED_PYTHON} and start again with it.",
    ),
    (
        r"Permission denied|\[Errno 13\]|Access is denied|Read-only file system",
        "The folder of SFT-Play cannot be written to.",
        "Move it to a folder of your own, such as your home folder, and start again.",
    ),
    (
        r"(?:Connection|Temporary failure|getaddrinfo|Name or service|timed out|ProxyError|SSLError"
        r"|dns error|error sending request)",
        "The package index cannot be reached.",
        "Check the network connection (or the proxy), then start again.",
    ),
)


def explain_failure(output: str, folder: Path) -> tuple[str, str]:
    """Name what went wrong in an installer's output, and the one thing to do about it."""
    for pattern, what, fix in FAILURES:
        if re.search(pattern, output):
            return what, fix
    errors = [line.strip() for line in output.splitlines() if re.match(r"\s*(?i:error|×)", line)]
    reason = errors[-1] if errors else "the installer gave no reason"
    return f"The installation stopped: {reason}.", f"Delete {folder} and start again."


def write_stamp(environment: Environment, installed: dict[str, str]) -> None:
    """Remember what is installed, in one atomic step."""
    staged = environment.stamp.with_suffix(".tmp")
    staged.write_text(json.dumps(installed, indent=2), encoding="utf-8")
    staged.replace(environment.stamp)


@contextlib.contextmanager
def one_at_a_time(folder: Path, say: Say) -> Iterator[None]:
    """Hold the machine-wide lock of this environment: a double double-click installs once.

    The system lets go of the lock when the process ends, however it ends.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    user = os.environ.get("USERNAME", "") if ON_WINDOWS else str(os.getuid())
    path = Path(tempfile.gettempdir(), f"sft-play-{user}-{name}.lock")
    with path.open("a+b") as handle:
        os.set_inheritable(handle.fileno(), True)
        if not try_lock(handle.fileno()):
            say("Another start is setting up SFT-Play; waiting for it.")
            while not try_lock(handle.fileno()):
                threading.Event().wait(0.5)
        yield


def try_lock(handle: int) -> bool:
    """Take an exclusive lock on an open file; tell whether that worked."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

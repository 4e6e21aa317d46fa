"""What `launch.py` does: see to the environment, go on inside it, open the window or run a command.

Standard library only until the environment stands; how it is made is left to `environment`.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sftplay_ui.engine.errors import SFTPlayError
from sftplay_ui.environment import Environment, prepare

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements.txt"
DEV_REQUIREMENTS = ROOT / "requirements-dev.txt"
STOPPED = 130
COMMAND_OPTIONS = ("-h", "--help", "--version")


def main(argv: Sequence[str]) -> int:
    """Run `launch.py` with these arguments; return 0 when done, 1 when failed, 130 when stopped."""
    try:
        code = start(argv)
    except SFTPlayError as problem:
        say(f"error: {problem.what}\nfix: {problem.fix}")
        code = 1
    except KeyboardInterrupt:
        say("Stopped. The next start goes on from here.")
        code = STOPPED
    if code not in (0, STOPPED) and wants_window(argv):
        hold_console_open()
    return code


def start(argv: Sequence[str]) -> int:
    """Prepare the environment and go on inside it; a Space brings its own."""
    environment = Environment(ROOT / ".venv")
    if os.environ.get("SPACE_ID"):
        return dispatch(argv)
    testing = argv[:1] == ["test"]
    # An update of the system's Python can leave an environment that no longer finds its packages.
    hollow = environment.is_running() and importlib.util.find_spec("pip") is None
    if hollow:
        environment.stamp.unlink(missing_ok=True)
    prepare(environment, [REQUIREMENTS, DEV_REQUIREMENTS] if testing else [REQUIREMENTS], say)
    if environment.is_running() and not hollow:
        return dispatch(argv)
    return go_on_inside(environment, [str(ROOT / "launch.py"), *argv])


def go_on_inside(environment: Environment, arguments: Sequence[str]) -> int:
    """Run the environment's Python with these arguments, in place of this process if possible."""
    command = [str(environment.python), *arguments]
    # An environment that is active around us would send its packages along.
    for name in ("PYTHONHOME", "PYTHONPATH"):
        os.environ.pop(name, None)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    # Windows' exec would give the prompt back at once, with the app still writing to it.
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The child got it too and decides what to do.
            continue


def dispatch(argv: Sequence[str]) -> int:
    """Open the window, run the tests, or run a command, in the Python that is running."""
    if argv[:1] == ["test"]:
        return run_tests(argv[1:])
    if wants_window(argv):
        from sftplay_ui.app import main as open_window

        return open_window(list(argv))
    from sftplay_ui.cli import main as run_command

    return run_command(list(argv))


def wants_window(argv: Sequence[str]) -> bool:
    """Tell the window's own options (`--share`, `--port`) from a command."""
    return not argv or (argv[0].startswith("-") and argv[0] not in COMMAND_OPTIONS)


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest from the project's folder and pass its exit code on.

    The whole suite is run by two processes, a file at a time; pytest's own arguments run as given.
    """
    chosen = list(arguments) or ["--numprocesses=2", "--dist=loadfile"]
    return subprocess.call([sys.executable, "-m", "pytest", *chosen], cwd=ROOT)


def hold_console_open() -> None:
    """Let a person who double-clicked read what went wrong before the console closes."""
    if os.name == "nt" and sys.stdin is not None and sys.stdin.isatty():
        input("Press Enter to close this window. ")


def say(text: str) -> None:
    """Tell the person at the console; stdout is kept for what a command prints."""
    print(text, file=sys.stderr, flush=True)

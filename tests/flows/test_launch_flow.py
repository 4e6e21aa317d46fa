"""The whole launch on a small house of its own: first start, second start, killed start, commands.

Only what is installed is small (one wheel made here) and what is started is a few lines; the
environment, pip, the locks and the restart inside are real.
"""

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHER_FILES = (
    *("launch.py", "sftplay_ui/__init__.py", "sftplay_ui/__main__.py", "sftplay_ui/launcher.py"),
    *("sftplay_ui/environment.py", "sftplay_ui/engine/__init__.py", "sftplay_ui/engine/errors.py"),
)
CLI = """
import json, sys, smallthing
def main(argv):
    print(json.dumps({"argv": argv, "prefix": sys.prefix, "thing": smallthing.VALUE}))
    return 3 if argv == ["fail"] else 0
"""
APP = "def main(argv):\n    print('window', *argv)\n    return 0\n"


def write_wheel(folder: Path) -> Path:
    """Make an installable wheel of one module."""
    wheel = folder / "smallthing-1.0-py3-none-any.whl"
    info = "smallthing-1.0.dist-info"
    files = {
        "smallthing.py": "VALUE = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: smallthing\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in files))
    return wheel


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Build a house with the real launcher, in a folder whose name has a space in it."""
    root = tmp_path / "my house"
    for name in LAUNCHER_FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "sftplay_ui/cli.py").write_text(CLI)
    (root / "sftplay_ui/app.py").write_text(APP)
    wheel = write_wheel(tmp_path)
    (root / "requirements.txt").write_text(f"{wheel}\n")
    (root / "requirements-dev.txt").write_text("")
    return root


def clean_environment() -> dict[str, str]:
    # pytest's own settings must not reach the launched Python; uv would not read pip's index
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "SPACE_ID")
    return {key: value for key, value in os.environ.items() if key not in dropped}


def launch(house: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(house / "launch.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=house.parent,
        env=clean_environment(),
    )


@pytest.mark.timeout(240)
def test_one_command_sets_up_and_the_next_goes_straight_inside(house: Path) -> None:
    first = launch(house, "runs", "--json")
    assert first.returncode == 0, first.stderr
    # stdout is the command's alone: set-up talks on stderr
    assert first.stdout.startswith('{"argv": ["runs", "--json"]')
    assert '"thing": 42' in first.stdout
    assert str(house / ".venv") in first.stdout
    assert "smallthing 1.0" in first.stderr
    assert "Successfully installed smallthing-1.0" in (house / ".venv/install.log").read_text()

    second = launch(house, "fail")
    assert second.returncode == 3
    assert second.stderr == ""

    window = launch(house, "--port", "7861")
    assert window.stdout == "window --port 7861\n"

    inside = subprocess.run(
        [str(house / ".venv/bin/python"), "-m", "sftplay_ui", "runs"],
        capture_output=True,
        text=True,
        cwd=house,
        env=clean_environment(),
    )
    assert inside.stdout.startswith('{"argv": ["runs"]')


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("moment", ["Making", "Installing"])
def test_a_start_that_was_killed_is_mended_by_the_next(house: Path, moment: str) -> None:
    started = subprocess.Popen(
        [sys.executable, str(house / "launch.py"), "runs"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=clean_environment(),
    )
    assert started.stderr is not None
    next(line for line in started.stderr if line.startswith(moment))
    started.send_signal(signal.SIGKILL)
    started.wait()
    started.stderr.close()
    assert not (house / ".venv/installed.json").exists()

    mended = launch(house, "runs")
    assert mended.returncode == 0, mended.stderr
    assert '"thing": 42' in mended.stdout


@pytest.mark.timeout(120)
def test_what_cannot_be_installed_is_said_in_two_lines(house: Path) -> None:
    (house / "requirements.txt").write_text(f"{house / 'no-such-1.0-py3-none-any.whl'}\n")
    failed = launch(house, "runs")
    assert failed.returncode == 1
    error, fix = failed.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: The installation stopped: ERROR:")
    assert str(house / ".venv/install.log") in error
    assert fix.startswith("fix: ")
    assert "Traceback" not in failed.stderr


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="an administrator may write everywhere"
)
def test_a_folder_that_cannot_be_written_is_named_as_the_reason(house: Path) -> None:
    house.chmod(0o555)
    failed = launch(house, "runs")
    house.chmod(0o755)
    assert failed.returncode == 1
    assert "cannot be written to" in failed.stderr

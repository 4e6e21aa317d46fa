"""`launch.py` and its two modules, launcher and environment: set up once, mend, go on inside."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sftplay_ui import environment as environment_module
from sftplay_ui import launcher
from sftplay_ui.environment import (
    Environment,
    SetupError,
    explain_failure,
    fingerprint,
    one_at_a_time,
    prepare,
    progress_line,
    write_stamp,
)

ROOT = Path(__file__).parents[2]
STANDARD_ONLY = "sftplay_ui/environment.py", "sftplay_ui/launcher.py", "sftplay_ui/__main__.py"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    """Name nothing to install: the set-up itself is under test, not the package index."""
    path = tmp_path / "requirements.txt"
    path.write_text("# nothing\n")
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / ".venv")


@pytest.fixture
def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_module, "find_uv", lambda *_: None)


def run(command: list[str | Path]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_old_pythons_can_read_the_launcher_and_are_told_what_to_do() -> None:
    source = (ROOT / "launch.py").read_text()
    tree = ast.parse(source)
    newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Match)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]
    fake = source.replace("sys.version_info", "(3, 8, 1)")
    ended = subprocess.run([sys.executable, "-c", fake], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "needs Python 3.10 or newer; this is Python 3.8" in ended.stderr
    assert "fix: install Python" in ended.stderr


@pytest.mark.parametrize("module", STANDARD_ONLY)
def test_the_launcher_needs_nothing_that_is_not_there_yet(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text())
    imported = {
        name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    ours = {"sftplay_ui.engine.errors", "sftplay_ui.environment", "sftplay_ui.launcher"}
    tops = {str(name).split(".")[0] for name in imported - ours}
    assert tops <= sys.stdlib_module_names


def test_the_errors_module_can_be_loaded_without_any_package() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import sftplay_ui.launcher"
    run([sys.executable, "-I", "-S", "-c", code, ROOT])


@pytest.mark.timeout(120)
def test_a_first_start_makes_the_environment_and_the_next_one_does_nothing(
    environment: Environment, requirements: Path, said: list[str], without_uv: None
) -> None:
    prepare(environment, [requirements], said.append)
    assert run([environment.python, "-c", "import sys; print(sys.prefix)"]) == str(
        environment.folder
    )
    assert environment.satisfies(fingerprint([requirements]))
    assert any(line.startswith("Making") for line in said)

    said.clear()
    prepare(environment, [requirements], said.append)
    assert said == []

    # changed requirements are installed into the same environment
    marker = environment.folder / "still-here"
    marker.touch()
    requirements.write_text("# something else\n")
    prepare(environment, [requirements], said.append)
    assert said
    assert marker.exists()
    assert environment.satisfies(fingerprint([requirements]))

    # a half-made environment has no Python that works: it is made anew
    environment.python.unlink()
    said.clear()
    prepare(environment, [requirements], said.append)
    assert any(line.startswith("Mending") for line in said)
    assert environment.python.exists()


def test_a_failed_installation_leaves_no_stamp_and_names_the_log(
    environment: Environment,
    requirements: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    without_uv: None,
) -> None:
    environment.folder.mkdir()
    write_stamp(environment, {"requirements.txt": "of an older day"})
    monkeypatch.setattr(Environment, "python", Path(sys.executable))
    monkeypatch.setattr(environment_module, "works", lambda _: True)

    def fail(_command: object, log: Path, _say: object) -> int:
        log.write_text("ERROR: [Errno 28] No space left on device\n")
        return 1

    monkeypatch.setattr(environment_module, "run_logged", fail)
    with pytest.raises(SetupError) as caught:
        prepare(environment, [requirements], said.append)
    assert "The disk is full." in caught.value.what
    assert str(environment.log) in caught.value.what
    assert environment.installed() == {}


def test_installing_for_the_tests_keeps_what_the_app_has(tmp_path: Path) -> None:
    app, dev = tmp_path / "requirements.txt", tmp_path / "requirements-dev.txt"
    app.write_text("a\n")
    dev.write_text("b\n")
    environment = Environment(Path(sys.prefix))
    both, one = fingerprint([app, dev]), fingerprint([app])
    assert one.items() < both.items()
    holder = Environment(tmp_path)
    write_stamp(holder, both)
    assert one.items() <= holder.installed().items()
    assert environment.is_running()
    assert not holder.is_running()


def test_line_ends_do_not_make_a_requirement_file_another(tmp_path: Path) -> None:
    unix, windows = tmp_path / "unix", tmp_path / "windows"
    unix.write_bytes(b"a\nb\n")
    windows.write_bytes(b"a\r\nb\r\n")
    assert [*fingerprint([unix]).values()] == [*fingerprint([windows]).values()]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_stamp_counts_as_nothing_installed(text: str, environment: Environment) -> None:
    environment.folder.mkdir()
    environment.stamp.write_text(text)
    assert environment.installed() == {}


def test_a_second_start_waits_until_the_first_has_ended(tmp_path: Path, said: list[str]) -> None:
    code = (
        "import sys, time, pathlib; from sftplay_ui.environment import one_at_a_time\n"
        "with one_at_a_time(pathlib.Path(sys.argv[1]), print):\n"
        "    print('holding', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "holding\n"

    def let_go(line: str) -> None:
        said.append(line)
        holder.kill()

    with one_at_a_time(tmp_path, let_go):
        assert said == ["Another start is setting up SFT-Play; waiting for it."]
        assert holder.wait() != 0
    holder.stdin.close()
    holder.stdout.close()


@pytest.mark.skipif(os.name == "nt", reason="locks belong to processes on Windows")
def test_an_installer_that_outlives_its_launcher_keeps_the_lock(tmp_path: Path) -> None:
    # the launcher is killed; its installer, a grandchild of ours, still writes into the environment
    code = (
        "import sys, pathlib, os; from sftplay_ui import environment as e\n"
        "folder = pathlib.Path(sys.argv[1]); installer = 'import sys, time; time.sleep(60)'\n"
        "def say(text): pass\n"
        "popen = e.subprocess.Popen\n"
        "def noted(*a, **k):\n"
        "    child = popen(*a, **k); print(child.pid, flush=True); return child\n"
        "e.subprocess.Popen = noted\n"
        "with e.one_at_a_time(folder, say):\n"
        "    e.run_logged([sys.executable, '-c', installer], folder / 'log', say)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert started.stdout is not None
    installer = int(started.stdout.readline())
    started.kill()
    started.wait()
    waited: list[str] = []

    def end_installer(line: str) -> None:
        waited.append(line)
        os.kill(installer, 9)

    with one_at_a_time(tmp_path, end_installer):
        assert waited
    started.stdout.close()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Collecting torch<2.14,>=2.8 (from -r requirements.txt (line 7))", None),
        (
            "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (821.0 MB)",
            "  torch 2.13.0 (821.0 MB)",
        ),
        ("  Using cached rouge_score-0.1.2.tar.gz (17 kB)", "  rouge_score 0.1.2 (17 kB)"),
        (
            "  Using cached semantic_version-2.10.0-py2.py3-none-any.whl (from gradio==6.31.*)",
            "  semantic_version 2.10.0",
        ),
        (
            "Processing /opt/wheels/peft-0.21.2-py3-none-any.whl",
            "  peft 0.21.2",
        ),
        ("Requirement already satisfied: rich in ./x (15.0)", None),
        ("WARNING: Location 'file:///x' is ignored", None),
        ("Installing collected packages: a, b, c", "Unpacking 3 packages; a minute or more."),
        ("Downloading torch (783.2MiB)", "  torch 783.2MiB"),
        (" + torch==2.13.0+cu129", "  torch 2.13.0+cu129"),
        ("Resolved 107 packages in 2.31s", None),
    ],
)
def test_progress_is_one_readable_line_a_package(line: str, said: str | None) -> None:
    assert progress_line(line) == said


@pytest.mark.parametrize(
    ("output", "what", "fix"),
    [
        ("Error: ... ensurepip is not available", "virtual environments", "python3-venv"),
        ("OSError: [Errno 28] No space left on device", "disk is full", "Free about 8 GB"),
        ("Error: [Errno 13] Permission denied: '/opt/x'", "cannot be written", "home folder"),
        ("NewConnectionError: Temporary failure in name resolution", "index", "network"),
        ("ERROR: No matching distribution found for torch<2.14", "PyTorch has no build", "64-bit"),
        ("Collecting x\nERROR: wheel is not valid\n", "wheel is not valid", "Delete"),
        ("", "gave no reason", "Delete"),
    ],
)
def test_a_failure_is_explained_with_one_action(output: str, what: str, fix: str) -> None:
    explained = explain_failure(output, Path(".venv"))
    assert what in explained[0]
    assert fix in explained[1]


def test_an_intel_mac_is_told_before_anything_is_made(
    environment: Environment,
    requirements: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment_module.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(environment_module.platform, "machine", lambda: "x86_64")
    with pytest.raises(SetupError, match="Intel Macs"):
        prepare(environment, [requirements], said.append)
    assert not environment.folder.exists()


@pytest.mark.parametrize(
    ("argv", "window"),
    [
        ([], True),
        (["--share"], True),
        (["--port", "7861"], True),
        (["--help"], False),
        (["--version"], False),
        (["train", "--config", "x.yaml"], False),
        (["test"], False),
    ],
)
def test_options_open_the_window_and_words_are_commands(argv: list[str], window: bool) -> None:
    assert launcher.wants_window(argv) is window


def test_an_expected_failure_is_two_plain_lines_and_exit_code_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise SetupError("The disk is full.", "Free 8 GB.")

    monkeypatch.setattr(launcher, "start", fail)
    assert launcher.main(["check"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: The disk is full.\nfix: Free 8 GB.\n"


def test_ctrl_c_during_set_up_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "start", interrupt)
    assert launcher.main([]) == 130


def test_a_space_uses_the_environment_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/demo")
    monkeypatch.setattr(launcher, "dispatch", lambda argv: 40 + len(argv))
    monkeypatch.setattr(launcher, "prepare", lambda *_: pytest.fail("made an environment"))
    assert launcher.main(["runs", "--json"]) == 42


def test_only_the_test_command_installs_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    inside: list[list[str]] = []

    def note(_environment: Environment, files: list[Path], _say: object) -> None:
        asked.append([path.name for path in files])

    def go_on(_environment: Environment, arguments: list[str]) -> int:
        inside.append([Path(arguments[0]).name, *arguments[1:]])
        return 0

    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setattr(launcher, "prepare", note)
    monkeypatch.setattr(launcher, "go_on_inside", go_on)
    monkeypatch.setattr(Environment, "is_running", lambda _: False)
    assert launcher.main(["train"]) == launcher.main(["test", "-q"]) == 0
    assert asked == [["requirements.txt"], ["requirements.txt", "requirements-dev.txt"]]
    assert inside == [["launch.py", "train"], ["launch.py", "test", "-q"]]


def test_the_test_command_passes_pytests_exit_code_on(tmp_path: Path) -> None:
    failing = tmp_path / "test_it.py"
    failing.write_text("def test_no():\n    assert False\n")
    assert launcher.run_tests(["-q", "-p", "no:cacheprovider", str(failing)]) == 1


def test_only_the_whole_suite_is_shared_by_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        launcher.subprocess, "call", lambda command, **_: asked.append(command[3:]) or 0
    )
    launcher.run_tests([])
    launcher.run_tests(["-q"])
    assert asked == [["--numprocesses=2", "--dist=loadfile"], ["-q"]]


def test_an_environment_that_lost_its_packages_is_mended_and_entered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what an update of the system's Python does: the old site-packages folder is looked at no more
    monkeypatch.setattr(launcher, "ROOT", tmp_path)
    stamped = Environment(tmp_path / ".venv")
    stamped.folder.mkdir()
    write_stamp(stamped, {"requirements.txt": "x"})
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(Environment, "is_running", lambda _: True)
    monkeypatch.setattr(launcher.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(launcher, "prepare", lambda env, *_: seen.append(env.installed()))
    monkeypatch.setattr(launcher, "go_on_inside", lambda *_: 7)
    assert launcher.start(["runs"]) == 7
    assert seen == [{}]


def test_the_stamp_is_written_in_one_step(environment: Environment) -> None:
    environment.folder.mkdir()
    write_stamp(environment, {"requirements.txt": "abc"})
    assert json.loads(environment.stamp.read_text()) == {"requirements.txt": "abc"}
    assert [path.name for path in environment.folder.iterdir()] == ["installed.json"]

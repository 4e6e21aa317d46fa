"""Which backend a run gets: what unsloth is tried for, what is remembered, and what is refused."""

import io
import json
import os
import sys
from types import SimpleNamespace

import pytest

from sftplay_ui.backend_environment import prepare_unsloth
from sftplay_ui.cli import main
from sftplay_ui.engine import backends, runs
from sftplay_ui.engine.backends import (
    Receipt,
    Verdict,
    settle_backend,
    unsloth_surroundings,
    verdict_on,
)
from sftplay_ui.engine.config import RunConfig, TrainConfig, TuningConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.errors import DeviceBusyError, ResumeError
from sftplay_ui.engine.events import EventWriter
from sftplay_ui.engine.launching import app_python, surroundings, worker_command
from sftplay_ui.engine.run_queue import has_place, place_of, write_place
from sftplay_ui.engine.runs import Run
from sftplay_ui.engine.worker import __main__ as worker
from sftplay_ui.environment import Environment, SetupError, write_stamp
from tests import unsloth_double

CPU = DeviceInfo("cpu", "cpu", "CPU, 2 cores", 16, 12, True, "the CPU has avx512_bf16")
OTHER_CPU = DeviceInfo("cpu", "cpu", "CPU, 8 cores", 16, 12, True, "the CPU has amx_bf16")
CARD = DeviceInfo("cuda:0", "cuda", "RTX 4060", 8, 7, True, "compute capability 8.9")
UNSLOTH = RunConfig(tuning=TuningConfig(backend="unsloth"))
posix_only = pytest.mark.skipif(os.name == "nt", reason="the double is a shell script")


@pytest.fixture
def run_dir(workspace):
    folder = workspace.outputs / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def usable(monkeypatch):
    monkeypatch.setattr(backends, "known_verdict", lambda *_: Verdict(True, "it works"))


def began(run_dir, backend: str) -> None:
    """Leave what a run with this backend leaves behind."""
    (run_dir / "checkpoints/checkpoint-3").mkdir(parents=True)
    (run_dir / "identity.json").write_text(json.dumps({"backend": backend}))


def test_bnb_is_asked_nothing(run_dir, monkeypatch):
    monkeypatch.setattr(backends, "known_verdict", lambda *_: pytest.fail("it was looked for"))
    assert settle_backend(run_dir, RunConfig()) == Receipt("bnb", "bnb", "as asked")
    assert Receipt.read(run_dir) == Receipt("bnb", "bnb", "as asked")


def test_unsloth_is_used_where_it_works_and_the_receipt_says_so(run_dir, usable):
    assert settle_backend(run_dir, UNSLOTH).used == "unsloth"
    assert Receipt.read(run_dir) == Receipt("unsloth", "unsloth", "it works")


def test_what_is_not_installed_falls_back_and_names_the_command(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv(backends.PYTHON, str(tmp_path / "none"))
    receipt = settle_backend(run_dir, UNSLOTH)
    assert receipt.used == "bnb"
    assert "setup --backend unsloth" in receipt.why


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tuning": TuningConfig(backend="unsloth", mode="full")}, "all weights learn"),
        ({"tuning": TuningConfig(backend="unsloth", lora={"use_dora": True})}, "DoRA"),
        ({"train": TrainConfig(processes=2)}, "several learn together"),
    ],
)
def test_what_unsloth_is_not_used_for_is_left_to_bnb(run_dir, usable, settings, reason):
    receipt = settle_backend(run_dir, UNSLOTH.model_copy(update=settings))
    assert receipt.used == "bnb"
    assert reason in receipt.why


def test_a_run_that_began_with_bnb_stays_with_it(run_dir, usable):
    began(run_dir, "bnb")
    receipt = settle_backend(run_dir, UNSLOTH)
    assert receipt.used == "bnb"
    assert "no run changes its backend" in receipt.why


def test_a_run_that_began_with_unsloth_is_not_resumed_without_it(run_dir, tmp_path, monkeypatch):
    began(run_dir, "unsloth")
    monkeypatch.setenv(backends.PYTHON, str(tmp_path / "none"))
    with pytest.raises(ResumeError, match=r"began with unsloth.*not installed"):
        settle_backend(run_dir, UNSLOTH)
    assert not (run_dir / backends.RECEIPT).exists()


def test_going_on_from_another_run_keeps_the_backend_of_that_one(run_dir, usable, workspace):
    began(run_dir, "bnb")
    new = workspace.outputs / "new"
    new.mkdir()
    config = UNSLOTH.model_copy(update={"train": TrainConfig(resume="outputs/run")})
    assert settle_backend(new, config).used == "bnb"


def test_what_gave_up_is_replaced_and_not_tried_again(run_dir, usable):
    receipt = settle_backend(run_dir, UNSLOTH, "unsloth gave up")
    assert receipt == Receipt("unsloth", "bnb", "unsloth gave up")


def test_other_jobs_need_no_backend(run_dir, usable):
    assert settle_backend(run_dir, UNSLOTH.model_copy(update={"job": "evaluate"})).used == "bnb"
    assert Receipt.read(run_dir) is None


def test_a_stop_during_the_trial_is_no_failure_of_unsloth(run_dir, monkeypatch):
    began(run_dir, "unsloth")
    monkeypatch.setattr(backends, "known_verdict", lambda *_: None)
    slow = Verdict(False, "it was not ready", passing=True)
    monkeypatch.setattr(backends, "verdict_on", lambda *_, **__: slow)
    assert settle_backend(run_dir, UNSLOTH, stopped=lambda: True).used == backends.UNTRIED
    with pytest.raises(ResumeError, match="it was not ready"):
        settle_backend(run_dir, UNSLOTH, stopped=lambda: False)


def told(run: Run, monkeypatch, used: str) -> list:
    """Let a worker that is to try unsloth do so, with this outcome."""
    receipt = Receipt("unsloth", used, "")
    monkeypatch.setattr(worker, "settle_backend", lambda *_, **__: receipt)
    backend = worker.Backend(is_unsloth=False, may_fall_back=False, is_untried=True)
    return list(worker.told(backend, UNSLOTH, run, CPU, io.StringIO()))


def test_a_run_that_is_stopped_during_the_trial_keeps_the_step_it_goes_on_from(
    run_dir, monkeypatch
):
    began(run_dir, "unsloth")
    (run_dir / "stop").write_text("soon")
    assert told(Run(run_dir), monkeypatch, backends.UNTRIED)[-1].step == 3


def test_between_two_workers_a_run_has_the_first_place_in_line(run_dir, monkeypatch):
    with pytest.raises(worker.HandOverError):
        told(Run(run_dir), monkeypatch, "unsloth")
    assert place_of(Run(run_dir)) == 0
    # one that came out of the line has its own
    write_place(Run(run_dir), 7)
    with pytest.raises(worker.HandOverError):
        told(Run(run_dir), monkeypatch, "unsloth")
    assert place_of(Run(run_dir)) == 7


def test_a_run_with_checkpoints_gets_no_place_that_could_be_cancelled_with_them(
    run_dir, monkeypatch
):
    began(run_dir, "unsloth")
    with pytest.raises(worker.HandOverError):
        told(Run(run_dir), monkeypatch, "unsloth")
    assert not has_place(Run(run_dir))


def test_what_is_to_stop_does_not_go_back_in_line(run_dir):
    run = Run(run_dir)
    write_place(run, 0)
    (run_dir / "stop").write_text("soon")
    busy = DeviceBusyError("The device is in use.", "Wait.")
    backend = worker.Backend(is_unsloth=True, may_fall_back=False)
    worker.end_badly(busy, backend, run, EventWriter(run.events_path))
    assert not has_place(run)
    assert run.state() == "stopped"


def test_a_stop_that_comes_while_one_worker_hands_over_to_another_is_kept(run_dir, monkeypatch):
    (run_dir / "config.yaml").write_text(config_to_yaml(RunConfig()))
    monkeypatch.setattr(runs, "start_worker", lambda *_, **__: None)
    stop = run_dir / "stop"
    for fallen in ("", "unsloth gave up"):
        stop.write_text("soon")
        runs.launch(Run(run_dir), fallen=fallen)
        assert stop.exists()
    runs.launch(Run(run_dir))
    assert not stop.exists()


# The probe


@posix_only
@pytest.mark.timeout(120)
def test_a_verdict_is_kept_until_the_device_or_a_version_changes(tmp_path):
    python = unsloth_double.build(tmp_path / "env")
    first = verdict_on(python, CPU)
    assert first == Verdict(True, "unsloth 2026.10.9 works on the CPU")
    calls = (tmp_path / "env/calls").read_text().splitlines()
    assert verdict_on(python, CPU) == first
    assert (tmp_path / "env/calls").read_text().splitlines() == calls == [backends.PROBE]
    unsloth_double.build(tmp_path / "env", before="raise ImportError('no kernels here')")
    assert verdict_on(python, CPU) == first
    anew = verdict_on(python, OTHER_CPU)
    assert not anew.usable
    assert "ImportError: no kernels here" in anew.reason


@posix_only
def test_versions_that_unsloth_does_not_accept_are_named(tmp_path):
    python = unsloth_double.build(tmp_path / "env", needs="transformers<2")
    verdict = verdict_on(python, CPU)
    assert not verdict.usable
    assert verdict.reason.startswith("transformers ")
    assert verdict.reason.endswith("is outside <2")


@posix_only
def test_a_probe_that_hangs_is_ended_and_tried_again_the_next_time(tmp_path, monkeypatch):
    python = unsloth_double.build(tmp_path / "env", before="import time; time.sleep(600)")
    monkeypatch.setattr(backends, "PROBE_SECONDS", 0)
    verdict = verdict_on(python, CPU)
    assert not verdict.usable
    assert "seconds" in verdict.reason
    monkeypatch.setattr(backends, "PROBE_SECONDS", 300)
    stopped = iter([False, True])
    assert not verdict_on(python, CPU, stopped=lambda: next(stopped)).usable
    monkeypatch.setattr(backends, "try_it", lambda *_: Verdict(True, "now it works"))
    assert verdict_on(python, CPU).usable


@posix_only
@pytest.mark.parametrize(
    ("dies", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9"),
        ("raise RuntimeError('CUDA error: out of memory')", "out of memory"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_a_trial_that_is_killed_or_short_of_memory_is_not_remembered(
    tmp_path, monkeypatch, dies, said
):
    python = unsloth_double.build(tmp_path / "env", before=dies)
    assert said in verdict_on(python, CPU).reason
    monkeypatch.setattr(backends, "try_it", lambda *_: Verdict(True, "now it works"))
    assert verdict_on(python, CPU).usable


@posix_only
def test_what_was_never_tried_is_left_to_the_worker(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv(backends.PYTHON, str(unsloth_double.build(tmp_path / "env")))
    monkeypatch.setattr(backends, "try_it", lambda *_: pytest.fail("it was tried"))
    assert settle_backend(run_dir, UNSLOTH).used == backends.UNTRIED
    assert surroundings(Receipt.read(run_dir))[0] == app_python()
    monkeypatch.setattr(backends, "try_it", lambda *_: Verdict(True, "now it works"))
    assert settle_backend(run_dir, UNSLOTH, stopped=lambda: False).used == "unsloth"
    # from now on it is known
    assert settle_backend(run_dir, UNSLOTH).used == "unsloth"


def test_beside_a_card_unsloth_must_not_fall_back_to_the_processor():
    assert unsloth_surroundings(CARD)["UNSLOTH_DISABLE_CPU_FALLBACK"] == "1"
    assert "UNSLOTH_DISABLE_CPU_FALLBACK" not in unsloth_surroundings(CPU)
    assert unsloth_surroundings(CPU)["UNSLOTH_DISABLE_STATISTICS"] == "1"


@pytest.mark.parametrize(
    ("seen", "capability", "triton", "library", "said"),
    [
        (False, (8, 9), True, "CudaBNBNativeLibrary", "cannot use the GPU"),
        (True, (6, 1), True, "CudaBNBNativeLibrary", "6.1 is too old"),
        (True, (8, 9), False, "CudaBNBNativeLibrary", "triton is not installed"),
        (True, (8, 9), True, "ErrorHandlerMockBNBNativeLibrary", "no library for this CUDA"),
        (True, (8, 9), True, "CudaBNBNativeLibrary", ""),
    ],
)
def test_what_unsloth_lacks_on_a_card_is_named(
    monkeypatch, seen, capability, triton, library, said
):
    from sftplay_ui.engine.worker import try_unsloth

    cuda = SimpleNamespace(is_available=lambda: seen, get_device_capability=lambda: capability)
    native = SimpleNamespace(lib=type(library, (), {})())
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __version__="2.13.0+cpu"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(cextension=native))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object() if triton else None)
    fault = try_unsloth.card_fault()
    assert said in fault
    assert bool(fault) == bool(said)


# How the worker is started


def test_the_worker_starts_with_the_backends_interpreter_and_knows_the_apps(tmp_path, monkeypatch):
    monkeypatch.setenv(backends.PYTHON, str(tmp_path / "python"))
    python, environment = surroundings(Receipt("unsloth", "unsloth", ""))
    assert worker_command(tmp_path, 1, python)[0] == str(tmp_path / "python")
    monkeypatch.setenv("SFTPLAY_PYTHON", environment["SFTPLAY_PYTHON"])
    monkeypatch.setattr("sys.executable", python)
    # what a worker of unsloth starts next
    assert worker_command(tmp_path, 1)[0] == app_python() == environment["SFTPLAY_PYTHON"] != python
    assert surroundings(Receipt("bnb", "bnb", ""))[0] == app_python()


# Its environment


def test_machines_without_builds_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(SetupError, match="Darwin"):
        prepare_unsloth(tmp_path, print)
    assert list(tmp_path.glob(".venv*")) == []


@pytest.mark.parametrize("card", [True, False])
def test_builds_for_the_processor_go_together_where_there_is_no_card(tmp_path, monkeypatch, card):
    made = "sftplay_ui.backend_environment"
    commands = []

    def record(installers, *_rest):
        commands.append(installers[-1])

    monkeypatch.setattr(f"{made}.has_nvidia_card", lambda: card)
    monkeypatch.setattr(f"{made}.version", lambda _name: "2.13.0+cpu")
    monkeypatch.setattr(f"{made}.run_first_that_works", record)
    monkeypatch.setattr(f"{made}.run_logged", lambda command, *_rest: commands.append(command))
    monkeypatch.setattr(
        f"{made}.prepare", lambda environment, files, say, fill: fill(environment, files, say)
    )
    environment = prepare_unsloth(tmp_path, lambda _text: None)
    assert environment.folder == tmp_path / ".venv-unsloth"
    said = [" ".join(command) for command in commands]
    if card:
        assert len(said) == 1
        assert "torch==" not in said[0]
        return
    first, removal, newer = said
    assert first.endswith("torch==2.13.0+cpu")
    assert "uninstall --yes torchvision xformers" in removal
    assert "--no-deps" in newer


def test_builds_for_the_processor_are_not_kept_when_a_card_comes(tmp_path, monkeypatch):
    made = "sftplay_ui.backend_environment"
    environment = Environment(tmp_path / ".venv-unsloth")
    environment.folder.mkdir()
    write_stamp(environment, {"requirements-unsloth-cpu.txt": "some hash"})
    monkeypatch.setattr(f"{made}.prepare", lambda *_: None)
    monkeypatch.setattr(f"{made}.has_nvidia_card", lambda: False)
    prepare_unsloth(tmp_path, print)
    assert environment.folder.exists()
    monkeypatch.setattr(f"{made}.has_nvidia_card", lambda: True)
    prepare_unsloth(tmp_path, print)
    assert not environment.folder.exists()


def test_check_says_which_backend_a_run_would_get(workspace, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(backends.PYTHON, str(tmp_path / "none"))
    for wanted, said in (("bnb", "bnb"), ("unsloth", "bnb instead of unsloth: unsloth is not")):
        setting = ["--set", f"tuning.backend={wanted}"]
        main(["check", "--json", "--workspace", str(workspace.root), *setting])
        facts = json.loads(capsys.readouterr().out)["facts"]
        assert facts["backend"].startswith(said)


@posix_only
def test_the_command_installs_tries_and_says_what_came_of_it(tmp_path, monkeypatch, capsys):
    from sftplay_ui import backend_setup

    python = unsloth_double.build(tmp_path / "env", before="raise ImportError('no kernels here')")
    monkeypatch.setenv(backends.PYTHON, str(python))
    monkeypatch.setattr(backend_setup, "prepare_unsloth", lambda *_: None)
    assert main(["setup", "--backend", "unsloth", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["usable"]
    assert "no kernels here" in answer["reason"]

"""The worker that waits for its run: when it is used, left aside, ended. Mostly with a double."""

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sftplay_ui.engine import warm_worker
from sftplay_ui.engine.launching import LAUNCHED, RECORD, worker_command
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.warm_worker import Standby, WarmWorker, code_stamp

ROOT = Path(__file__).parents[2]
WAITS = "import sys; print('ready', flush=True); sys.stdin.readline()"
TAKES = (
    "import sys, json, os, pathlib; print('noise'); print('ready', flush=True);"
    "from sftplay_ui.engine.processes import ProcessRecord;"
    "line = sys.stdin.readline(); folder = pathlib.Path(json.loads(line)['run']);"
    "ProcessRecord.of(os.getpid()).write(folder / 'worker.json'); sys.stdin.readline()"
)
DEAF = WAITS + "; import time; time.sleep(60)"
UNREADY = "import sys; sys.stdin.readline()"


@pytest.fixture
def make(monkeypatch):
    """Make a standby whose worker runs a few lines instead of importing what takes long."""
    made = []

    def one(lines: str, *, ready: bool = True) -> tuple[Standby, WarmWorker]:
        plain = [sys.executable, "-c", lines]
        monkeypatch.setattr(warm_worker, "worker_command", lambda *_: plain)
        standby = Standby()
        made.append(standby)
        standby.start()
        assert not ready or standby.worker.ready.wait(60)
        made.append(standby.worker)
        return standby, standby.worker

    yield one
    for each in made:
        each.close()


def fresh(worker: WarmWorker, folder: Path) -> list[str]:
    return [*worker.command, str(folder)]


def test_the_waiting_worker_becomes_the_run_s_worker(make, tmp_path):
    standby, worker = make(TAKES)
    process = standby.hand_over(tmp_path, fresh(worker, tmp_path), worker.environment, pipes=True)
    assert process is worker.process
    for name in (RECORD, LAUNCHED):
        assert ProcessRecord.read(tmp_path / name).is_of(worker.record)
    assert process.poll() is None
    # used up: the next start gets none
    assert standby.hand_over(tmp_path, fresh(worker, tmp_path), worker.environment) is None


def test_a_run_without_pipes_keeps_none_with_its_starter(make, tmp_path):
    standby, worker = make(TAKES)
    process = standby.hand_over(tmp_path, fresh(worker, tmp_path), worker.environment)
    assert process.stdin.closed
    assert process.stdout.closed


@pytest.mark.parametrize("differs", ["command", "environment", "code", "ready"])
def test_where_it_might_differ_from_a_fresh_one_it_is_left_aside(
    make, tmp_path, monkeypatch, differs
):
    standby, worker = make(UNREADY if differs == "ready" else TAKES, ready=differs != "ready")
    command, environment = fresh(worker, tmp_path), dict(worker.environment)
    if differs == "command":
        command[0] = "/another/python"
    if differs == "environment":
        environment["HF_HUB_OFFLINE"] = "0"
    if differs == "code":
        monkeypatch.setattr(warm_worker, "code_stamp", lambda: ("another",))
    assert standby.hand_over(tmp_path, command, environment) is None
    assert not worker.is_alive()
    assert not (tmp_path / RECORD).exists()


@pytest.mark.parametrize("lines", [DEAF, WAITS])
def test_one_that_does_not_come_at_once_is_killed_before_another_is_started(
    make, tmp_path, monkeypatch, lines
):
    monkeypatch.setattr(warm_worker, "ANSWER_SECONDS", 0.2)
    standby, worker = make(lines)
    assert standby.hand_over(tmp_path, fresh(worker, tmp_path), worker.environment) is None
    assert not worker.is_alive()


def test_the_record_of_an_earlier_worker_is_not_taken_for_its_own(make, tmp_path, monkeypatch):
    monkeypatch.setattr(warm_worker, "ANSWER_SECONDS", 0.2)
    standby, worker = make(DEAF)
    found = worker.record
    ProcessRecord(found.pid, found.started - 1000, found.boot_id).write(tmp_path / RECORD)
    assert standby.hand_over(tmp_path, fresh(worker, tmp_path), worker.environment) is None


def test_one_that_was_killed_is_left_aside_and_not_replaced_before_the_next_start(
    make, tmp_path, monkeypatch
):
    monkeypatch.setattr(warm_worker, "IDLE_SECONDS", 0)
    standby, worker = make(WAITS)
    worker.process.kill()
    worker.process.wait()
    standby.tend(idle=True)
    assert standby.worker is worker
    assert standby.hand_over(tmp_path, fresh(worker, tmp_path), worker.environment) is None
    standby.tend(idle=True)
    assert standby.worker.is_alive()


def test_one_is_started_only_when_nothing_has_run_for_a_moment_and_memory_is_free(monkeypatch):
    started, clock, free = [], [100.0], [8e9]
    monkeypatch.setattr(warm_worker, "WarmWorker", lambda: started.append(1) or SimpleNamespace())
    monkeypatch.setattr(warm_worker.time, "monotonic", lambda: clock[0])
    memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=free[0]))
    monkeypatch.setattr(warm_worker, "psutil", memory)
    standby = Standby()

    def tend(seconds: float, *, idle: bool) -> int:
        clock[0] += seconds
        standby.tend(idle=idle)
        return len(started)

    assert tend(0, idle=True) == 0
    assert tend(2, idle=False) == 0
    assert tend(2, idle=True) == 0
    free[0] = 1e9
    assert tend(2, idle=True) == 0
    free[0] = 8e9
    assert tend(1, idle=True) == 1
    assert tend(60, idle=True) == 1


def test_what_runs_gets_the_memory_of_the_one_that_waits(make):
    standby, worker = make(WAITS)
    standby.tend(idle=False)
    assert not worker.is_alive()
    assert standby.worker is None


def test_a_file_that_vanishes_while_one_is_started_or_used_does_no_harm(
    make, tmp_path, monkeypatch
):
    def fail(*_given):
        raise FileNotFoundError("events.py")

    monkeypatch.setattr(warm_worker, "IDLE_SECONDS", 0)
    standby, worker = make(WAITS)
    monkeypatch.setattr(warm_worker, "code_stamp", fail)
    assert standby.hand_over(tmp_path, fresh(worker, tmp_path), worker.environment) is None
    assert not worker.is_alive()
    standby.tend(idle=True)
    assert standby.worker is None


def test_a_closed_window_leaves_none_and_starts_none(make, monkeypatch):
    monkeypatch.setattr(warm_worker, "IDLE_SECONDS", 0)
    standby, worker = make(WAITS)
    standby.close()
    standby.tend(idle=True)
    assert not worker.is_alive()
    assert standby.worker is None


def test_a_fresh_worker_would_be_started_by_the_same_command_and_the_run_s_folder():
    folder = Path("outputs/run")
    assert worker_command(folder, 1) == [*worker_command(None, 1), str(folder)]


def test_a_changed_file_and_changed_packages_are_noticed(tmp_path, monkeypatch):
    module = tmp_path / "sftplay_ui" / "engine" / "events.py"
    module.parent.mkdir(parents=True)
    module.write_text("a = 1\n", encoding="utf-8")
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(warm_worker, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(warm_worker.sysconfig, "get_path", lambda _: str(packages))
    stamps = [code_stamp()]
    assert code_stamp() == stamps[0]
    module.write_text("a = 22\n", encoding="utf-8")
    stamps.append(code_stamp())
    os.utime(packages, (1, 1))
    stamps.append(code_stamp())
    assert len(set(stamps)) == 3


@pytest.mark.parametrize("heard", ["", '{"run": "/tmp/half'])
def test_a_worker_whose_window_is_gone_leaves(monkeypatch, capsys, heard):
    from sftplay_ui.engine.worker import __main__ as worker

    monkeypatch.setattr(worker, "import_libraries", lambda: None)
    monkeypatch.setattr(worker, "main", lambda _: pytest.fail("there is no run"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(heard))
    assert worker.wait_for_run() == 0
    assert capsys.readouterr().out == "ready\n"


def test_a_killed_window_takes_its_waiting_worker_along():
    window = (
        "import sys, time; from sftplay_ui.engine import warm_worker;"
        f"warm_worker.worker_command = lambda *_: [sys.executable, '-c', {WAITS!r}];"
        "standby = warm_worker.Standby(); standby.start();"
        "print(standby.worker.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", window], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as process:
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
    worker.wait(60)
    assert not worker.is_running()


def test_libraries_are_imported_without_what_they_only_use_where_it_is_there():
    code = (
        "import importlib, sys, torch; asked = [];"
        "torch.cuda.is_available = lambda: asked.append('is_available');"
        "torch.cuda.device_count = lambda: asked.append('device_count') or 0;"
        "importlib.import_module('sftplay_ui.engine.worker.__main__').import_libraries();"
        "print([name for name in ('scipy', 'peft', 'bitsandbytes') if name in sys.modules]);"
        "print(asked, torch.cuda.is_initialized()); import scipy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split("\n")[:2] == ["[]", "[] False"]

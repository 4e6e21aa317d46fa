"""Devices: described without torch, and held by one run at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from sftplay_ui.engine import device
from sftplay_ui.engine.device import DeviceLock, cpu_device, detect_device
from sftplay_ui.engine.errors import DeviceBusyError
from sftplay_ui.engine.workspace import PROJECT_ROOT

HOLD = """
import sys, time
from pathlib import Path
from sftplay_ui.engine.device import DeviceLock
lock = DeviceLock("cpu")
lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holding(run: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Hold the CPU in another process for as long as the block lasts."""
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT_ROOT) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_the_cpu_is_described_with_its_memory_and_a_reason():
    cpu = cpu_device()
    assert (cpu.id, cpu.kind) == ("cpu", "cpu")
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert "bf16" in cpu.reason


@pytest.mark.parametrize(
    ("flags", "fast"), [({"avx512_bf16"}, True), ({"amx_bf16"}, True), ({"avx2"}, False)]
)
def test_bf16_counts_only_with_instructions_for_it(monkeypatch, flags, fast):
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    assert cpu_device().bf16 is fast


def test_a_machine_without_a_card_trains_on_the_cpu(monkeypatch):
    monkeypatch.setattr(device, "nvidia_device", lambda: None)
    monkeypatch.setattr(device.platform, "system", lambda: "Linux")
    assert detect_device().kind == "cpu"


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("2", [2]),
        ("2, 0", [2, 0]),
        ("1,7,0", [1]),
        ("GPU-8932f937", [0, 1, 2]),
    ],
)
def test_only_cards_that_cuda_may_see_are_chosen_from(monkeypatch, setting, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert device.visible_cards(3) == seen


def test_the_second_run_is_refused_and_told_who_has_the_device(tmp_path):
    with holding(tmp_path / "first-run") as process:
        with pytest.raises(DeviceBusyError, match="first-run"):
            DeviceLock("cpu").acquire(tmp_path / "second-run")
        assert DeviceLock("cpu").holder().process.pid == process.pid


def test_a_refused_run_leaves_the_name_of_the_first_to_the_third(tmp_path):
    with holding(tmp_path / "first-run"):
        refused = DeviceLock("cpu")
        with pytest.raises(DeviceBusyError, match="first-run"):
            refused.acquire(tmp_path / "second-run")
        refused.release()
        with pytest.raises(DeviceBusyError, match="first-run"):
            DeviceLock("cpu").acquire(tmp_path / "third-run")


def test_a_dead_owner_does_not_block(tmp_path):
    with holding(tmp_path / "first-run"):
        pass
    lock = DeviceLock("cpu")
    assert lock.holder() is None
    lock.acquire(tmp_path / "second-run")
    assert lock.holder().process.pid == os.getpid()
    lock.release()
    assert lock.holder() is None


class Driver(SimpleNamespace):
    """NVIDIA's library, for a machine with cards of so many free bytes."""

    NVMLError = RuntimeError

    def __init__(self, *free: int) -> None:
        super().__init__(free=free)
        self.nvmlInit = self.nvmlShutdown = lambda: None
        self.nvmlDeviceGetCount = lambda: len(free)
        self.nvmlDeviceGetHandleByIndex = lambda number: number
        self.nvmlDeviceGetUUID = lambda number: f"GPU-{number}{number}-card"
        self.nvmlDeviceGetName = lambda number: b"Card"
        self.nvmlDeviceGetMemoryInfo = lambda n: SimpleNamespace(total=100, free=free[n])
        self.nvmlDeviceGetCudaComputeCapability = lambda number: (8, 6)


@pytest.fixture
def three_cards(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", Driver(20, 90, 50))


def test_the_card_that_is_locked_is_the_card_torch_will_see(three_cards, tmp_path):
    chosen = detect_device()
    assert (chosen.id, chosen.lock_name, chosen.free_bytes) == ("cuda:1", "cuda:1", 90)
    with device.held(chosen, tmp_path / "run"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-11-card"
        assert DeviceLock("cuda:1").holder().run == str(tmp_path / "run")
        # what the process sees from now on: the same card, as torch's first
        again = detect_device()
        assert (again.id, again.lock_name, again.uuid) == ("cuda:0", "cuda:1", chosen.uuid)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert DeviceLock("cuda:1").holder() is None


def test_processes_that_learn_together_hold_all_their_cards(three_cards, tmp_path):
    with device.held(detect_device(), tmp_path / "run", 2):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        held = [DeviceLock(f"cuda:{n}").holder() is not None for n in range(3)]
        assert held == [True, True, False]


def test_a_card_that_a_run_holds_is_left_to_it_while_there_are_others(three_cards, tmp_path):
    taken = DeviceLock(detect_device().lock_name)
    taken.acquire(tmp_path / "first-run")
    assert detect_device().lock_name == "cuda:2"
    taken.release()
    assert detect_device().lock_name == "cuda:1"


def test_cards_by_other_numbers_are_the_same_cards_to_the_lock(three_cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    chosen = detect_device()
    assert (chosen.id, chosen.lock_name) == ("cuda:0", "cuda:2")

"""Devices: described without torch, and held by one run at a time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

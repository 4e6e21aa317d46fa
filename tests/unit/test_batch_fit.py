"""How a step's examples are shared out over the cores of a CPU."""

import pytest

from sftplay_ui.engine.batch_fit import LANES, best_split
from sftplay_ui.engine.choices import Choice
from sftplay_ui.engine.device import DeviceInfo, cpu_device
from sftplay_ui.engine.resolve import ModelSize, resolve
from tests.training import config_for

GB = 10**9
CPU = DeviceInfo("cpu", "cpu", "CPU, 4 cores", 16 * GB, 12 * GB, True, "it has bf16", cores=4)
CARD = DeviceInfo("cuda:0", "cuda", "RTX 4060", 8 * GB, 7 * GB, True, "compute capability 8.9")
SIZE = ModelSize(10_000_000, 2, 64, 128)
LARGE = ModelSize(500_000_000, 2, 64, 128)


@pytest.mark.parametrize(
    ("cores", "examples", "lanes"),
    [(1, 8, 1), (2, 4, 2), (4, 2, 2), (6, 4, 3), (8, 8, 8), (8, 3, 2), (16, 4, 4), (2, 1, 1)],
)
def test_lanes_are_as_many_as_leave_the_fewest_cores_idle(cores, examples, lanes):
    assert best_split(cores, examples) == lanes


def lanes(device=CPU, size=SIZE, *, backend="bnb", processes=1, **how) -> Choice | None:
    config = config_for("model", **how)
    named = Choice("tuning.backend", backend, "in a test")
    found = resolve(config, device, size, 10, processes, named)
    choices = [choice for choice in found.choices if choice.setting == LANES]
    assert [choice.value for choice in choices] in ([], [found.lanes])
    return choices[0] if choices else None


def test_a_cpu_has_as_many_lanes_as_cores_and_examples():
    assert lanes() == Choice(LANES, 4, "each has its own examples and its share of 4 cores")
    assert lanes(batch_size=2).value == 2
    assert lanes(batch_size=1) == Choice(LANES, 1, "4 core(s), 1 example(s) at a time")
    assert lanes(mode="qlora", tuning={"unpack_4bit": True}).value == 4


def test_lanes_are_taken_as_asked_but_no_more_than_examples_at_a_time():
    assert lanes(lanes=3) == Choice(LANES, 3, "as asked")
    assert lanes(lanes=3, batch_size=2) == Choice(
        LANES, 2, "only 2 example(s) are learned at a time"
    )


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"processes": 2}, "the processes share the cores already"),
        ({"neftune_noise_alpha": 5.0}, "what is random is drawn in one order"),
        ({"lora": {"dropout": 0.1}}, "what is random is drawn in one order"),
        ({"mode": "qlora", "tuning": {"unpack_4bit": False}}, "each lane would unpack all"),
        ({"backend": "unsloth"}, "unsloth goes its own way"),
    ],
)
def test_what_cannot_be_shared_has_one_lane_and_a_reason(how, why):
    found = lanes(**{"lanes": 2, **how})
    assert found.value == 1
    assert found.reason.startswith(why)


def test_a_card_knows_no_lanes():
    assert lanes(CARD) is None
    assert lanes(CARD, lanes=2) == Choice(LANES, 1, "lanes share the cores of a CPU")


def test_gradients_that_would_crowd_the_memory_are_kept_once():
    assert lanes(size=LARGE).value == 4
    found = lanes(size=LARGE, mode="full")
    assert (found.value, found.reason) == (1, "more would keep 6.0 GB of gradients besides")


@pytest.mark.parametrize(("told", "cores"), [("3", 3), ("2,1", 2), ("", None), ("all", None)])
def test_a_cpu_has_as_many_cores_as_torch_is_told_to_take(monkeypatch, told, cores):
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 5)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(9), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert cpu_device().cores == (cores or 5)


def test_a_process_that_may_use_fewer_cores_counts_those(monkeypatch):
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(4), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cpu_device().cores == 4

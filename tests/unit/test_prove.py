"""`estimate --prove`: measured on a device of a given capacity; without a card it says so."""

import json
from dataclasses import asdict, replace

import pytest
from accelerate.state import AcceleratorState

from sftplay_ui.cli import main
from sftplay_ui.engine.device import cpu_device
from sftplay_ui.engine.errors import BackendError, DeviceMemoryError
from sftplay_ui.engine.memory import proof
from sftplay_ui.engine.memory.prospect import look_ahead
from sftplay_ui.engine.models.store import find_model
from sftplay_ui.engine.worker.prove import measure
from tests.small_device import SmallDevice
from tests.training import config_for
from tests.unit.test_memory_estimate import card

CONTEXT = 1000


@pytest.fixture
def measured(tiny_llama, workspace):
    """Measure the tiny model on a device of a capacity."""

    def run(capacity=1 << 40):
        AcceleratorState._reset_state(reset_partial_state=True)
        config = config_for(tiny_llama, effective_batch=4)
        base = find_model(str(tiny_llama), None, workspace=workspace)
        with SmallDevice(capacity) as device:
            return measure(config, base, cpu_device(), device, context=CONTEXT)

    return run


def test_what_is_predicted_stands_beside_what_was_measured(measured):
    found = measured()
    one, most = found.rows
    assert (one.examples, most.examples) == (1, 4)
    assert 0 < one.measured_allocated < most.measured_allocated
    assert 0 < one.predicted_allocated < most.predicted_allocated
    assert one.measured_device == one.measured_allocated + CONTEXT
    assert found.table().count("\n| ") == 2
    assert proof.Proof.of(json.loads(json.dumps(asdict(found)))) == found


def test_what_was_proved_is_what_the_next_estimate_rests_on(measured, tiny_llama, workspace):
    one, most = measured().rows
    for row in (one, most):
        config = config_for(tiny_llama, batch_size=row.examples, grad_accum=4 // row.examples)
        ahead = look_ahead(config, cpu_device(), workspace).memory
        assert ahead.basis == "measured"
        assert ahead.peak_allocated_bytes == pytest.approx(row.measured_allocated, abs=9)
        assert ahead.device_bytes == pytest.approx(row.measured_device, abs=20)


def test_a_device_without_room_for_one_example_is_an_expected_failure(measured):
    with pytest.raises(DeviceMemoryError, match="One example does not fit"):
        measured(1_300_000)


def test_without_a_card_it_says_so_and_fails(workspace, monkeypatch, capsys):
    monkeypatch.setattr("sftplay_ui.commands.estimate.detect_device", cpu_device)
    assert main(["estimate", "--prove", "--json", "--workspace", str(workspace.root)]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"]["code"] == "backend"
    assert "no NVIDIA card" in answer["error"]["what"]


def test_a_worker_that_fails_is_quoted(tiny_llama, workspace, monkeypatch):
    """Here torch has no CUDA: what the worker says of the card comes through."""
    config = config_for(tiny_llama)
    with pytest.raises(BackendError, match="Measuring on Test card failed: ") as problem:
        proof.prove(config, replace(card(8), id="cuda:0"), workspace, gigabytes=8)
    assert "CUDA" in problem.value.what or "cuda" in problem.value.what

"""What an estimate rests on: the closed form, a simulated step, or what was measured here."""

import json
import subprocess
from dataclasses import asdict, replace
from typing import Any

import pytest

from sftplay_ui.cli import main
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.memory import measured, simulation
from sftplay_ui.engine.memory.basis import Basis, Question, best_basis
from sftplay_ui.engine.memory.estimate import Estimate, estimate
from sftplay_ui.engine.memory.measured import Measurement, remember
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.simulation import Case, Simulated, case_of, file_of, simulate
from sftplay_ui.engine.memory.terms import Parts
from sftplay_ui.engine.workspace import Workspace
from tests.model_configs import ALL, UNTIED, config
from tests.unit.test_memory_estimate import card

GIB = 1 << 30
MIXTURE = config(
    "olmoe", (256, 128), 4, (4, 4), 1000, num_experts=8, num_experts_per_tok=2, **UNTIED
)
SEEN = Parts(100e6, 10e6, 50e6, 1e6, 1e6, 1e6, 500e6, 30e6)


def question(model: dict[str, Any], length: int = 512, **train: Any) -> Question:
    settings = RunConfig.model_validate(
        {
            "model": {"max_seq_len": length},
            "tuning": {"mode": "qlora"},
            "train": {"batch_size": 1, "gradient_checkpointing": True, **train},
        }
    )
    return Question(model, settings, card(8))


def case(asked: Question) -> Case:
    return case_of(asked.model, asked.config, asked.closed(), asked.device, asked.lengths)


def answer(asked: Question, basis: Basis) -> Estimate:
    return estimate(asked.config, asked.shape, asked.device, asked.lengths, basis)


def keep(asked: Question, parts: Parts) -> None:
    """Leave the answer of a simulation in the cache."""
    path = file_of(case(asked))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(Simulated("loss", parts, (2, 4)))), encoding="utf-8")


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any process that is started fail the test."""

    def refuse(*_arguments: object, **_how: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.mark.usefixtures("no_process")
def test_a_well_known_shape_is_answered_at_once_by_the_closed_form() -> None:
    basis = best_basis(question(ALL["Qwen2.5-3B"]), simulated="strangers")
    assert basis == Basis()


@pytest.mark.usefixtures("no_process")
def test_a_stranger_is_answered_at_once_too_in_a_wide_band_that_says_why() -> None:
    asked = question(MIXTURE)
    basis = best_basis(asked)
    assert basis.kind == "closed form"
    assert "(olmoe) was compared with real steps" in basis.words
    assert "estimate --simulate" in basis.words
    found, usual = answer(asked, basis), answer(asked, Basis())
    assert found.low_bytes < usual.low_bytes
    assert found.high_bytes > usual.high_bytes


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (ALL["Qwen2.5-7B"], True),
        (ALL["Gemma-3-1B"], True),
        (ALL["Phi-2"], False),
        (MIXTURE, False),
        ({**ALL["Llama-3.2-1B"], "intermediate_size": 40_000}, False),
        ({**ALL["Llama-3.2-1B"], "model_type": "unheard-of"}, False),
    ],
)
def test_only_shapes_like_those_of_the_tests_count_as_compared(
    model: dict[str, Any], known: bool
) -> None:
    assert ModelShape.of(model).compared is known


@pytest.mark.usefixtures("no_process")
def test_a_step_that_was_simulated_before_is_used_without_asking() -> None:
    asked = question(MIXTURE)
    keep(asked, SEEN)
    basis = best_basis(asked)
    found = answer(asked, basis)
    assert found.basis == "simulated"
    assert found.peak_allocated_bytes == pytest.approx(SEEN.total, abs=1)
    kept = {name: size for name, size in vars(found.categories).items() if name in vars(SEEN)}
    assert kept == pytest.approx(vars(SEEN), abs=1)
    assert "2 and 4 layers" in found.basis_words
    assert "torch " in found.basis_words


def test_another_length_rank_or_library_is_another_simulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = question(MIXTURE)
    lora = asked.config.tuning.lora.model_copy(update={"r": 8})
    narrow = asked.config.model_copy(
        update={"tuning": asked.config.tuning.model_copy(update={"lora": lora})}
    )
    names = {file_of(case(each)) for each in (asked, question(MIXTURE, 256))}
    names.add(file_of(case(replace(asked, config=narrow))))
    monkeypatch.setattr(simulation, "versions", lambda: {"torch": "99"})
    names.add(file_of(case(asked)))
    assert len(names) == 4


def test_a_simulation_that_takes_too_long_leaves_the_closed_form_with_the_reason() -> None:
    assert simulate(case(question(MIXTURE)), seconds=0.01) == (
        "the simulation took longer than 0.01 seconds"
    )


def test_a_simulation_that_fails_leaves_the_closed_form_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simulation, "WORKER", "sftplay_ui.engine.worker.nowhere")
    asked = question(MIXTURE)
    basis = best_basis(asked, simulated="strangers")
    assert basis.kind == "closed form"
    assert "It is not simulated: the simulation failed:" in basis.words
    assert "nowhere" in basis.words
    assert not file_of(case(asked)).exists()


def test_a_mixture_of_experts_is_simulated_by_the_command_and_remembered(
    workspace: Workspace,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = workspace.root / "models" / "mixture"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(MIXTURE), encoding="utf-8")
    asking = ["estimate", "--json", "--card", "8", "--set", "model.name=models/mixture"]
    asking += ["--set", "train.batch_size=1", "--workspace", str(workspace.root)]
    assert main([*asking, "--simulate"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["basis"] == "simulated", first["basis_words"]
    assert sum(first["categories"].values()) == pytest.approx(first["device_bytes"], abs=20)
    monkeypatch.setattr(simulation, "WORKER", "sftplay_ui.engine.worker.nowhere")
    assert main(asking) == 0
    assert json.loads(capsys.readouterr().out) == first


def remembered(asked: Question, *seen: Measurement) -> None:
    remember(asked.shape, asked.device, asked.closed(), seen)


@pytest.mark.usefixtures("no_process")
def test_what_was_measured_is_shown_next_time_in_a_narrower_band() -> None:
    asked = question(ALL["Qwen2.5-3B"])
    before = answer(asked, best_basis(asked))
    remembered(asked, Measurement(512, 512, 3 * GIB, int(3.2 * GIB), GIB // 2))
    after = answer(asked, best_basis(asked))
    assert after.basis == "measured"
    assert after.peak_allocated_bytes == pytest.approx(3 * GIB, abs=9)
    assert after.device_bytes == pytest.approx(3.7 * GIB, abs=20)
    assert sum(vars(after.categories).values()) == pytest.approx(after.device_bytes, abs=20)
    spread = (after.high_bytes - after.low_bytes) / after.device_bytes
    assert spread < (before.high_bytes - before.low_bytes) / before.device_bytes
    assert "Measured on this device with 512 tokens" in after.basis_words


def test_a_measured_size_tells_of_others_less_surely() -> None:
    small, large = question(ALL["Qwen2.5-3B"]), question(ALL["Qwen2.5-3B"], 2048)
    closed = small.closed().peak.parts
    # twice the activations of the closed form
    seen = int(closed.total + closed.activations + closed.logits)
    remembered(small, Measurement(512, 512, seen, seen))
    found, plain = answer(large, best_basis(large)), large.closed().peak.parts
    assert found.peak_allocated_bytes == pytest.approx(
        plain.total + plain.activations + plain.logits, rel=0.05
    )
    assert "reckoned from there for 2,048" in found.basis_words
    assert found.high_bytes / found.device_bytes > 1.05


def test_the_measured_size_nearest_to_the_asked_one_is_used() -> None:
    asked = question(ALL["Qwen2.5-3B"], 1024)
    remembered(asked, *(Measurement(n, n, n * 1_000_000, n * 1_000_000) for n in (256, 1024, 4096)))
    assert answer(asked, best_basis(asked)).peak_allocated_bytes == pytest.approx(1024e6, abs=9)


@pytest.mark.parametrize(
    "other", [{"gradient_checkpointing": False}, {"optim": "adamw"}], ids=["kept", "optim"]
)
def test_what_was_measured_holds_for_those_settings_alone(other: dict[str, Any]) -> None:
    asked = question(ALL["Qwen2.5-3B"])
    remembered(asked, Measurement(512, 512, 3 * GIB, 3 * GIB))
    assert best_basis(question(ALL["Qwen2.5-3B"], **other)).kind == "closed form"
    elsewhere = replace(asked, device=replace(card(8), name="Another card"))
    assert best_basis(elsewhere).kind == "closed form"


def test_a_size_measured_again_replaces_the_older_figure() -> None:
    asked = question(ALL["Qwen2.5-3B"])
    for size in (3, 4):
        remembered(asked, Measurement(512, 512, size * GIB, size * GIB))
    assert best_basis(asked).correction is not None
    assert answer(asked, best_basis(asked)).peak_allocated_bytes == pytest.approx(4 * GIB, abs=9)


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": [{"tokens": 1}]}', '{"a": 1}'])
def test_a_damaged_memory_of_measurements_counts_as_none(damage: str) -> None:
    asked = question(ALL["Qwen2.5-3B"])
    measured.measured_file().parent.mkdir(parents=True)
    measured.measured_file().write_text(damage, encoding="utf-8")
    assert best_basis(asked) == Basis()
    remembered(asked, Measurement(512, 512, GIB, GIB))
    assert best_basis(asked).kind == "measured"

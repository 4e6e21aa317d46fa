"""The learning-rate finder: it climbs, suggests, and leaves nothing but its curve."""

import pytest

from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.events import RateSuggested, RunFinished, RunStopped, StepLogged
from sftplay_ui.engine.worker.find_lr import HIGHEST, LOWEST, STEPS, Curve, find_lr, suggest
from tests.training import config_for, of_kind, write_examples


@pytest.fixture
def run_dir(workspace):
    write_examples(workspace)
    folder = workspace.outputs / "find-lr-model"
    folder.mkdir()
    return folder


def look(config, run_dir, until=lambda _event: None):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    found = []
    for event in find_lr(config, run_dir):
        found.append(event)
        until(event)
    return found


def test_rates_rise_over_decades_and_one_is_suggested(tiny_llama, run_dir):
    config = config_for(tiny_llama, learning_rate=0.5, load_best_model_at_end=True)
    events = look(config.model_copy(update={"job": "find_lr"}), run_dir)
    steps = of_kind(events, StepLogged)
    rates = [event.learning_rate for event in steps]
    # around what auto would choose for so small a model, whatever rate was asked for
    assert rates[0] == pytest.approx(4e-4 * LOWEST)
    assert rates == sorted(rates)
    assert {event.total_steps for event in steps} == {STEPS}
    if len(steps) == STEPS:
        assert rates[-1] == pytest.approx(4e-4 * HIGHEST)
    (found,) = of_kind(events, RateSuggested)
    assert rates[0] < found.learning_rate < rates[-1]
    assert list(found.rates) == rates
    assert min(found.losses) < 0
    assert isinstance(events[-1], RunFinished)
    # no checkpoint, no adapter: a run that is under way elsewhere is not touched either
    assert {path.name for path in run_dir.iterdir()} == {"backend.json"}
    assert list((run_dir.parents[1] / "adapters").iterdir()) == []


def test_a_stop_ends_it_at_once(tiny_llama, run_dir):
    def stop(event) -> None:
        if isinstance(event, StepLogged) and event.step == 3:
            (run_dir / "stop").write_text("soon")

    events = look(config_for(tiny_llama), run_dir, stop)
    assert events[-1] == RunStopped(step=3)
    assert of_kind(events, RateSuggested) == []


def test_what_is_suggested_lies_a_tenth_below_the_lowest_point():
    rates = [1e-5 * 2**n for n in range(12)]
    curve = Curve(rates, [0, 0, -0.1, -0.2, -0.4, -0.7, -0.9, -1.0, -1.1, 0.5, 2.0, 5.0])
    found = suggest(curve)
    assert found.learning_rate == pytest.approx(rates[8] / 10, rel=0.2)
    assert f"{rates[8]:.1g}" in found.what


@pytest.mark.parametrize("gains", [[], [0.1, -0.1], [0.1 * n for n in range(20)]])
def test_a_loss_that_never_falls_suggests_nothing(gains):
    with pytest.raises(DataError, match="let the loss fall"):
        suggest(Curve([1e-5 * 2**n for n in range(len(gains))], gains))

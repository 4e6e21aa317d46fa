"""Evaluate in a real worker: events to follow, files to read, a log with nothing in it."""

import json

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.evaluation import read_answers, read_evaluation
from sftplay_ui.engine.events import EvaluationLogged, RunFinished, SampleGenerated
from sftplay_ui.engine.runs import start_run
from tests.tuned import build_adapter


def test_an_evaluation_runs_in_a_worker_and_leaves_its_result(workspace, tiny_llama):
    build_adapter(workspace, tiny_llama)
    path = workspace.data / "processed" / "test.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"user": f"What is {n}?", "assistant": f"A number, {n}."} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig.model_validate(
        {
            "job": "evaluate",
            "model": {"name": str(tiny_llama)},
            "generate": {"max_new_tokens": 6},
            "evaluate": {"run": "tuned"},
        }
    )
    run = start_run(config, workspace)
    assert run.name == "evaluate-tuned"
    events = list(run.follow())
    assert isinstance(events[-1], RunFinished), events[-1]
    assert len([event for event in events if isinstance(event, SampleGenerated)]) == 20
    (scores,) = [event.metrics for event in events if isinstance(event, EvaluationLogged)]
    result = read_evaluation(run.folder)
    assert scores["before.rougeL"] == result.before["rougeL"]
    assert result.verdict
    assert len(read_answers(run.folder)) == 10
    assert run.log_path.read_text() == ""

"""Merge in a real worker: one folder, its proof, and a log with nothing in it."""

import json

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.events import RunFinished
from sftplay_ui.engine.models.folder import check_model_folder
from sftplay_ui.engine.runs import start_run
from tests.tuned import build_adapter


def test_a_merge_runs_in_a_worker_and_proves_itself(workspace, tiny_llama):
    build_adapter(workspace, tiny_llama)
    config = RunConfig.model_validate(
        {"job": "merge", "model": {"name": str(tiny_llama)}, "merge": {"adapter": "tuned"}}
    )
    run = start_run(config, workspace)
    events = list(run.follow())
    assert isinstance(events[-1], RunFinished), events[-1]
    found = json.loads((run.folder / "metrics.json").read_text())
    assert found["parity"]["prompts"] == 3
    assert found["reload"]
    assert events[-1].adapter == found["out"] == str(run.folder / "model")
    check_model_folder(run.folder / "model")
    assert run.log_path.read_text() == ""

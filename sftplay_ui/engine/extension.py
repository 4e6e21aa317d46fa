"""Let a finished training run learn longer: it goes on from its last step, by some epochs more.

The added epochs are written into the run's configuration, so the run stays one story that can be
stopped and resumed as ever. What the learning rate does there is left to the worker's `schedule`.
"""

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.backends import settle_backend
from sftplay_ui.engine.checkpoints import list_checkpoints
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml
from sftplay_ui.engine.errors import ResumeError
from sftplay_ui.engine.events import RunFinished, StepLogged
from sftplay_ui.engine.preflight import need_room
from sftplay_ui.engine.runs import Run, has_left, last_events, launch, refuse_busy_device
from sftplay_ui.engine.warm_worker import Standby


def extend_run(run: Run, epochs: float, standby: Standby | None = None) -> Run:
    """Add epochs to a finished training run and let it go on from where it ended.

    Raises ResumeError where it did not come to its planned end, or nothing of that end was kept.
    """
    if not has_left(run):
        raise ResumeError(f"{run.name} is still running.", "Extend it when it is finished.")
    tail = last_events(run.events_path)
    end = tail[-1] if tail else None
    config = run.config()
    if config.job != "train" or not isinstance(end, RunFinished):
        raise ResumeError(
            f"{run.name} is no finished training run, so it cannot be extended.",
            "Resume it first, or choose another run.",
        )
    planned = next((e.total_steps for e in reversed(tail) if isinstance(e, StepLogged)), end.step)
    if end.step < planned:
        raise ResumeError(
            f"{run.name} ended early at step {end.step} of {planned}: more brought no gain.",
            "Start a new run with another learning rate or more examples.",
        )
    if end.step not in {saved.step for saved in list_checkpoints(run.folder / "checkpoints")}:
        raise ResumeError(
            f"{run.name} kept no checkpoint of its last step {end.step} to go on from.",
            "Start a new run with train.save_strategy: steps.",
        )
    refuse_busy_device()
    need_room(run.workspace)
    added = [*config.train.extended_by, float(epochs)]
    train = config.train.model_dump() | {"extended_by": added}
    longer = RunConfig.model_validate({**config.model_dump(), "train": train})
    # before anything is written: its backend may be known to be gone. Where only a trial can tell,
    # the worker's does: the run then fails, and once that is mended, resuming it goes on with this
    settle_backend(run.folder, longer)
    replace_text(run.folder / "config.yaml", config_to_yaml(longer))
    launch(run, standby=standby)
    return run

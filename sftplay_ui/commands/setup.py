"""Commands around the runs: another backend, the base model, and TensorBoard."""

import webbrowser

from sftplay_ui.backend_environment import FOLDER
from sftplay_ui.backend_setup import set_up
from sftplay_ui.commands import FAILED, Answer, Context
from sftplay_ui.engine.models.store import Progress, fetch_model
from sftplay_ui.engine.tensorboard_server import TensorBoard
from sftplay_ui.engine.workspace import PROJECT_ROOT


def setup(context: Context) -> Answer:
    """Install unsloth into an environment of its own, and try whether it works on this device."""
    verdict = set_up(PROJECT_ROOT, context.reporter.say)
    folder = PROJECT_ROOT / FOLDER
    value = {"usable": verdict.usable, "reason": verdict.reason, "path": str(folder)}
    text = f"{'Ready' if verdict.usable else 'Not usable, so bnb stays'}: {verdict.reason}."
    return Answer(value, text, 0 if verdict.usable else FAILED)


def download_model(context: Context) -> Answer:
    """Fetch the base model once, so that everything after works offline."""
    model = context.config().model
    phase = ""

    def show(progress: Progress) -> None:
        nonlocal phase
        if progress.phase != phase:
            phase = progress.phase
            context.reporter.begin(phase, progress.total or 0)
        context.reporter.advance(progress.done, progress.total)

    with context.reporter.progress:
        folder = fetch_model(
            model.name, revision=model.revision, workspace=context.workspace, on_progress=show
        )
    value = {"model": model.name, "path": str(folder.path), "source": folder.source}
    return Answer(value, f"{model.name} is in {folder.path}")


def tensorboard(context: Context) -> Answer:
    """Start, stop, open or clean TensorBoard."""
    board = TensorBoard(context.workspace)
    if context.args.clean:
        count = board.clean()
        return Answer({"cleaned": count}, f"Deleted the logs of {count} runs.")
    if context.args.stop:
        stopped = board.stop()
        return Answer({"stopped": stopped}, "Stopped." if stopped else "It was not running.")
    url = board.start()
    if context.args.open:
        webbrowser.open(url)
    return Answer({"url": url}, f"TensorBoard is at {url}")

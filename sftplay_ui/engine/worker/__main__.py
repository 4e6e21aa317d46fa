"""The worker process of one run: lock the device, do the job, write down what happens.

`python -m sftplay_ui.engine.worker <run folder>`; without a folder it imports what takes long and
waits to be told one (`warm_worker`). This is one of the two places that may catch
every exception: it becomes the run's last event, and the traceback goes to `worker.log`.
"""

import importlib
import json
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from sftplay_ui.engine.backends import UNTRIED, Receipt, began_with, settle_backend
from sftplay_ui.engine.checkpoints import list_checkpoints, tells_full_disk
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo, detect_device, held
from sftplay_ui.engine.errors import BackendError, DeviceBusyError, SFTPlayError
from sftplay_ui.engine.events import (
    CheckpointSaved,
    Event,
    EventWriter,
    PhaseStarted,
    RunFailed,
    RunResumed,
    RunStarted,
    RunStopped,
    StepLogged,
)
from sftplay_ui.engine.launching import LOG, RECORD
from sftplay_ui.engine.processes import ProcessRecord
from sftplay_ui.engine.redaction import redacted
from sftplay_ui.engine.resolve import choose_mode, choose_optimizer
from sftplay_ui.engine.run_queue import (
    back_in_line,
    has_place,
    keep_place,
    leave_line,
    start_next,
)
from sftplay_ui.engine.runs import Run, launch, stop_requested
from sftplay_ui.engine.versions import installed
from sftplay_ui.engine.warm_worker import READY

PACKAGES = ("sft-play", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "unsloth")
EXIT_FAILED = 1
# what a launcher tells the processes of one run: not meant for the next run in line
TOGETHER = (
    *("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_"),
    *("ACCELERATE_USE_", "FSDP_"),
)
# what takes long to import, and every job stands on. Not peft: it imports bitsandbytes, which asks
# CUDA for its cards, and which of them a run may see is known only when it holds one
LIBRARIES = ("torch", "accelerate", "transformers.modeling_utils", "transformers.models.auto")
# warns at every import that an optional package is not there
NOISY_LOGGER = "bitsandbytes.backends.cpu.ops"


def main(run_dir: Path) -> int:
    """Run the job of a run folder to its end, then start the next run in line, if any.

    The exit code is 0 unless the job failed.
    """
    pipe = reserve_stdout()
    before = dict(os.environ)
    try:
        code = do_job(run_dir, pipe)
    except HandOverError as over:
        forget_backend(before)
        launch(Run(run_dir), fallen=over.why)
        return 0
    forget_backend(before)
    if os.environ.get("RANK", "0") == "0":
        for name in [name for name in os.environ if name.startswith(TOGETHER)]:
            del os.environ[name]
        with suppress(SFTPlayError, OSError):
            start_next(Run(run_dir).workspace)
    return code


def do_job(run_dir: Path, pipe: TextIO) -> int:
    """Hold the device, do the job, and tell how it ended; the worker's exit code."""
    logging.getLogger(NOISY_LOGGER).setLevel(logging.ERROR)
    run = Run(run_dir)
    device = detect_device()
    config = run.config()
    if os.environ.get("RANK", "0") != "0":
        return go_along(config, run, pipe)
    writer = EventWriter(run.events_path)
    writer.write(RunStarted(job=config.job, versions=versions(), device=device.name))
    ProcessRecord.of(os.getpid()).write(run.folder / RECORD)
    catch_signals(run)
    backend = Backend.of(config, run)
    try:
        with held(device, run.folder, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))):
            for event in told(backend, config, run, device, pipe):
                backend.watch(event)
                if isinstance(event, RunResumed):
                    writer.cut_back(event)
                writer.write(event)
    except Exception as error:
        return end_badly(error, backend, run, writer)
    writer.close()
    return 0


def told(
    backend: "Backend", config: RunConfig, run: Run, device: DeviceInfo, pipe: TextIO
) -> Iterator[Event]:
    """Try the backend where nobody knows whether it works, then do the job; tell of both.

    Raises HandOverError where the other backend's worker is to do it.
    """
    if backend.is_untried:
        yield PhaseStarted(phase="try_backend")
        receipt = settle_backend(run.folder, config, stopped=lambda: stop_requested(run.folder))
        if stop_requested(run.folder):
            yield RunStopped(step=step_of(run))
            return
        if receipt.used == "unsloth":
            keep_place(run)
            raise HandOverError
    leave_line(run)
    backend.begin(config, device)
    yield from watched(find_job(config.job, pipe)(config, run.folder), config, run)


def end_badly(error: Exception, backend: "Backend", run: Run, writer: EventWriter) -> int:
    """Tell a failure, or go back in line where only the device was taken; the exit code.

    Raises HandOverError where another worker takes over.
    """
    known = isinstance(error, SFTPlayError)
    if isinstance(error, HandOverError):
        writer.close()
        raise error
    if backend.may_fall_back and (isinstance(error, BackendError) or not known):
        if not known:
            sys.stderr.write(redacted(traceback.format_exc()))
        writer.close()
        keep_place(run)
        why = error.what.rstrip(".") if isinstance(error, BackendError) else in_short(error)
        raise HandOverError(f"unsloth gave up before the first step ({why})") from error
    if isinstance(error, DeviceBusyError) and has_place(run):
        step_aside(run, writer)
    elif isinstance(error, SFTPlayError):
        tell_failure(RunFailed(code=error.code, what=error.what, fix=error.fix), writer)
    else:
        tell_failure(describe_bug(error, run), writer)
    return EXIT_FAILED


def step_aside(run: Run, writer: EventWriter) -> None:
    """Go back in line; where a stop was asked for meanwhile, end instead."""
    if stop_requested(run.folder):
        leave_line(run)
        writer.write(RunStopped(step=step_of(run)))
        writer.close()
    else:
        writer.close()
        back_in_line(run)


def step_of(run: Run) -> int:
    """Give the step that a run which has not begun to learn would go on from."""
    return max((saved.step for saved in list_checkpoints(run.folder / "checkpoints")), default=0)


def tell_failure(failure: RunFailed, writer: EventWriter) -> None:
    """Write the run's last event, on a full disk too; the traceback goes to the log."""
    writer.free_reserve()
    writer.write(failure)
    # on a full disk the log may stay short, but not the record
    with suppress(OSError):
        sys.stderr.write(redacted(traceback.format_exc()))
    writer.close()


def go_along(config: RunConfig, run: Run, pipe: TextIO) -> int:
    """Do the job as one of several processes; the first of them tells, locks and saves."""
    catch_signals(run)
    for _event in find_job(config.job, pipe)(config, run.folder):
        pass
    return 0


class HandOverError(Exception):
    """The worker of the other backend is to do the job; `why` unsloth gave up, where it did."""

    def __init__(self, why: str = "") -> None:
        self.why = why
        super().__init__(why)


@dataclass
class Backend:
    """The backend this worker was started for, and whether another could still take its place."""

    is_unsloth: bool
    may_fall_back: bool
    is_untried: bool = False

    @classmethod
    def of(cls, config: RunConfig, run: Run) -> "Backend":
        """Read the receipt; what goes on from a checkpoint of unsloth stays with it."""
        receipt = Receipt.read(run.folder)
        jobs = config.job in ("train", "find_lr")
        used = receipt.used if jobs and receipt is not None else "bnb"
        chosen = used == "unsloth"
        return cls(chosen, chosen and began_with(run.folder, config) is None, used == UNTRIED)

    def begin(self, config: RunConfig, device: DeviceInfo) -> None:
        """Import unsloth before what it changes, or see that nothing needless is imported."""
        if not self.is_unsloth:
            leave_out_bitsandbytes(config, device)
            import_libraries()
            return
        # its kernels come for few versions of torch; torch's own attention does the same
        sys.modules["xformers"] = None  # type: ignore[assignment]
        importlib.import_module("unsloth")

    def watch(self, event: Event) -> None:
        """Notice when the first step is done."""
        if isinstance(event, StepLogged | CheckpointSaved):
            self.may_fall_back = False


def in_short(error: Exception) -> str:
    """Give the kind of an error of another library, and the first line it says."""
    first = redacted(str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"


def forget_backend(before: Mapping[str, str]) -> None:
    """Take back the variables that libraries have set: what is started next may not need them."""
    os.environ.clear()
    os.environ.update(before)


def leave_out_bitsandbytes(config: RunConfig, device: DeviceInfo) -> None:
    """Keep peft from importing bitsandbytes for a training that does not use it: over a second."""
    if config.job not in ("train", "find_lr"):
        return
    unused = choose_mode(config, device).value != "qlora"
    if unused and choose_optimizer(config.train, device).value == "adamw":
        # Python's own sign for a module that is not to be found
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]


def import_libraries() -> None:
    """Import the libraries of every job, without what transformers has for finding objects."""
    with missing("scipy"):
        for name in LIBRARIES:
            importlib.import_module(name)


@contextmanager
def missing(name: str) -> Iterator[None]:
    """Let those who only use a module where it is there do without it: half a second."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def watched(events: Iterator[Event], config: RunConfig, run: Run) -> Iterator[Event]:
    """Mirror a training's events for TensorBoard where that is wanted."""
    if config.job != "train" or config.logging.backend != "tensorboard":
        return events
    from sftplay_ui.engine.worker.tensorboard import mirrored

    return mirrored(events, run.workspace.outputs / "tb" / run.name)


def wait_for_run() -> int:
    """Import what takes long, say so, and be the worker of the run that is then named on stdin.

    Leaves where nobody is there any more who could name one.
    """
    before = dict(os.environ)
    import_libraries()
    forget_backend(before)
    print(READY, flush=True)
    line = sys.stdin.readline()
    # half a line: whoever wrote it has died over it
    if not line.endswith("\n"):
        return 0
    errand = json.loads(line)
    folder = Path(errand["run"])
    connect(folder / LOG, pipes=errand["pipes"])
    return main(folder)


def connect(log: Path, *, pipes: bool) -> None:
    """Connect this process as a worker is started: stderr to the log, the rest unless `pipes`."""
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
        if not pipes:
            os.dup2(file.fileno(), 1)
    if not pipes:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)


def reserve_stdout() -> TextIO:
    """Keep the real stdout for the chat protocol; what libraries print goes to the log."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return pipe


def find_job(name: str, pipe: TextIO) -> Callable[[RunConfig, Path], Iterator[Event]]:
    """Import the one module a job needs, and nothing of the others."""
    module = importlib.import_module(f"sftplay_ui.engine.worker.{name}")
    if name == "chat":
        return lambda config, run_dir: module.chat(config, run_dir, sys.stdin, pipe)
    job: Callable[[RunConfig, Path], Iterator[Event]] = getattr(module, name)
    return job


def catch_signals(run: Run) -> None:
    """Turn a polite signal into a stop request, so that the work is saved."""

    def ask(_number: int, _frame: object) -> None:
        run.request_stop()

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), ask)


def versions() -> dict[str, str]:
    """List the versions of what the job stands on, without importing any of it."""
    return {"python": sys.version.split()[0], **installed(PACKAGES)}


def describe_bug(error: Exception, run: Run) -> RunFailed:
    """Put an unexpected error in words; what is known about the machine goes first."""
    log = run.workspace.shorten(run.log_path)
    if tells_full_disk(error):
        free = shutil.disk_usage(run.folder).free
        return RunFailed(
            code="disk_full",
            what=f"The disk is full: {error} ({free / 1e6:.0f} MB free in {run.folder}).",
            fix="Make room, then resume the run.",
        )
    return RunFailed(
        code="bug",
        what=f"Something unexpected happened: {type(error).__name__}: {redacted(str(error))}",
        fix=f"Resume the run, or report it with the log {log}.",
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])) if sys.argv[1:] else wait_for_run())

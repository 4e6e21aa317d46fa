"""What can go wrong, in words for the person it happens to.

Every expected failure is an `SFTPlayError`: `what` is a sentence about the person's own things
(file, line, field, value), `fix` is one action. The `code` is stable; the window, `--json` and the
events carry it. Anything else that is raised is a bug and is shown as one.
"""


class SFTPlayError(Exception):
    """An expected failure: what happened, and the one thing to do about it."""

    code = "error"

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what} {self.fix}"


class ConfigError(SFTPlayError):
    """A configuration that cannot be used; `what` names every problem with file, line and path."""

    code = "config"


class DataError(SFTPlayError):
    """A file, column or row that cannot be used; names `file:line` where there is one."""

    code = "data"


class TemplateError(SFTPlayError):
    """A chat template that does not parse, render or round-trip."""

    code = "template"


class ModelError(SFTPlayError):
    """A base model that is missing, gated, of the wrong kind, or not reachable."""

    code = "model"


class BackendError(SFTPlayError):
    """A backend that cannot do here what it was asked for."""

    code = "backend"


class DeviceMemoryError(SFTPlayError):
    """The device ran out of memory; names what helps most, in order."""

    code = "out_of_memory"


class DeviceBusyError(SFTPlayError):
    """Another run holds the device; names it."""

    code = "device_busy"


class ResumeError(SFTPlayError):
    """A run that cannot go on as it was; names both values of what differs."""

    code = "resume"


class RunNotFoundError(SFTPlayError):
    """No run of that name."""

    code = "run_not_found"


class AdapterError(SFTPlayError):
    """An adapter that is missing, damaged, or does not fit its base model."""

    code = "adapter"


class DiskFullError(SFTPlayError):
    """Too little disk space; names needed and free bytes."""

    code = "disk_full"


class NotFiniteError(SFTPlayError):
    """A loss or gradient that is NaN or infinite; the last good state is saved."""

    code = "not_finite"


class WorkerLostError(SFTPlayError):
    """A worker that ended without saying why."""

    code = "worker_lost"

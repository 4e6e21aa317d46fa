"""The answer of every check of a person's file: one of three verdicts, and why."""

from dataclasses import dataclass
from typing import Literal

from sftplay_ui.engine.errors import SFTPlayError

Verdict = Literal["accept", "accept_with_warning", "reject"]


@dataclass(frozen=True)
class CheckResult:
    """What a check found; `rows` counts the examples of a data file and is 0 for anything else."""

    verdict: Verdict
    messages: tuple[str, ...] = ()
    rows: int = 0

    @classmethod
    def of(cls, *, faults: list[str], warnings: list[str], rows: int = 0) -> "CheckResult":
        """Reject where there is a fault, warn where there is a warning, else accept."""
        verdict: Verdict = "reject" if faults else "accept_with_warning" if warnings else "accept"
        return cls(verdict, (*faults, *warnings), rows)

    @classmethod
    def rejected(cls, error: SFTPlayError) -> "CheckResult":
        """Turn an expected failure into a verdict: what happened, then what to do."""
        return cls("reject", (str(error),))

    def to_json(self) -> dict[str, object]:
        """Return the object that `check --json` prints."""
        return {"verdict": self.verdict, "messages": list(self.messages), "rows": self.rows}

"""What a page is told about a run: everything small, and of what grows only what the page lacks.

All of it is plain JSON: numbers that are none become None.
"""

import math
import time
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sftplay_ui.engine.runs import Run
from sftplay_ui.story import Story, checkpoint_steps

POINTS_AT_ONCE = 5000
LOG_BYTES = 12 * 1024

Signature = tuple[int, int] | None


def signature(path: Path) -> Signature:
    """Tell one version of a file from another; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


@dataclass(frozen=True)
class Seen:
    """What a page has already: its run, and how far it got there."""

    run: str | None = None
    generation: str = ""
    points: int = 0
    evaluations: int = 0
    facts: int = -1
    log: str = ""
    library: str = ""

    @classmethod
    def of(cls, query: Mapping[str, Any]) -> "Seen":
        """Read a page's query; anything odd counts as not seen."""
        number = {
            name: value
            for name in ("points", "evaluations", "facts")
            if isinstance(value := query.get(name), int)
        }
        text = {
            name: value
            for name in ("generation", "log", "library")
            if isinstance(value := query.get(name), str)
        }
        run = query.get("run")
        return cls(run=run if isinstance(run, str) and run else None, **number, **text)


def small_facts(story: Story) -> dict[str, Any]:
    """Give what a status line says of a run."""
    failure = story.failure
    step = story.last_step
    return {
        "run": story.run.name,
        "state": story.state,
        "sentence": story.sentence(),
        "phase": story.phase.phase if story.phase else None,
        "done": story.done,
        "of": story.phase.total if story.phase else 0,
        "progress": story.progress,
        "eta": story.eta_seconds(time.time()),
        "step": step.step if step else 0,
        "total_steps": step.total_steps if step else 0,
        "stopping": story.stop_asked(),
        "seconds": story.seconds,
        "failure": {"code": failure.code, "what": failure.what, "fix": failure.fix}
        if failure
        else None,
    }


def run_since(story: Story, seen: Seen) -> dict[str, Any]:
    """Give all of a run that a page with `seen` lacks; its series from the page's place on."""
    name = story.run.name
    same = seen.run == name and seen.generation == story.generation
    points = min(seen.points, len(story.steps)) if same else 0
    evaluations = min(seen.evaluations, len(story.evaluations)) if same else 0
    answer = {
        **small_facts(story),
        "generation": story.generation,
        "from": points,
        "total": len(story.steps),
        "points": story.steps.since(points, POINTS_AT_ONCE),
        "evaluations_from": evaluations,
        "evaluations": story.evaluations.since(evaluations, POINTS_AT_ONCE),
        "figures": figures(story),
        "facts": story.facts,
        **log_since(story.run, seen.log if same else ""),
    }
    if not same or seen.facts != story.facts:
        answer["told"] = told(story)
    return answer


def figures(story: Story) -> dict[str, Any]:
    """Give the newest figures."""
    latest = {name: newest(column) for name, column in story.steps.columns.items()}
    return {
        **latest,
        "eval_loss": newest(story.evaluations.columns["loss"]),
        "epoch": story.last_step.epoch if story.last_step else None,
        "tokens": story.tokens,
        "learned_tokens": story.learned_tokens,
    }


def newest(column: "array[float]") -> float | None:
    """Give the last figure of a column; None where there is none or it is no number."""
    return column[-1] if column and math.isfinite(column[-1]) else None


def told(story: Story) -> dict[str, Any]:
    """Give what a run says in words: choices, warnings, samples, and whether it can go on."""
    return {
        "choices": [asdict(choice) for choice in story.choices],
        "warnings": [{"code": w.code, "what": w.what} for w in story.warnings],
        "samples": [
            {
                "step": s.step,
                "source": s.source,
                "prompt": s.prompt,
                "reference": s.reference,
                "text": s.text,
            }
            for s in story.samples
        ],
        "device": story.started.device if story.started else "",
        "versions": dict(story.started.versions) if story.started else {},
        "resume": resume_offer(story),
        "scores": [{"step": step, **scores} for step, scores in story.scores],
        "extend": extend_offer(story),
        "rate": suggested_rate(story),
    }


def extend_offer(story: Story) -> bool:
    """Tell whether a finished training can learn longer: it came to its end, and kept it."""
    step = story.last_step
    if story.alive or story.state != "finished" or step is None or story.suggested:
        return False
    return step.step == step.total_steps and step.step in checkpoint_steps(story.run.folder)


def suggested_rate(story: Story) -> dict[str, Any] | None:
    """Give what a range test found: the rate, in words, and the points of its curve."""
    found = story.suggested
    if found is None:
        return None
    points = zip(found.rates, found.losses, strict=False)
    return {
        "learning_rate": found.learning_rate,
        "what": found.what,
        "points": [[rate, loss] for rate, loss in points if loss is not None],
    }


def resume_offer(story: Story) -> str | None:
    """Say exactly what a resume would continue from; None where there is nothing to resume."""
    step = story.resume_step()
    if step is None:
        return None
    if step == 0:
        return "No checkpoint was saved yet: resuming starts again from step 0."
    total = story.last_step.total_steps if story.last_step else 0
    left = f", {total - step:,} of {total:,} steps to go" if total > step else ""
    return f"Resume goes on from step {step:,} (checkpoint-{step}){left}."


def log_since(run: Run, seen: str) -> dict[str, Any]:
    """Give the end of the worker's log where it changed."""
    version = str(signature(run.log_path))
    if version == seen:
        return {"log_version": version}
    try:
        with run.log_path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    return {"log_version": version, "log": text}

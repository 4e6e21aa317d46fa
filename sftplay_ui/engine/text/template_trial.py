"""The trial of a chat template before its first use: a child process with limits on all it takes.

`template_sandbox` bounds what a template can do; this is the wall behind that fence. A bomb ends
here, in a process that nobody misses. The modules it needs are few, so the child starts at once.
"""

import json
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import jinja2

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.template_sandbox import (
    OUTPUT_CHARACTERS,
    Refusal,
    chat_values,
    check_size,
    render_source,
)

MEMORY_BYTES = 1_000_000_000
CPU_SECONDS = 2
WALL_SECONDS = 10
# Stands for the template's name in what the child says, since equal sources share one trial.
_ANY_NAME = "\ue002"

# Faults that cost nothing: the template is wrong for this chat, not dangerous.
_HARMLESS = (
    Refusal,
    jinja2.UndefinedError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
)


def try_in_child(source: str, name: str) -> None:
    """Render three chats in a process with limits; raise TemplateError for a bomb or an escape.

    Templates that merely refuse a chat, or miss a name, pass: that harms nobody and is told when
    they are used. The outcome is remembered, so a source pays the start of the child once.
    """
    check_size(source, name)
    fault = outcome_in_child(source)
    if fault is not None:
        raise TemplateError(fault.what.replace(_ANY_NAME, name), fault.fix)


@lru_cache(maxsize=256)
def outcome_in_child(source: str) -> TemplateError | None:
    """Do the work of `try_in_child`: give the fault, its place named by a stand-in, or None."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", "sftplay_ui.engine.text.template_trial"],
            input=json.dumps({"source": source}).encode(),
            capture_output=True,
            timeout=WALL_SECONDS,
            cwd=Path(__file__).resolve().parents[3],
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            check=False,
        )
    except subprocess.TimeoutExpired:
        child = None
    if child is None or child.returncode != 0:
        return TemplateError(
            f"{_ANY_NAME} does not come to an end within {CPU_SECONDS} seconds and "
            f"{MEMORY_BYTES // 10**9} GB of memory, on three short chats.",
            "Do not use this template.",
        )
    fault = json.loads(child.stdout)
    return fault and TemplateError(fault["what"], fault["fix"])


_PROBES = (
    (Message("user", "Why?"),),
    (Message("system", "Be kind."), Message("user", "Why?"), Message("assistant", "So.")),
    (
        Message("user", "One?"),
        Message("assistant", "Two."),
        Message("user", "Three?"),
        Message("assistant", "Four."),
    ),
)


def first_fault(source: str) -> TemplateError | None:
    """Render the probes in this process; give the first fault that is more than a refusal."""
    for messages in _PROBES:
        prompt = messages[-1].role == "user"
        values = chat_values(messages, add_generation_prompt=prompt, bos="<s>", eos="</s>")
        try:
            render_source(source, values, limit=OUTPUT_CHARACTERS, name=_ANY_NAME)
        except TemplateError as error:
            if not isinstance(error.__cause__, _HARMLESS):
                return error
    return None


def _limit_this_process() -> None:
    try:
        import resource  # not on Windows, where only the parent's clock limits
    except ImportError:
        return
    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, CPU_SECONDS)):
        # some systems refuse to limit memory; the clock of the parent still holds
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def _main() -> None:
    job = json.load(sys.stdin)
    _limit_this_process()
    fault = first_fault(job["source"])
    json.dump(fault and {"what": fault.what, "fix": fault.fix}, sys.stdout)


if __name__ == "__main__":
    _main()

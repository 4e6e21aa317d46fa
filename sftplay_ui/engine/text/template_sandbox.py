"""The sandbox chat templates run in, and the child process a foreign template is tried in first.

A template is code from strangers. Jinja's immutable sandbox stops escapes; bombs (endless or huge
output) are stopped by the child's limits on memory, time and output. This module imports nothing
but jinja2 and the standard library, so that the child starts at once. What a template should look
like is left to `template_check`.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError

SOURCE_BYTES = 64_000
OUTPUT_CHARACTERS = 1_000_000
MEMORY_BYTES = 1_000_000_000
CPU_SECONDS = 2
WALL_SECONDS = 10
# Stands for the template's name in what the child says, since equal sources share one trial.
_ANY_NAME = "\ue002"

# Whatever a template can raise when it runs: its own refusal, or a slip with values.
_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
)


class Refusal(jinja2.TemplateError):
    """What a template says through `raise_exception`: these messages are not for it."""


# Faults that cost nothing: the template is wrong for this chat, not dangerous.
_HARMLESS = (
    Refusal,
    jinja2.UndefinedError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
)


class _Missing(jinja2.Undefined):
    """A name nobody gave: it may be tested (`if tools`), as model templates do, never printed."""

    __slots__ = ()

    def __str__(self) -> str:
        return self._fail_with_undefined_error()


class _Generation(Extension):
    """Accept `{% generation %}...{% endgeneration %}`, marks that some templates carry."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it on the class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the marks, as if they were not there."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a bound on what one operator can make out of a short source."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply within bounds: `"x" * 10 ** 9` is no chat."""
        if operator == "**" and isinstance(right, (int, float)) and abs(right) > 64:
            raise OverflowError("a power above 64")
        for text, times in ((left, right), (right, left)):
            repeated = isinstance(text, (str, list, tuple)) and isinstance(times, int)
            if repeated and len(text) * times > OUTPUT_CHARACTERS:
                raise OverflowError("a text repeated beyond the largest output")
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: object) -> NoReturn:
    raise Refusal(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML, which would change what a model reads
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Return the environment all templates are compiled in; its rules are those of model hubs."""
    sandbox = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Missing,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    sandbox.filters["tojson"] = _tojson
    del sandbox.globals["lipsum"]
    sandbox.globals["raise_exception"] = _raise_exception
    sandbox.globals["strftime_now"] = _strftime_now
    return sandbox


@lru_cache(maxsize=64)
def _compile(source: str) -> jinja2.Template:
    return environment().from_string(source)


def render_source(source: str, values: Mapping[str, object], *, limit: int, name: str) -> str:
    """Render a template; raise TemplateError with its line where it fails or exceeds `limit`.

    `limit` counts characters. A refusal by the template itself is raised as such a TemplateError
    too; its cause is a `Refusal`.
    """
    check_size(source, name)
    pieces: list[str] = []
    size = 0
    try:
        for piece in _compile(source).generate(**values):
            size += len(piece)
            if size > limit:
                break
            pieces.append(piece)
    except _FAULTS as error:
        raise _translated(error, name) from error
    if size > limit:
        raise TemplateError(
            f"{name} writes more than {limit:,} characters for one chat.",
            "Use a template whose output is about as long as the messages.",
        )
    return "".join(pieces)


def check_size(source: str, name: str) -> None:
    """Raise TemplateError where the source is larger than any real chat template."""
    if len(source.encode(errors="replace")) > SOURCE_BYTES:
        raise TemplateError(
            f"{name} is larger than {SOURCE_BYTES // 1000} kB.",
            "Choose a chat template file; real ones have a few kB.",
        )


def _translated(error: Exception, name: str) -> TemplateError:
    line = _line_of(error)
    place = name if line is None else f"{name}:{line}"
    reason = (str(error) or type(error).__name__).split("\n", 1)[0].rstrip(".")
    match error:
        case Refusal():
            return TemplateError(
                f"{place} refuses these messages: {reason}.",
                "Change the conversation, or choose another chat template.",
            )
        case jinja2.TemplateSyntaxError():
            return TemplateError(f"{place} is not valid: {reason}.", "Correct that line.")
        case jinja2.UndefinedError():
            return TemplateError(
                f"{place} uses something it is not given: {reason}.",
                "Templates get messages, add_generation_prompt, bos_token and eos_token; "
                "for one turn also system, user and assistant.",
            )
        case jinja2.exceptions.SecurityError():
            return TemplateError(
                f"{place} tries to leave the sandbox: {reason}.", "Do not use this template."
            )
        case _:
            return TemplateError(f"{place} fails: {reason}.", "Correct that line.")


def _line_of(error: Exception) -> int | None:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    line = None
    trace = error.__traceback__
    while trace is not None:
        # jinja maps its compiled code back to lines of the template under this name
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def chat_values(
    messages: Sequence[Message], *, add_generation_prompt: bool, bos: str, eos: str
) -> dict[str, object]:
    """Return the names a template is given; `system`, `user`, `assistant` only for one turn."""
    values: dict[str, object] = {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos,
        "eos_token": eos,
        # hubs always give these two, empty; some templates compare them with none
        "tools": None,
        "documents": None,
    }
    turns = [message.role for message in messages if message.role != "system"]
    if turns in (["user"], ["user", "assistant"]):
        values |= {"system": "", "assistant": ""} | {m.role: m.content for m in messages}
    return values


def try_in_child(source: str, name: str) -> None:
    """Render three chats in a process with limits; raise TemplateError for a bomb or an escape.

    Templates that merely refuse a chat, or miss a name, pass: that harms nobody and is told when
    they are used. The outcome is remembered, so a source pays the start of the child once.
    """
    check_size(source, name)
    fault = _outcome_in_child(source)
    if fault is not None:
        raise TemplateError(fault.what.replace(_ANY_NAME, name), fault.fix)


@lru_cache(maxsize=256)
def _outcome_in_child(source: str) -> TemplateError | None:
    try:
        child = subprocess.run(
            [sys.executable, "-m", "sftplay_ui.engine.text.template_sandbox"],
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


def _first_fault(source: str) -> TemplateError | None:
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
    fault = _first_fault(job["source"])
    json.dump(fault and {"what": fault.what, "fix": fault.fix}, sys.stdout)


if __name__ == "__main__":
    _main()

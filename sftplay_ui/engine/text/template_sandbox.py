"""The sandbox chat templates are compiled and rendered in; their faults become sentences.

A template is code from strangers. Jinja's immutable sandbox stops escapes; `template_meter` bounds
what a rendering may cost. The first run of a source, in a process of its own, is left to
`template_trial`, and what a template should look like to `template_check`.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import CodeType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import TemplateError
from sftplay_ui.engine.text.template_meter import (
    INNER_FILTERS,
    Overspent,
    Rewriter,
    finalize,
    guard,
    metered,
    spend_on_call,
    spend_on_operator,
    spend_on_result,
)

SOURCE_BYTES = 64_000
OUTPUT_CHARACTERS = 1_000_000
# What a rendering may cost in units of the meter, for each character it may write: texts are cut,
# trimmed and joined a few times on their way.
_UNITS_PER_CHARACTER = 20
# Filters that no chat needs, and whose cost cannot be foretold.
_LEFT_OUT = ("urlize", "xmlattr", "pprint", "wordwrap")
_UNSAFE_METHODS = frozenset({"expandtabs", "translate", "maketrans", "encode"})

# Whatever a template can raise when it runs: its own refusal, or a slip with values.
_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    NameError,
    SyntaxError,
    RecursionError,
    MemoryError,
)


class Refusal(jinja2.TemplateError):
    """What a template says through `raise_exception`: these messages are not for it."""


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
    """Jinja's sandbox, in which everything that can repeat or grow is paid for."""

    # all of them, so that none is worked out while compiling, where it could not be told by line
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate within bounds: `"x" * 10 ** 9` is no chat."""
        if operator == "+" and type(left) is str and type(right) is str:
            # nearly all there is to do in a chat template, so by the shortest way
            return finalize(left + right)
        spend_on_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call within bounds."""
        spend_on_call(function, args, kwargs)
        result = super().call(context, function, *args, **kwargs)
        spend_on_result(result)
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse what jinja refuses, and methods whose result may be of any size."""
        return attr not in _UNSAFE_METHODS and super().is_safe_attribute(obj, attr, value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        Rewriter().visit(tree)
        return tree

    def _compile(self, source: str, filename: str) -> CodeType:
        with warnings.catch_warnings():
            # python's advice about `1[0]` is for people who can see the compiled code
            warnings.simplefilter("ignore", SyntaxWarning)
            return super()._compile(source, filename)


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
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Missing,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    for name in _LEFT_OUT:
        del sandbox.filters[name]
    sandbox.filters["tojson"] = _tojson
    for known in (sandbox.filters, sandbox.tests):
        known.update({name: guard(function, name) for name, function in known.items()})
    sandbox.filters.update(INNER_FILTERS)
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
        with metered(_UNITS_PER_CHARACTER * limit):
            for piece in _compile(source).generate(**values):
                # a filter block may yield what is no text
                pieces.append(str(piece))
                size += len(pieces[-1])
                if size > limit:
                    break
    except _FAULTS as error:
        raise _translated(error, name) from error
    if size > limit:
        raise TemplateError(
            f"{name} writes more than {limit:,} characters for one chat.",
            "Use a template whose output is about as long as the messages.",
        )
    text = "".join(pieces)
    check_text(text, f"What {name} writes for this chat")
    return text


def check_text(text: str, place: str) -> None:
    """Raise TemplateError with the line where a text holds half a character (a lone surrogate)."""
    try:
        # ascii needs no look, and most texts are
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise TemplateError(
            f"{place}:{line} holds half a character.", "Delete what is not text in that line."
        ) from error


def check_size(source: str, name: str) -> None:
    """Raise TemplateError where the source is no text, or larger than any real chat template."""
    check_text(source, name)
    if len(source.encode()) > SOURCE_BYTES:
        raise TemplateError(
            f"{name} is larger than {SOURCE_BYTES // 1000} kB.",
            "Choose a chat template file; real ones have a few kB.",
        )


def _translated(error: Exception, name: str) -> TemplateError:
    line = _line_of(error)
    place = name if line is None else f"{name}:{line}"
    reason = (str(error) or type(error).__name__).split("\n", 1)[0].rstrip(".")
    what, fix = f"fails: {reason}", "Correct that line."
    match error:
        case Refusal():
            what = f"refuses these messages: {reason}"
            fix = "Change the conversation, or choose another chat template."
        case Overspent():
            what, fix = f"does not come to an end: {reason}", "Do not use this template."
        case jinja2.TemplateSyntaxError():
            what = f"is not valid: {reason}"
        case jinja2.UndefinedError():
            what = f"uses something it is not given: {reason}"
            fix = (
                "Templates get messages, add_generation_prompt, bos_token and eos_token; "
                "for one turn also system, user and assistant."
            )
        case jinja2.exceptions.SecurityError():
            what, fix = f"tries to leave the sandbox: {reason}", "Do not use this template."
        case MemoryError() | RecursionError() | SyntaxError():
            what = "cannot be compiled or run: it is nested too deeply, or calls itself"
            fix = "Write it with fewer levels."
    return TemplateError(f"{place} {what}.", fix)


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

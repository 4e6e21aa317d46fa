"""A bound on what one rendering may cost: every loop, call and growing value of a template is paid.

Jinja's sandbox stops escapes, not bombs, and a template may show its bomb only to some chats. So
its syntax tree is rewritten before it is compiled: loops and macros pay for each round, literals
for what they hold, and filters, tests, operators and methods for what they read and make, before
they make it. One unit is about one character written. Compiling is left to `template_sandbox`.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# Not even the largest number a chat could need; a thousand digits are a bomb.
_BITS = 4096
# A round of a loop or a call, and a look at one value, beside the one unit of a character.
_ROUND = 50
_LOOK = 30
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\*|\d{5})|\{[^{}]*(?:\{|\d{5})")
# Arguments of these are widths, counts or powers: what they make grows with the number.
_WIDTHS = frozenset({"center", "indent", "batch", "slice", "round", "truncate", "tojson"})
_WIDE_METHODS = frozenset({"center", "ljust", "rjust", "zfill", "to_bytes"})
_SEQUENCES = (str, bytes, list, tuple)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_NOT_DATA = (Context, EvalContext, jinja2.Environment)


class Overspent(jinja2.TemplateRuntimeError):
    """A rendering that costs far more than its chat could need."""


class Meter:
    """What is left to spend for one rendering."""

    def __init__(self, units: int) -> None:
        self.left = units

    def spend(self, units: int) -> None:
        """Pay; raise Overspent where nothing is left."""
        self.left -= units
        if self.left < 0:
            raise Overspent("it repeats or grows far beyond its chat")

    def read(self, value: Any) -> None:
        """Pay for looking at a value, with all that it holds."""
        if isinstance(value, str):
            self.spend(1 + len(value) // 16)
            return
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, (str, bytes)):
                self.spend(1 + len(value) // 16)
                continue
            self.spend(_LOOK)
            if isinstance(value, dict):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, (list, tuple)) or type(value) in _VIEWS:
                waiting += value
            elif isinstance(value, Namespace):
                waiting.append(value._Namespace__attrs)
            elif isinstance(value, range):
                self.spend(len(value))

    def made(self, value: object) -> None:
        """Pay for a value that has just been made."""
        if isinstance(value, _SEQUENCES):
            self.spend(len(value))

    def taken(self, value: Any) -> Any:
        """Pay for an argument; what can be read only once pays when it is read."""
        if isinstance(value, str):
            self.spend(1 + len(value) // 16)
            return value
        if isinstance(value, _NOT_DATA):
            return value
        self.read(value)
        return self._counted(value) if isinstance(value, Iterator) else value

    def _counted(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(_LOOK)
            yield item


_METER: ContextVar[Meter] = ContextVar("meter")


@contextmanager
def metered(units: int) -> Iterator[None]:
    """Let everything that is compiled and rendered in here share `units`."""
    token = _METER.set(Meter(units))
    try:
        yield
    finally:
        _METER.reset(token)


def guard(function: Any, name: str) -> Callable[..., Any]:
    """Let a filter or test pay for what it reads and makes."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        meter = _METER.get()
        meter.spend(_ROUND)
        taken = [meter.taken(value) for value in args]
        named = {key: meter.taken(value) for key, value in kwargs.items()}
        values = [value for value in taken if not isinstance(value, _NOT_DATA)]
        if name == "join" and values and isinstance(values[0], Iterator):
            # how long it gets is only known when all parts are there
            values[0] = taken[taken.index(values[0])] = list(values[0])
        meter.spend(_growth(name, values, [*values[1:], *named.values()]))
        result = function(*taken, **named)
        meter.made(result)
        return result

    return call


def spend_on_call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Pay for a call before it is made; methods of texts and numbers by what they will make."""
    meter = _METER.get()
    meter.spend(_ROUND)
    for value in (*args, *kwargs.values()):
        meter.read(value)
    method = getattr(function, "__wrapped__", function)
    owner = getattr(method, "__self__", None)
    if isinstance(owner, (*_SEQUENCES, int)):
        name = str(getattr(method, "__name__", ""))
        values = [*args, *kwargs.values()]
        if name == "join":
            meter.spend(_growth(name, [values[0] if values else "", owner], [owner]))
        else:
            meter.spend(_growth(name, [owner, *values], values))


def spend_on_result(result: object) -> None:
    """Pay for what a call gave back."""
    _METER.get().made(result)


def spend_on_operator(operator: str, left: Any, right: Any) -> None:
    """Pay for what an operator will make of two values."""
    meter = _METER.get()
    meter.spend(1)
    if operator == "%" and isinstance(left, str):
        meter.read(right)
        meter.spend(_growth("format", [left, right], [right]))
    elif operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        meter.spend(len(left) + len(right))
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, _SEQUENCES) and isinstance(times, int):
                meter.spend(len(value) * max(times, 0))
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        if (bits * abs(right) if operator == "**" else bits + right.bit_length()) > _BITS:
            raise Overspent("a number grows far beyond its chat")


def finalize(value: Any) -> Any:
    """Pay for what is written out, and hand it on."""
    meter = _METER.get()
    if type(value) is str:
        meter.spend(1 + len(value))
    else:
        meter.read(value)
        meter.made(value)
    return value


def _growth(name: str, values: Sequence[Any], others: Sequence[Any]) -> int:
    """Foretell how much longer a result can be than its first value."""
    if not values:
        return 0
    value = values[0]
    numbers = [abs(other) for other in others if isinstance(other, int)]
    texts = [other for other in others if isinstance(other, str)]
    match name:
        case "replace" if len(values) > 2:
            text, old, new = map(str, values[:3])
            return text.count(old) * len(new)
        case "join":
            return len(value) * sum(map(len, texts)) if hasattr(value, "__len__") else 0
        case "indent" | "tojson":
            lines = str(value).count("\n") if name == "indent" else len(str(value))
            return (1 + lines) * (sum(numbers) + sum(map(len, texts)))
        case "format" | "format_map":
            text = str(value)
            if _WIDE.search(text):
                raise Overspent("a text is padded far beyond its chat")
            return (text.count("%") + text.count("{")) * sum(len(str(o)) for o in others)
    return sum(numbers) if name in _WIDTHS | _WIDE_METHODS else 0


@jinja2.pass_context
def _spent(_context: Context, units: int) -> None:
    _METER.get().spend(units)


@jinja2.pass_context
def _met(_context: Context, value: Any) -> Any:
    _METER.get().read(value)
    return value


@jinja2.pass_context
def _tested(_context: Context, value: Any) -> Any:
    _METER.get().spend(_ROUND)
    return value


@jinja2.pass_context
def _joined(_context: Context, parts: Sequence[Any]) -> str:
    meter = _METER.get()
    meter.read(parts)
    text = "".join(map(str, parts))
    meter.made(text)
    return text


# No template can write these names; taking the context keeps jinja from calling them early.
INNER_FILTERS: dict[str, Callable[..., Any]] = {
    "spent!": _spent,
    "met!": _met,
    "tested!": _tested,
    "joined!": _joined,
}


class Rewriter(NodeTransformer):
    """Puts the payments into a syntax tree, and refuses with its line what no chat needs."""

    def __init__(self) -> None:
        self._loops = 0

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Let each round pay for its body, and each test of a filtered loop for itself."""
        node.target, node.iter = self.visit(node.target), self.visit(node.iter)
        node.else_ = [self.visit(child) for child in node.else_]
        if node.test is not None:
            node.test = _filtered(self.visit(node.test), "tested!")
        self._loops += 1
        node.body = [self.visit(child) for child in node.body]
        self._loops -= 1
        return _paying(node)

    def visit_Macro(self, node: Any) -> nodes.Node:
        """Let each call pay for the body; a loop around it is not around its body."""
        loops, self._loops = self._loops, 0
        self.generic_visit(node)
        self._loops = loops
        return _paying(node)

    visit_CallBlock = visit_Block = visit_Macro

    def visit_Break(self, node: nodes.Node) -> nodes.Node:
        """Refuse to leave a loop that is not there."""
        if not self._loops:
            _refuse(f"{type(node).__name__.lower()} stands outside a loop", node)
        return node

    visit_Continue = visit_Break

    def visit_Include(self, node: nodes.Node) -> nodes.Node:
        """Refuse other files: a chat template is one."""
        _refuse("a chat template cannot bring in other files", node)
        return node

    visit_Import = visit_FromImport = visit_Extends = visit_Include

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        """Refuse numbers and texts that have no spelling."""
        if isinstance(node.value, float) and not math.isfinite(node.value):
            _refuse("the number is too large", node)
        if isinstance(node.value, str) and not node.value.isascii():
            try:
                node.value.encode()
            except UnicodeEncodeError:
                _refuse("the text holds half a character", node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Let joined texts pay."""
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return _filtered(parts, "joined!")

    def visit_List(self, node: Any) -> nodes.Node:
        """Let a literal pay for all it holds, unless it is plain constants or a target."""
        self.generic_visit(node)
        stored = getattr(node, "ctx", "load") != "load"
        if stored or all(isinstance(item, nodes.Const) for item in node.items):
            return node  # type: ignore[no-any-return]
        return _filtered(node, "met!")

    visit_Tuple = visit_Dict = visit_List

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Let comparisons pay, unless they are with a constant."""
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        if not any(isinstance(side, nodes.Const) for side in sides):
            node.expr = _filtered(node.expr, "met!")
        for operand in node.ops:
            if operand.op in ("in", "notin") and not isinstance(operand.expr, nodes.Const):
                operand.expr = _filtered(operand.expr, "met!")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """Let slices pay for what they copy."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, "met!")
        return node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _paying(node: Any) -> nodes.Node:
    written = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
    units = _ROUND + written + 2 * sum(1 for _ in node.find_all(nodes.Node))
    payment = _filtered(nodes.Const(units, lineno=node.lineno), "spent!")
    node.body.insert(0, nodes.ExprStmt(payment, lineno=node.lineno))
    return node  # type: ignore[no-any-return]


def _refuse(what: str, node: nodes.Node) -> None:
    raise jinja2.TemplateSyntaxError(what, node.lineno)

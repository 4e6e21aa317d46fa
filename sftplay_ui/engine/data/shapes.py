"""Which column plays which role: guessed from names in many languages, then from the values.

A guess carries its reason and its confidence, and is never acted on silently when it is low.
Turning rows into examples by a mapping is left to `convert`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sftplay_ui.engine.data.cells import kind_of
from sftplay_ui.engine.data.header_words import ROLE_WORDS, plain_name
from sftplay_ui.engine.errors import DataError

Confidence = Literal["high", "medium", "low"]
ROLES = ("system", "user", "context", "options", "assistant", "messages")
SAMPLE_ROWS = 200
NESTED = "."
QUESTION_MARKS = ("?", "？", "؟", ";", "፧")
SHAPE_BY_COLUMNS = {
    frozenset({"question", "answer"}): "question/answer",
    frozenset({"instruction", "output"}): "Alpaca",
    frozenset({"instruction", "input", "output"}): "Alpaca",
    frozenset({"prompt", "completion"}): "prompt/completion",
    frozenset({"prompt", "response"}): "prompt/response",
    frozenset({"input", "target"}): "input/target",
    frozenset({"input", "output"}): "input/output",
}
# what `data.format` may name: the roles and columns a file of that shape has
KNOWN_SHAPES: dict[str, dict[str, str]] = {
    "qa": {"user": "question", "assistant": "answer"},
    "prompt_completion": {"user": "prompt", "assistant": "completion"},
    "prompt_response": {"user": "prompt", "assistant": "response"},
    "alpaca": {"user": "instruction", "context": "input", "assistant": "output"},
    "roles": {"system": "system", "user": "user", "assistant": "assistant"},
    "messages": {"messages": "messages"},
    "sharegpt": {"messages": "conversations"},
    "input_target": {"user": "input", "assistant": "target"},
}
FORMATS = ("auto", *KNOWN_SHAPES)


@dataclass(frozen=True, slots=True)
class RoleMapping:
    """Role to column; `reason` and `confidence` say how it was found."""

    shape: str
    columns: Mapping[str, str]
    reason: str
    confidence: Confidence

    @property
    def is_usable(self) -> bool:
        """Tell whether the roles suffice to make examples."""
        return "messages" in self.columns or {"user", "assistant"} <= self.columns.keys()

    def to_config(self) -> dict[str, str]:
        """Return the form that `data.mapping` holds."""
        return dict(self.columns)


@dataclass(frozen=True, slots=True)
class Column:
    """What the sampled values of one column look like (`name` may be dotted: `answers.text`)."""

    name: str
    kind: Literal["text", "number", "turns", "list", "nested", "empty"]
    question_share: float
    mean_chars: float
    distinct_share: float


def mapping_from_config(
    roles: Mapping[str, str], columns: Sequence[str], *, shape: str = "auto"
) -> RoleMapping:
    """Take the mapping a person set (or a shape named by `data.format`), checked against the file.

    Raises DataError for an unknown role or shape, a missing column, or roles that do not suffice.
    """
    if shape not in FORMATS:
        raise DataError(f'data.format "{shape}" is unknown.', f"Use one of {', '.join(FORMATS)}.")
    chosen = dict(roles) or KNOWN_SHAPES[shape]
    unknown = [role for role in chosen if role not in ROLES]
    if unknown:
        raise DataError(f'data.mapping names the role "{unknown[0]}".', f"Use {', '.join(ROLES)}.")
    optional = () if roles else ("system", "context")
    chosen = {r: c for r, c in chosen.items() if c in columns or r not in optional}
    missing = [column for column in chosen.values() if column not in columns]
    if missing:
        raise DataError(
            f'There is no column "{missing[0]}" (found: {", ".join(columns) or "none"}).',
            "Correct data.mapping, or choose the columns in the Data tab.",
        )
    name = _shape_name(chosen) if roles else shape
    mapping = RoleMapping(name, chosen, "set by you", "high")
    if not mapping.is_usable:
        raise DataError(
            f"data.mapping gives no column for {'the answers' if 'user' in chosen else 'user'}.",
            "Name a column for user and one for assistant, or one for messages.",
        )
    return mapping


def guess_mapping(values: Iterable[object]) -> RoleMapping:
    """Guess the roles from the first rows' values; low confidence means: ask the person."""
    rows = [value for value, _ in zip(values, range(SAMPLE_ROWS), strict=False)]
    tables = [row for row in rows if isinstance(row, dict)]
    if not tables:
        first = f" (the first is {kind_of(rows[0])})" if rows else ""
        reason = f"the rows are no objects with named values{first}: please choose"
        return RoleMapping("unknown", {}, reason, "low")
    columns = describe_columns(tables)
    return (
        _by_turns(columns)
        or _by_names(columns)
        or _by_values(columns)
        or _undecided([column.name for column in columns])
    )


def describe_columns(rows: Sequence[Mapping[str, object]]) -> list[Column]:
    """Describe every column of the rows, values nested one level down included."""
    names: dict[str, list[object]] = {}
    for row in rows:
        for name, value in row.items():
            names.setdefault(str(name), []).append(value)
            if isinstance(value, dict):
                for inner, nested in value.items():
                    names.setdefault(f"{name}{NESTED}{inner}", []).append(nested)
    return [_describe(name, values) for name, values in names.items()]


def _describe(name: str, values: Sequence[object]) -> Column:
    filled = [value for value in values if value not in (None, "", [], {})]
    texts = [value for value in filled if isinstance(value, str)]
    asked = sum(text.rstrip().endswith(QUESTION_MARKS) for text in texts)
    share = asked / len(texts) if texts else 0.0
    chars = sum(map(len, texts)) / len(texts) if texts else 0.0
    distinct = len(set(texts)) / len(texts) if texts else 0.0
    return Column(name, _kind(filled, texts), share, chars, distinct)


def _kind(
    filled: Sequence[object], texts: Sequence[str]
) -> Literal["text", "number", "turns", "list", "nested", "empty"]:
    if not filled:
        return "empty"
    if len(texts) > len(filled) / 2:
        numbers = sum(_is_number(text) for text in texts)
        return "number" if numbers > len(texts) / 2 else "text"
    first = filled[0]
    if isinstance(first, list):
        turn = first[0] if first else None
        is_turn = isinstance(turn, dict) and {"role", "from"} & turn.keys()
        return "turns" if is_turn else "list"
    return "nested" if isinstance(first, dict) else "number"


def _is_number(text: str) -> bool:
    return text.strip(" ()%+-").replace(".", "").replace(",", "").isdigit()


def _by_turns(columns: Sequence[Column]) -> RoleMapping | None:
    turns = [column.name for column in columns if column.kind == "turns"]
    if not turns:
        return None
    name = min(turns, key=lambda name: _rank("messages", name))
    others = {plain_name(c.name): c.name for c in columns if c.kind == "text"}
    roles = {"messages": name} | ({"system": others["system"]} if "system" in others else {})
    reason = f'"{name}" holds lists of turns with roles'
    return RoleMapping("conversation", roles, reason, "high")


def _by_names(columns: Sequence[Column]) -> RoleMapping | None:
    usable = [column for column in columns if column.kind not in ("nested", "turns")]
    filled = [column for column in usable if column.kind != "empty"]
    assistant = _best("assistant", filled, ()) or _best("assistant", usable, ())
    user = _best("user", usable, (assistant,))
    if user is None or assistant is None:
        return None
    roles = {"user": user, "assistant": assistant}
    for role in ("system", "context", "options"):
        extra = _best(role, usable, tuple(roles.values()))
        if extra is not None:
            roles[role] = extra
    order = {role: roles[role] for role in ROLES if role in roles}
    reason = f'the columns are called "{user}" and "{assistant}"'
    return RoleMapping(_shape_name(order), order, reason, "high")


def _best(role: str, columns: Sequence[Column], taken: Sequence[str | None]) -> str | None:
    ranked = [(_rank(role, c.name), c.name) for c in columns if c.name not in taken]
    rank, name = min(ranked, default=(10_000, ""))
    return name if rank < 10_000 else None


def _rank(role: str, column: str) -> int:
    """Tell how well a name fits a role: exact words first, then a nested or compound name."""
    words, name = ROLE_WORDS[role], plain_name(column)
    if name in words:
        return words.index(name)
    outer, _, inner = column.partition(NESTED)
    if inner and plain_name(outer) in words and plain_name(inner) in ("text", "value", "content"):
        return 1000 + words.index(plain_name(outer))
    if inner:
        return 2000 + words.index(plain_name(inner)) if plain_name(inner) in words else 10_000
    parts = [part for part in name.split("_") if len(part) > 2]
    ranks = [words.index(part) for part in parts if part in words]
    return 3000 + min(ranks) if ranks and not {"id", "type", "len", "length"} & {*parts} else 10_000


def _by_values(columns: Sequence[Column]) -> RoleMapping | None:
    texts = [c for c in columns if c.kind == "text" and c.distinct_share > 0.2]
    if len(texts) != 2:
        return None
    first, second = sorted(texts, key=lambda column: -column.question_share)
    if first.question_share >= 0.5 > second.question_share:
        reason = f'most values of "{first.name}" end in a question mark'
        roles = {"user": first.name, "assistant": second.name}
        return RoleMapping("two columns", roles, reason, "medium")
    if len(columns) == 2:
        first, second = texts
        roles = {"user": first.name, "assistant": second.name}
        reason = "there are two columns of text; the first is taken for the question"
        return RoleMapping("two columns", roles, reason, "medium")
    return None


def _undecided(names: Sequence[str]) -> RoleMapping:
    if not names:
        return RoleMapping("unknown", {}, "the rows are empty objects: please choose", "low")
    listed = ", ".join(f'"{name}"' for name in names[:12])
    reason = f"none of the columns {listed} is clearly a question or an answer: please choose"
    return RoleMapping("unknown", {}, reason, "low")


def _shape_name(roles: Mapping[str, str]) -> str:
    if "messages" in roles:
        return "conversation"
    if "options" in roles:
        return "multiple choice"
    names = frozenset(plain_name(column) for column in roles.values())
    return SHAPE_BY_COLUMNS.get(names, " / ".join(roles))

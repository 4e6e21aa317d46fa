"""The settings of `config` as a list: what a form, a table, `--set` or a check needs of each."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from sftplay_ui.engine.config import RunConfig, Section

Kind = Literal["int", "float", "bool", "text", "choice", "list", "map"]


@dataclass(frozen=True)
class Setting:
    """One leaf of the configuration, ready for a form, a table or a check."""

    path: str
    kind: Kind
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above_minimum: bool = False
    auto: bool = False
    optional: bool = False
    essential: bool = False

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]


def settings(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """List every setting in the order it is defined, with its dotted path."""
    for name, info in section.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from settings(annotation, f"{prefix}{name}.")
        else:
            yield describe(f"{prefix}{name}", info)


def describe(path: str, info: FieldInfo) -> Setting:
    """Read type, limits and help of one pydantic field."""
    members, limits = flatten(info.annotation)
    limits += info.metadata
    words = tuple(
        w for member in members if get_origin(member) is Literal for w in get_args(member)
    )
    plain = [m for m in members if get_origin(m) is not Literal and m is not type(None)]
    kind = kind_of(plain)
    extra = info.json_schema_extra
    return Setting(
        path=path,
        kind=kind,
        default=info.get_default(call_default_factory=True),
        help=info.description or "",
        choices=words if kind == "choice" else (),
        minimum=next((limit_of(m) for m in limits if isinstance(m, Ge | Gt)), None),
        above_minimum=any(isinstance(m, Gt) for m in limits),
        maximum=next((limit_of(m) for m in limits if isinstance(m, Le | Lt)), None),
        auto="auto" in words,
        optional=type(None) in members,
        essential=isinstance(extra, dict) and bool(extra.get("essential")),
    )


def limit_of(limit: Ge | Gt | Le | Lt) -> float:
    """Give the number of a limit, closed or open."""
    (value,) = astuple(limit)
    return float(value)


def flatten(annotation: Any) -> tuple[list[Any], list[Any]]:
    """Split a union into its members and the limits annotated on them."""
    is_union = get_origin(annotation) in (Union, UnionType)
    members: list[Any] = []
    limits: list[Any] = []
    for member in get_args(annotation) if is_union else (annotation,):
        if get_origin(member) is Annotated:
            limits += get_args(member)[1].metadata
            member = get_args(member)[0]
        members.append(member)
    return members, limits


def kind_of(plain: list[Any]) -> Kind:
    """Name the kind of control a setting wants; `plain` are its types besides words and None."""
    if not plain:
        return "choice"
    if any(get_origin(member) is dict for member in plain):
        return "map"
    if str in plain:
        return "text"
    for type_, kind in ((bool, "bool"), (int, "int"), (float, "float")):
        if type_ in plain:
            return cast(Kind, kind)
    return "list"


def settings_table() -> str:
    """Write the settings as a Markdown table, the way the README shows them."""
    rows = ["| setting | default | allowed | what it does |", "|---|---|---|---|"]
    rows += [f"| `{s.path}` | {show(s.default)} | {allowed(s)} | {s.help} |" for s in settings()]
    return "\n".join(rows) + "\n"


def show(value: Any) -> str:
    """Write a default the way YAML would."""
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(value) if isinstance(value, list) else value}`"


def allowed(setting: Setting) -> str:
    """Say in a few words what a setting takes."""
    if setting.kind == "choice":
        return ", ".join(f"`{word}`" for word in setting.choices)
    words = {
        "int": "whole number",
        "float": "number",
        "bool": "true, false",
        "map": "key: value",
    }
    text = words.get(setting.kind, setting.kind)
    if setting.minimum is not None:
        text += f", {'above' if setting.above_minimum else 'from'} {setting.minimum:g}"
    if setting.maximum is not None:
        text += f" up to {setting.maximum:g}"
    return f"`auto` or {text}" if setting.auto else text


if __name__ == "__main__":
    print(settings_table(), end="")

"""YAML as version 1.2 means it, with the line of every value, and nothing in it that runs.

`2e-4` is a number and `no` is text. Duplicate keys, aliases, tags that build objects, and files
that are too large or too deep are refused, with their line. What the keys mean is left to
`config_file`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sftplay_ui.engine.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 12
MAX_DIGITS = 100

INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
NULL = {"", "~", "null", "Null", "NULL"}
TRUE = {"true", "True", "TRUE"}
FALSE = {"false", "False", "FALSE"}
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq")}


@dataclass(frozen=True)
class Document:
    """A mapping read from YAML; `places` says `file:line` for each dotted path."""

    values: Mapping[str, Any]
    places: Mapping[str, str]


@dataclass
class Reader:
    """Turn the nodes of one file into values, noting places and problems on the way."""

    name: str
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def read(self, node: yaml.Node, path: str, depth: int) -> Any:
        """Give the value of a node; problems are collected, not raised."""
        self.places.setdefault(path, self.place(node))
        if depth > MAX_DEPTH:
            self.problems.append(f"{self.place(node)}: nested more than {MAX_DEPTH} levels deep.")
            return None
        if node.tag not in PLAIN_TAGS:
            self.problems.append(f"{self.place(node)}: the tag {node.tag!r} is not allowed.")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.read_mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, f"{path}.{i}", depth + 1) for i, item in enumerate(node.value)]
        return scalar(node)

    def read_mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        """Read a mapping; a key that comes twice is a problem, not a silent winner."""
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{self.place(key_node)}: a key must be a plain name.")
                continue
            key = str(key_node.value)
            below = f"{path}.{key}" if path else key
            if key in values:
                self.problems.append(
                    f"{self.place(key_node)}: `{below}` is set twice (first in line "
                    f"{self.places[below].rsplit(':', 1)[-1]})."
                )
                continue
            self.places[below] = self.place(key_node)
            values[key] = self.read(value_node, below, depth + 1)
        return values

    def place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}"


class PlainLoader(yaml.SafeLoader):
    """The safe loader without YAML 1.1's guesses: every plain scalar stays text here."""


PlainLoader.yaml_implicit_resolvers = {}


def read_yaml(path: Path, name: str) -> Document:
    """Read a mapping from a file; ConfigError lists all that is wrong with it, with lines."""
    try:
        size = path.stat().st_size
        text = path.read_bytes()[: MAX_BYTES + 1].decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"There is no file {name}.", "Check the path.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not UTF-8 text.", "Save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}.", "Check the path.") from None
    if size > MAX_BYTES:
        raise ConfigError(f"{name} is larger than 256 kB.", "A configuration is a short file.")
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str) -> Document:
    """Read a mapping from text; `name` stands for the file in messages."""
    try:
        node = compose(text, name)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1  # type: ignore[union-attr]
        raise ConfigError(
            f"{name}:{line}: this is not YAML ({error.problem}).", "Correct that line."
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name} is not YAML ({error}).", "Correct the file.") from None
    if node is None:
        return Document({}, {})
    reader = Reader(name)
    values = reader.read(node, "", 0)
    if not isinstance(values, dict):
        reader.problems.append(f"{reader.place(node)}: expected `key: value` lines.")
    if reader.problems:
        raise ConfigError("\n".join(reader.problems), "Correct these lines.")
    return Document(values, reader.places)


def compose(text: str, name: str) -> yaml.Node | None:
    """Read text into nodes; ConfigError where it uses aliases or is nested too deeply.

    Both are looked for as the text is read: PyYAML's time grows with the square of the depth.
    """
    depth = 0
    for event in yaml.parse(text, PlainLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{name} uses a YAML alias (`*name`).", "Write the value out.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        # the document itself is one level, and a value at the limit may be a collection
        if depth > MAX_DEPTH + 2:
            line = event.start_mark.line + 1  # type: ignore[union-attr]
            raise ConfigError(
                f"{name}:{line}: nested more than {MAX_DEPTH} levels deep.", "Correct that line."
            )
    node: yaml.Node | None = yaml.compose(text, PlainLoader)
    return node


def scalar(node: yaml.Node) -> Any:
    """Give the value of a scalar node; quoted text stays text."""
    text = str(node.value)
    return text if getattr(node, "style", None) is not None else scalar_value(text)


def scalar_value(text: str) -> Any:
    """Give the value of a plain scalar by the core schema of YAML 1.2 (section 10.3.2)."""
    if text in NULL:
        return None
    if text in TRUE or text in FALSE:
        return text in TRUE
    if INT.fullmatch(text) and len(text) < MAX_DIGITS:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def parse_value(text: str) -> Any:
    """Read one value as YAML would (`--set key=value`); text that is no YAML is text."""
    try:
        node = compose(text, "--set")
    except (yaml.YAMLError, ConfigError):
        return text
    return None if node is None else Reader("--set").read(node, "", 0)

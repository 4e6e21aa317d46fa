"""From YAML files and `--set` to a checked RunConfig, and back to YAML.

Includes are merged key by key, later wins. Every problem is reported at once, each with its place,
its dotted path, its value, what is allowed, and the nearest known name.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sftplay_ui.engine.config import RunConfig, Section, contradictions
from sftplay_ui.engine.errors import ConfigError
from sftplay_ui.engine.settings import Setting, allowed, settings
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace
from sftplay_ui.engine.yaml_file import Document, parse_value, read_yaml, scalar_value

MAX_INCLUDES = 8
SECRET_VALUE = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|AKIA[0-9A-Z]{16})")
SECRET_KEY = re.compile(r"(^|_)(token|api_key|password|secret)$")
# NUL ends every path; half characters (lone surrogates) cannot be written as UTF-8
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
OLD_NAMES = {
    "train.evaluation_strategy": "train.eval_strategy",
    "train.num_train_epochs": "train.epochs",
}
OTHER_NAMES = {
    "lr": "learning_rate",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "grad_accum",
    "rank": "r",
    "lora_alpha": "alpha",
    "cutoff_len": "max_seq_len",
    "model_name_or_path": "name",
}


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and what was odd about it without being wrong."""

    config: RunConfig
    warnings: tuple[str, ...]


@dataclass
class Draft:
    """Values on their way to a RunConfig: flat, dotted path to value, each with its place."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, path: str, value: Any, place: str) -> None:
        """Set one value; an old name is taken with a warning, a secret is refused."""
        path, value = self.renamed(path, value, place)
        if path in self.values:
            del self.values[path]
        self.values[path] = value
        self.places[path] = place
        if SECRET_KEY.search(path) or (isinstance(value, str) and SECRET_VALUE.search(value)):
            self.problems.append(
                f"{place}: `{path}` looks like a secret. Secrets never belong in a configuration: "
                "use the environment (HF_TOKEN) or `hf auth login`."
            )
        if isinstance(value, str) and UNSTORABLE.search(value):
            self.problems.append(f"{place}: `{path}` holds a character that no file name can hold.")

    def place_of(self, path: str) -> str:
        """Say where a path was set; for a section, where its first setting was."""
        below = (place for key, place in self.places.items() if key.startswith(f"{path}."))
        return self.places.get(path) or next(below, path)

    def renamed(self, path: str, value: Any, place: str) -> tuple[str, Any]:
        """Map names of other tools to ours, saying so."""
        if path == "train.output_dir":
            name = Path(str(value)).name
            self.warnings.append(
                f"{place}: `{path}` is read as `run_name: {name}`; runs always lie in outputs/."
            )
            return "run_name", name
        if path in OLD_NAMES:
            self.warnings.append(f"{place}: `{path}` is the old name of `{OLD_NAMES[path]}`.")
            return OLD_NAMES[path], value
        return path, value


def load_config(path: Path | None, overrides: Sequence[str], workspace: Workspace) -> LoadedConfig:
    """Read a configuration file (or none), apply `key=value` overrides, and check all of it.

    Raises ConfigError with every problem found, one a line.
    """
    draft = Draft()
    if path is not None:
        add_file(draft, path, workspace, ())
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            draft.problems.append(f"--set {text}: expected key=value.")
            continue
        add_value(draft, key.strip(), parse_value(value), f"--set {key.strip()}")
    return LoadedConfig(checked(draft), tuple(draft.warnings))


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """Check values by dotted path (a form's); ConfigError lists every problem by its path."""
    draft = Draft()
    for path, value in values.items():
        draft.add(path, value, path)
    return checked(draft)


def checked(draft: Draft) -> RunConfig:
    """Give the RunConfig of a draft, or raise with all problems."""
    tree: dict[str, Any] = {}
    for path, value in draft.values.items():
        place(tree, path.split("."), value)
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        draft.problems += explain(error, draft)
        train = tree.get("train")
        # the pairs are looked at even where a single value is wrong: all problems at once
        draft.problems += contradictions(train) if isinstance(train, dict) else []
    if draft.problems:
        count = len(draft.problems)
        fix = "Correct it." if count == 1 else f"Correct these {count} places."
        raise ConfigError("\n".join(dict.fromkeys(draft.problems)), fix)
    return config


def add_file(draft: Draft, path: Path, workspace: Workspace, seen: tuple[Path, ...]) -> None:
    """Merge one file and what it includes; what comes later wins, key by key."""
    path = workspace.resolve(path)
    name = workspace.shorten(path)
    if path in seen or len(seen) > MAX_INCLUDES:
        raise ConfigError(f"{name} includes itself.", "Take one of the includes out.")
    document = read_yaml(path, name)
    values = dict(document.values)
    included = values.pop("include", [])
    for entry in included if isinstance(included, list) else [included]:
        where = document.places["include"]
        add_file(draft, find_include(str(entry), where, workspace), workspace, (*seen, path))
    for key, value in values.items():
        add_tree(draft, key, value, document)


def find_include(entry: str, where: str, workspace: Workspace) -> Path:
    """Find an included file; only files below configs/ may be included."""
    for root in (workspace.root, PROJECT_ROOT):
        path = (root / entry).resolve()
        if path.is_file() and path.is_relative_to((root / "configs").resolve()):
            return path
    raise ConfigError(
        f"{where}: cannot include {entry!r}.",
        "Name a file below configs/, such as configs/config_base.yaml.",
    )


def add_tree(draft: Draft, path: str, value: Any, document: Document) -> None:
    """Add a value of a file, going down into sections (but not into a setting that is a map)."""
    if isinstance(value, dict) and path not in MAPS:
        for key, below in value.items():
            add_tree(draft, f"{path}.{key}", below, document)
        if value or path not in SECTIONS:
            return
    elif value is None and path in SECTIONS:
        return  # `train:` with all its keys commented out
    else:
        draft.add(path, value, document.places.get(path, path))


def add_value(draft: Draft, path: str, value: Any, where: str) -> None:
    """Add a value given by hand; a map setting may be reached by its key (`data.mapping.user`)."""
    parent, _, key = path.rpartition(".")
    if parent in MAPS:
        value = {**draft.values.get(parent, {}), key: value}
        path = parent
    draft.add(path, value, where)


def place(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Put a value into nested mappings."""
    for key in keys[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            return  # the parent is no section: it has its own problem already
        tree = below
    tree[keys[-1]] = value


def explain(error: ValidationError, draft: Draft) -> list[str]:
    """Put pydantic's findings in our words, one for each dotted path."""
    found: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = known_part([str(part) for part in item["loc"]])
        if path in found:
            continue
        where = draft.place_of(path)
        start = f"{where}: " if where != path else ""
        if item["type"] == "extra_forbidden":
            found[path] = f"{start}unknown setting `{path}`{nearest(path)}"
        elif path in SETTINGS:
            value = draft.values.get(path)
            found[path] = f"{start}`{path}` is {value!r}; allowed: {allowed(SETTINGS[path])}."
        elif path in SECTIONS and item["type"] == "model_type":
            found[path] = f"{start}`{path}` is a section with settings below it, not a value."
        elif item["type"] != "value_error":
            found[path] = f"{start}`{path}`: {item['msg']}."
    return list(found.values())


def known_part(location: list[str]) -> str:
    """Cut pydantic's location to a setting's path (it goes on into union members and items)."""
    for end in range(1, len(location) + 1):
        if ".".join(location[:end]) in SETTINGS:
            return ".".join(location[:end])
    return ".".join(location)


def nearest(path: str) -> str:
    """Name the setting that was probably meant; a section's own settings come first."""
    section, _, key = path.rpartition(".")
    names = [*SETTINGS, *SECTIONS]
    siblings = {n.rpartition(".")[2]: n for n in names if n.rpartition(".")[0] == section}
    same_key = {n.rpartition(".")[2]: n for n in names}
    known = OTHER_NAMES.get(key, key)
    for candidates in (siblings, same_key):
        match = get_close_matches(known, candidates, 1, 0.7)
        if match:
            return f"; did you mean `{candidates[match[0]]}`?"
    return "."


def config_to_yaml(config: RunConfig, *, changed_only: bool = False) -> str:
    """Write a configuration as YAML that `load_config` reads back to an equal one."""
    values = config.model_dump(exclude_defaults=changed_only)
    return yaml.dump(values, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=100)


class PlainDumper(yaml.SafeDumper):
    """Write floats and text so that YAML 1.2 and 1.1 readers agree on them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_float(dumper: PlainDumper, value: float) -> yaml.Node:
    text = repr(value)
    # 2e-05 is text to YAML 1.1; 2.0e-05 is a number to both
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def write_text(dumper: PlainDumper, value: str) -> yaml.Node:
    # escaped where YAML would fold a line break, quoted where a plain word would read as a number
    style = '"' if not value.isprintable() else "'" if scalar_value(value) != value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


PlainDumper.add_representer(float, write_float)
PlainDumper.add_representer(str, write_text)

SETTINGS: Mapping[str, Setting] = {setting.path: setting for setting in settings()}
MAPS = frozenset(path for path, setting in SETTINGS.items() if setting.kind == "map")


def section_paths(section: type[Section] = RunConfig, prefix: str = "") -> list[str]:
    """List the dotted paths of all sections."""
    paths = []
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            paths += [f"{prefix}{name}", *section_paths(info.annotation, f"{prefix}{name}.")]
    return paths


SECTIONS = frozenset(section_paths())

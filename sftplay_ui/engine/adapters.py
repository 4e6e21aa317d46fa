"""What an adapter folder says about itself, and whether it may be used with what is at hand.

`sftplay.json` carries the template contract. Training writes it; Evaluate, Chat, Merge and export
read it here before anything is loaded, so that a mismatch is never silent. Weights are judged by
`safetensors_header`; loading them is left to the worker.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.checks import CheckResult
from sftplay_ui.engine.errors import AdapterError
from sftplay_ui.engine.models.safetensors_header import TensorFacts, not_finite, read_header
from sftplay_ui.engine.text.templates import ChatTemplate, TemplateContract, template_contract
from sftplay_ui.engine.workspace import Workspace

FORMAT = 1
CONTRACT_FILE = "sftplay.json"
LAST_FILE = "last"
# what `evaluate.run` and `chat.run` say for the base model alone
NO_ADAPTER = "base"
# What could run code when it is loaded.
_PICKLES = frozenset({".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"})


@dataclass(frozen=True)
class Adapter:
    """One adapter folder: what was trained on what, and how it must be asked.

    `mode` is qlora, lora or full; a full folder holds a whole model. `base_hash` tells two base
    models of one name apart. `system` is the system text common to all examples, often empty.
    """

    path: Path
    base_model: str
    revision: str | None
    base_hash: str
    run: str
    mode: str
    template: ChatTemplate
    system: str
    created: str = ""

    @property
    def name(self) -> str:
        """The folder's name, which is the run's."""
        return self.path.name

    @property
    def contract(self) -> TemplateContract:
        """What every later use must share with the training."""
        return template_contract(self.template, self.system)


def write_contract(adapter: Adapter) -> Path:
    """Write `sftplay.json` and `chat_template.jinja` into the adapter's folder; return the former.

    `created` is set to now where it is empty.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = {
        "format": FORMAT,
        "base_model": adapter.base_model,
        "revision": adapter.revision,
        "base_hash": adapter.base_hash,
        "run": adapter.run,
        "mode": adapter.mode,
        "template": {
            "source": adapter.template.source,
            "name": adapter.template.name,
            "hash": adapter.template.hash,
        },
        "system": adapter.system,
        "bos": adapter.template.bos,
        "eos": adapter.template.eos,
        "contract": adapter.contract.hash,
        "created": adapter.created or now,
    }
    # other programs ask with this file, so it is the same template to the letter
    replace_text(adapter.path / "chat_template.jinja", adapter.template.source)
    path = adapter.path / CONTRACT_FILE
    replace_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return path


def mark_newest(workspace: Workspace, name: str) -> None:
    """Let `adapters/last` name this adapter."""
    replace_text(workspace.adapters / LAST_FILE, name + "\n")


def read_adapter(path: Path) -> Adapter:
    """Read and judge an adapter folder without loading it; raise AdapterError at a fault."""
    if not path.is_dir():
        raise AdapterError(
            f"{path} is not a folder, so it is no adapter.", "Choose a folder below adapters."
        )
    _refuse_pickles(path)
    adapter = _from_record(path, _read_record(path / CONTRACT_FILE))
    beside = path / "chat_template.jinja"
    if beside.is_file() and not _holds(beside, adapter.template.source):
        raise AdapterError(
            f"{beside} differs from the template this adapter was trained with.",
            f"Put the template back (it is kept in {CONTRACT_FILE}), or train again.",
        )
    tensors = [tensor for file in weight_files(path) for tensor in read_header(file)]
    if adapter.mode != "full":
        _check_lora(path, tensors)
    return adapter


def weight_files(path: Path) -> list[Path]:
    """Return the weights of an adapter folder; raise AdapterError where it has none."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise AdapterError(
            f"{path} holds no weights (no .safetensors file).",
            "Train again, or choose another adapter.",
        )
    return files


def check_contract(adapter: Adapter, template: ChatTemplate, system: str) -> None:
    """Raise AdapterError, with both values, where this is not what the adapter was trained with."""
    ours, theirs = template_contract(template, system), adapter.contract
    if ours == theirs:
        return
    differences = [
        f"the {what} is {now!r} now and was {then!r} in training"
        for what, now, then in (
            (
                "template",
                f"{template.name} ({ours.template_hash[:8]})",
                f"{adapter.template.name} ({theirs.template_hash[:8]})",
            ),
            ("system prompt", ours.system, theirs.system),
            ("end token", ours.eos, theirs.eos),
        )
        if (what != "template" or ours.template_hash != theirs.template_hash) and now != then
    ]
    raise AdapterError(
        f"Adapter {adapter.name} would be asked in another way than it was taught: "
        f"{'; '.join(differences)}.",
        "Use the template and system prompt the adapter carries, or train again.",
    )


def newest_adapter(workspace: Workspace) -> Adapter:
    """Read the adapter that `adapters/last` names; raise AdapterError where there is none."""
    try:
        name = (workspace.adapters / LAST_FILE).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        name = ""
    # a name and nothing else: the file must not lead out of the folder
    if not name or name != Path(name).name or name in {".", ".."}:
        raise AdapterError("There is no trained adapter yet.", "Train one first, or name a folder.")
    return read_adapter(workspace.adapters / name)


def find_adapter(name: str | None, workspace: Workspace) -> Adapter | None:
    """Read the adapter of a run's name or a folder; None asks for the newest, `base` for none.

    Raises AdapterError where there is no such adapter or it is damaged.
    """
    if name == NO_ADAPTER:
        return None
    if name is None:
        return newest_adapter(workspace)
    path = workspace.adapters / name
    path = path if name == Path(name).name and path.is_dir() else workspace.resolve(name)
    if not path.is_dir():
        known = ", ".join(adapter.name for adapter in list_adapters(workspace)[:5])
        raise AdapterError(
            f"There is no adapter called {name!r}.",
            f"Adapters here: {known}." if known else "Train one first, or name a folder.",
        )
    return read_adapter(path)


def list_adapters(workspace: Workspace) -> list[Adapter]:
    """Return all sound adapters, the newest first; `unsound_adapters` tells of the others."""
    adapters = [found for found in _all(workspace) if isinstance(found, Adapter)]
    return sorted(adapters, key=lambda adapter: (adapter.created, adapter.name), reverse=True)


def unsound_adapters(workspace: Workspace) -> list[AdapterError]:
    """Return what is wrong with each folder below `adapters` that cannot be used."""
    return [found for found in _all(workspace) if isinstance(found, AdapterError)]


def check_adapter(path: Path) -> CheckResult:
    """Judge an adapter folder thoroughly: all that `read_adapter` does, and every number finite."""
    try:
        read_adapter(path)
        broken = [name for file in weight_files(path) for name in not_finite(file)]
    except AdapterError as error:
        return CheckResult.rejected(error)
    faults = [f"{path}: {name} holds NaN or infinity. Train again." for name in broken[:5]]
    return CheckResult.of(faults=faults, warnings=[])


def refuse_not_finite(adapter: Adapter) -> None:
    """Raise AdapterError where a weight holds NaN or infinity; reads the weights once."""
    for file in weight_files(adapter.path):
        for name in not_finite(file):
            raise AdapterError(
                f"{file}: {name} holds NaN or infinity.", "Train again, or copy the adapter anew."
            )


def _all(workspace: Workspace) -> list[Adapter | AdapterError]:
    if not workspace.adapters.is_dir():
        return []
    folders = sorted(path for path in workspace.adapters.iterdir() if path.is_dir())
    # staged folders of a save in progress begin with a dot
    return [_read_or_error(path) for path in folders if not path.name.startswith(".")]


def _read_or_error(path: Path) -> Adapter | AdapterError:
    try:
        return read_adapter(path)
    except AdapterError as error:
        return error


def _refuse_pickles(path: Path) -> None:
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in _PICKLES:
            raise AdapterError(
                f"{file} is of a kind that can run code when it is loaded.",
                "Use adapters saved as .safetensors only.",
            )


def _read_record(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(
            f"{path.parent} has no {path.name}, so nobody knows how it was trained.",
            "Choose an adapter that SFT-Play trained.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(
            f"{path} cannot be read: {error}.", "Copy the adapter anew, or train again."
        ) from error
    if not isinstance(record, dict):
        raise AdapterError(f"{path} is not a JSON object.", "Copy the adapter anew.")
    if record.get("format") != FORMAT:
        raise AdapterError(
            f"{path} has format {record.get('format')!r}; this program knows {FORMAT}.",
            "Use the version of SFT-Play that trained it, or a newer one.",
        )
    return record


def _from_record(path: Path, record: dict[str, object]) -> Adapter:
    template = record.get("template")
    if not isinstance(template, dict):
        raise _lies(path, "template is no object")
    facts = {name: _text(path, record, name) for name in ("base_model", "run", "mode", "system")}
    adapter = Adapter(
        path=path,
        revision=None if record.get("revision") is None else _text(path, record, "revision"),
        base_hash=_text(path, record, "base_hash"),
        template=ChatTemplate(
            source=_text(path, template, "source"),
            name=_text(path, template, "name"),
            reason=f"adapter {path.name} was trained with it",
            bos=_text(path, record, "bos"),
            eos=_text(path, record, "eos"),
        ),
        created=_text(path, record, "created"),
        **facts,
    )
    if adapter.template.hash != template.get("hash"):
        raise _lies(path, "the template is not the one its hash was made of")
    if adapter.contract.hash != record.get("contract"):
        raise _lies(path, "template, system prompt or end token were changed after training")
    return adapter


def _text(path: Path, record: dict[str, object], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise _lies(path, f"{name} is {value!r}, not text")
    return value


def _holds(file: Path, text: str) -> bool:
    """Tell whether a file holds a text; line ends count as one, bytes that are no text as other."""
    try:
        return file.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _lies(path: Path, why: str) -> AdapterError:
    return AdapterError(
        f"{path / CONTRACT_FILE} does not hold together: {why}.",
        "Copy the adapter anew, or train again.",
    )


def _check_lora(path: Path, tensors: list[TensorFacts]) -> None:
    file = path / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        rank, patterns = config["r"], config.get("rank_pattern")
        foreign = [name for name in ("auto_mapping", "auto_map") if config.get(name)]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{file} cannot be used: {error}.", "Copy the adapter anew, or train again."
        ) from error
    if foreign:
        raise AdapterError(f"{file} asks for code of its own ({foreign[0]}).", "Do not use it.")
    for tensor in tensors:
        if "lora_A" in tensor.name and not patterns and tensor.shape[:1] != (rank,):
            raise AdapterError(
                f"{path}: {tensor.name} has shape {tensor.shape}, {file.name} says rank {rank}.",
                "Copy the adapter anew, or train again.",
            )

"""Data sets of the Hugging Face Hub by name: their files are listed and fetched, never their code.

A name is `owner/name`, and may say more: `hub:owner/name?config=main&split=train&rows=1000`. Tokens
come from the environment or the hub's own login only.
"""

import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
import huggingface_hub
import orjson
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from sftplay_ui.engine.data.readers import open_source
from sftplay_ui.engine.data.rows import RawRow
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.workspace import Workspace

NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
# the Hub keeps a converted copy of most data sets under this name
CONVERTED = "refs/convert/parquet"
KINDS = (".parquet", ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv")
SPLIT_WORDS = ("train", "test", "validation", "val", "valid", "dev")


@dataclass(frozen=True, slots=True)
class HubName:
    """A data set of the Hub, and which part of it is wanted."""

    repository: str
    config: str | None = None
    split: str | None = None
    rows: int | None = None


def is_hub_name(text: str) -> bool:
    """Tell whether a text names a data set of the Hub rather than a file."""
    bare = text.removeprefix("hub:").partition("?")[0]
    named = NAME.fullmatch(bare) is not None
    return named and (
        text.startswith("hub:") or not bare.lower().endswith((*KINDS, ".xlsx", ".txt"))
    )


def parse_hub_name(text: str) -> HubName:
    """Read a name with its options; raise DataError for an unknown option."""
    bare, _, options = text.removeprefix("hub:").partition("?")
    chosen = dict(urllib.parse.parse_qsl(options))
    unknown = sorted(chosen.keys() - {"config", "split", "rows"})
    rows = chosen.get("rows", "")
    if unknown or (rows and not rows.isdigit()):
        raise DataError(
            f'"{text}" has the option "{(unknown or ["rows"])[0]}", which cannot be read.',
            "Write it like hub:owner/name?config=main&split=train&rows=1000.",
        )
    return HubName(bare, chosen.get("config"), chosen.get("split"), int(rows) if rows else None)


def fetch_data_set(name: HubName, workspace: Workspace) -> list[Path]:
    """Fetch the files of a data set (or the first rows of it) and return where they lie.

    Raises DataError where the data set, its config or split is unknown, or the Hub out of reach.
    """
    target = workspace.data / "raw" / f"{_file_stem(name)}.jsonl"
    if name.rows and target.exists():
        return [target]
    try:
        revision, files = _list_files(name)
        chosen = choose_files(files, name)
        paths = [
            Path(
                huggingface_hub.hf_hub_download(
                    name.repository, file, repo_type="dataset", revision=revision
                )
            )
            for file in (chosen[:1] if name.rows else chosen)
        ]
    except GatedRepoError:
        raise DataError(
            f"{name.repository} asks for consent before it can be fetched.",
            f"Accept its terms at huggingface.co/datasets/{name.repository} and log in with "
            "`hf auth login`.",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise DataError(
            f'There is no public data set "{name.repository}" on the Hub.',
            "Correct the name; for a private one log in with `hf auth login`.",
        ) from None
    except (
        OfflineModeIsEnabled,
        LocalEntryNotFoundError,
        HfHubHTTPError,
        httpx.HTTPError,
        OSError,
    ):
        raise DataError(
            f"{name.repository} cannot be fetched: the Hub is not reachable from here.",
            "Connect to the network, or download the file elsewhere and choose it as a file.",
        ) from None
    return [_first_rows(paths[0], name.rows, target)] if name.rows else paths


def choose_files(files: Sequence[str], name: HubName) -> list[str]:
    """Choose the data files of one kind, config and split from a listing."""
    kind = next((kind for kind in KINDS if any(file.endswith(kind) for file in files)), None)
    if kind is None:
        raise DataError(
            f"{name.repository} has no Parquet, JSON, JSONL or CSV files.", "Choose another one."
        )
    chosen = [file for file in files if file.endswith(kind)]
    folders = sorted({file.split("/")[0] for file in chosen if "/" in file} - {"data"})
    if name.config is not None:
        chosen = [file for file in chosen if name.config in _words(file)]
        _refuse_none(chosen, name, "config", folders)
    elif len(folders) > 1:
        default = next((word for word in ("default", "main") if word in folders), None)
        if default is None:
            _refuse_none([], name, "config", folders)
        chosen = [file for file in chosen if file.split("/")[0] == default]
    splits = sorted({word for file in chosen for word in _words(file) if word in SPLIT_WORDS})
    wanted = name.split or ("train" if "train" in splits else None)
    if wanted is not None:
        chosen = [file for file in chosen if wanted in _words(file)]
        _refuse_none(chosen, name, "split", splits)
    return sorted(chosen)


def _list_files(name: HubName) -> tuple[str | None, list[str]]:
    api = huggingface_hub.HfApi()
    files = api.list_repo_files(name.repository, repo_type="dataset")
    if any(file.endswith(".parquet") for file in files):
        return None, files
    try:
        converted = api.list_repo_files(name.repository, repo_type="dataset", revision=CONVERTED)
    except HfHubHTTPError:
        return None, files
    return CONVERTED, converted


def _words(file: str) -> list[str]:
    path = PurePosixPath(file)
    return [*path.parts[:-1], *re.split(r"[-_.]", path.name), path.name]


def _refuse_none(chosen: Sequence[str], name: HubName, part: str, known: Sequence[str]) -> None:
    if chosen:
        return
    wanted = name.config if part == "config" else name.split
    said = f'no {part} "{wanted}"' if wanted else f"several {part}s"
    raise DataError(
        f"{name.repository} has {said} (found: {', '.join(known) or 'none'}).",
        f"Name one: hub:{name.repository}?{part}={known[0] if known else '...'}.",
    )


def _file_stem(name: HubName) -> str:
    parts = [name.repository.replace("/", "--"), name.config, name.split, name.rows]
    return "-".join(str(part) for part in parts if part)


def _first_rows(path: Path, count: int | None, target: Path) -> Path:
    """Keep the first rows of a big file as a raw file of its own."""
    rows = (row.value for row in open_source(path).rows() if isinstance(row, RawRow))
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.part")
    with staged.open("wb") as stream:
        for value, _ in zip(rows, range(count or 0), strict=False):
            stream.write(orjson.dumps(value, default=str) + b"\n")
    staged.replace(target)
    return target

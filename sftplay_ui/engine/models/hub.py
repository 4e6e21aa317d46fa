"""Models on the Hugging Face Hub: found in its cache, fetched into it, its errors in plain words.

Tokens come from the environment or the hub's own login; this module never sees one.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from multiprocessing.pool import ThreadPool
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    CacheNotFound,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sftplay_ui.engine.errors import DiskFullError, ModelError
from sftplay_ui.engine.models.downloads import OnProgress, Progress, need_space, report_growth
from sftplay_ui.engine.models.folder import UNSAFE_SUFFIXES, check_model_folder

try:
    from httpx2 import TransportError
except ImportError:  # the Hub's library before its version 2
    from httpx import TransportError  # type: ignore[assignment]

# Weights, configs and the tokenizer; nothing from subfolders (other formats of the same weights).
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
UNWANTED = ["*/*", "README.*", "LICENSE*"]
HUB_ID = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")


def looks_like_hub_id(name: str) -> bool:
    """Tell whether a name could be `owner/model` (or an old one-word id)."""
    return HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def find_cached(name: str, revision: str | None = None) -> Path | None:
    """Return a model's folder in the Hub's cache if it is there and whole; ask nobody."""
    try:
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=WANTED,
            ignore_patterns=UNWANTED,
            local_files_only=True,
        )
        check_model_folder(Path(folder))
    except (LocalEntryNotFoundError, HFValidationError, ModelError):
        return None
    return Path(folder)


def fetch_cached(name: str, revision: str | None, on_progress: OnProgress) -> Path:
    """Fetch a model into the Hub's cache, going on with what is there; return its folder.

    Raises ModelError (not found, gated, offline, no safetensors) or DiskFullError.
    """
    with plain_hub_errors(name, revision):
        missing_bytes = measure(name, revision)
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        need_space(cache, missing_bytes, f"Fetching {name}")
        repo = cache / f"models--{name.replace('/', '--')}"
        folder = in_background(
            lambda: huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED
            ),
            lambda ended: report_growth(repo / "blobs", missing_bytes, ended, on_progress),
        )
    on_progress(Progress("download", missing_bytes, missing_bytes))
    check_model_folder(Path(folder))
    return Path(folder)


def measure(name: str, revision: str | None) -> int:
    """Ask the Hub for a model's files; return the bytes that are not here yet.

    Raises ModelError when none of them are weights we would open.
    """
    info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    top = [file for file in files if "/" not in file]
    if not any(file.endswith(".safetensors") for file in top):
        others = sorted(file for file in top if file.endswith(UNSAFE_SUFFIXES))
        held = f"only {others[0]}, a kind of file that can run code" if others else "no weights"
        raise ModelError(
            f"{name} on the Hub holds {held}; only .safetensors files are read.",
            "Choose a version of the model that comes as safetensors.",
        )
    return sum(
        size
        for file, size in files.items()
        if is_wanted(file)
        and not isinstance(
            huggingface_hub.try_to_load_from_cache(name, file, revision=info.sha), str
        )
    )


def is_wanted(file: str) -> bool:
    """Tell whether a file is fetched: what WANTED allows and UNWANTED does not refuse."""
    allowed, refused = (
        any(fnmatch(file, pattern) for pattern in patterns) for patterns in (WANTED, UNWANTED)
    )
    return allowed and not refused


def in_background(job: Callable[[], str], watch: Callable[[Callable[[float], bool]], None]) -> str:
    """Run a job beside a watcher of it; return its result or raise its error.

    The job's thread is a daemon: when the watcher is interrupted, leaving does not wait for it.
    """
    with ThreadPool(1) as pool:
        result = pool.apply_async(job)

        def ended(seconds: float) -> bool:
            result.wait(seconds)
            return result.ready()

        watch(ended)
        return result.get()


def cached_names() -> list[str]:
    """List the ids of the models in the Hub's cache that hold safetensors, in order of name."""
    try:
        repos = huggingface_hub.scan_cache_dir().repos
    except CacheNotFound:
        return []
    return sorted(
        repo.repo_id
        for repo in repos
        if repo.repo_type == "model"
        and any(
            {"config.json"} <= names and any(name.endswith(".safetensors") for name in names)
            for names in (
                {file.file_name for file in revision.files} for revision in repo.revisions
            )
        )
    )


@contextmanager
def plain_hub_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn the Hub's errors about a model or data set into ModelError or DiskFullError."""
    local = "Or set model.name to `starter` or to a model folder on this machine."
    # Gated is a kind of not found there, and all of them are HTTP errors: the order matters.
    try:
        yield
    except GatedRepoError as problem:
        raise ModelError(
            f"{name} is gated: its owner wants you to agree to terms first.",
            f"Agree on its page, then log in with `hf auth login`. {local}",
        ) from problem
    except RepositoryNotFoundError as problem:
        raise ModelError(
            f"The Hub has no {name}, or it is private.",
            f"Check the spelling; for a private one log in with `hf auth login`. {local}",
        ) from problem
    except RevisionNotFoundError as problem:
        raise ModelError(
            f"{name} has no revision {revision}.",
            "Leave model.revision empty, or name a branch, tag or commit that exists.",
        ) from problem
    except HFValidationError as problem:
        raise ModelError(
            f"{name!r} is neither a folder on this machine nor a model's id on the Hub.",
            "Write a folder, `starter`, or an id such as Qwen/Qwen2.5-1.5B-Instruct.",
        ) from problem
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, TransportError) as problem:
        offline = constants.HF_HUB_OFFLINE
        why = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
        fix = "Unset HF_HUB_OFFLINE" if offline else "Check the network connection and try again"
        raise ModelError(
            f"{name} is not on this machine, and {why}.", f"{fix}. {local}"
        ) from problem
    except HfHubHTTPError as problem:
        status = problem.response.status_code
        raise ModelError(
            f"The Hub answered {status} when asked for {name}.", f"Try again later. {local}"
        ) from problem
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise DiskFullError(
                f"The disk of {constants.HF_HUB_CACHE} is full.",
                "Free space and try again; the download goes on where it stopped.",
            ) from problem
        raise

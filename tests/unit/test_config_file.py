"""Configuration files: merged, checked, and every problem told at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.config_file import config_to_yaml, load_config, make_config
from sftplay_ui.engine.errors import ConfigError
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace


@pytest.fixture
def folder(tmp_path: Path) -> Workspace:
    (tmp_path / "configs").mkdir()
    return Workspace(tmp_path)


def write(workspace: Workspace, name: str, text: str) -> Path:
    path = workspace.root / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(workspace: Workspace, text: str, *overrides: str) -> str:
    path = write(workspace, "mine.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, workspace)
    assert caught.value.fix
    return caught.value.what


def test_the_bundled_configurations_load_without_warnings():
    workspace = Workspace(PROJECT_ROOT)
    for name in ("config_base", "run_bnb", "run_unsloth", "run_cpu"):
        loaded = load_config(Path("configs") / f"{name}.yaml", (), workspace)
        assert loaded.warnings == ()
    assert load_config(Path("configs/run_cpu.yaml"), (), workspace).config.tuning.mode == "lora"


def test_what_comes_later_wins_key_by_key(folder):
    write(folder, "configs/base.yaml", "train:\n  epochs: 3\n  seed: 7\n")
    path = write(folder, "mine.yaml", "include: configs/base.yaml\ntrain:\n  epochs: 5\n")
    config = load_config(path, ["train.epochs=2"], folder).config
    assert (config.train.epochs, config.train.seed) == (2, 7)


def test_yaml_1_2_numbers_are_numbers_and_no_is_text(folder):
    path = write(folder, "a.yaml", "train: {learning_rate: 2e-4, eval_strategy: no, seed: 010}\n")
    train = load_config(path, (), folder).config.train
    assert (train.learning_rate, train.eval_strategy, train.seed) == (2e-4, "no", 10)


def test_all_problems_are_told_at_once_with_their_lines(folder):
    what = refusal(
        folder,
        "train:\n  epochs: '3'\n  bf16: true\n  fp16: true\n  batch_size: 0\nmodell:\n  name: x\n",
        "train.epoch=4",
    )
    assert what.splitlines() == [
        "mine.yaml:2: `train.epochs` is '3'; allowed: number, above 0 up to 1000.",
        "mine.yaml:5: `train.batch_size` is 0; allowed: `auto` or whole number, from 1 up to 4096.",
        "--set train.epoch: unknown setting `train.epoch`; did you mean `train.epochs`?",
        "mine.yaml:7: unknown setting `modell`; did you mean `model`?",
        "`train.bf16` and `train.fp16` are both true: set one of them.",
    ]


def test_a_name_from_another_tool_leads_to_ours(folder):
    what = refusal(folder, "train:\n  lr: 2e-4\n")
    assert what == "mine.yaml:2: unknown setting `train.lr`; did you mean `train.learning_rate`?"


def test_the_old_name_of_a_setting_is_taken_with_a_warning(folder):
    path = write(
        folder, "a.yaml", "train:\n  evaluation_strategy: steps\n  output_dir: outputs/x\n"
    )
    loaded = load_config(path, (), folder)
    assert loaded.config.train.eval_strategy == "steps"
    assert loaded.config.run_name == "x"
    assert [w.split(":")[1] for w in loaded.warnings] == ["2", "3"]


@pytest.mark.parametrize(
    "text",
    ["model:\n  name: hf_abcdefghijklmnopqrstuvwx\n", "model:\n  hub_token: abc\n"],
)
def test_a_secret_is_refused_with_the_right_place_named(folder, text):
    assert "HF_TOKEN" in refusal(folder, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x [1]\nb: *x\n", "alias"),
        ("a: !!python/object/apply:os.system [ls]\n", "mine.yaml:1: the tag"),
        ("- 1\n", "expected `key: value` lines"),
        ("train: 5\n", "`train` is a section"),
        ("train:\n  seed: 1\n  seed: 2\n", "mine.yaml:3: `train.seed` is set twice"),
        ("train:\n  epochs: .nan\n", "`train.epochs` is nan"),
        ("train:\n  epochs: .inf\n", "`train.epochs` is inf"),
        ("a: b: c\n", "mine.yaml:1: this is not YAML"),
        ("[" * 200_000, "mine.yaml:1: nested more than"),
        ("? [a]\n: b\n", "mine.yaml:1: a key must be a plain name"),
        ('model:\n  name: "a\\0b"\n', "mine.yaml:2: `model.name` holds a character"),
        ('run_name: "\\ud800"\n', "mine.yaml:1: `run_name` holds a character"),
        ("a:\n" + "".join("  " * i + "b:\n" for i in range(1, 30)), "levels deep"),
        ("include: ../secret.yaml\n", "cannot include"),
        ("include: configs/none.yaml\n", "mine.yaml:1: cannot include"),
        ("x: " + "y" * 300_000, "larger than 256 kB"),
        ("data:\n  mapping: 3\n", "`data.mapping` is 3"),
    ],
)
def test_bad_files_are_refused_with_the_place(folder, text, expected):
    assert expected in refusal(folder, text)


def test_a_file_that_includes_itself_is_refused(folder):
    write(folder, "configs/a.yaml", "include: configs/b.yaml\n")
    write(folder, "configs/b.yaml", "include: configs/a.yaml\n")
    with pytest.raises(ConfigError, match="includes itself"):
        load_config(folder.configs / "a.yaml", (), folder)


def test_a_missing_file_is_named(folder):
    with pytest.raises(ConfigError, match=r"There is no file nothing\.yaml"):
        load_config(Path("nothing.yaml"), (), folder)


def test_a_mapping_can_be_set_key_by_key(folder):
    overrides = ["data.mapping.user=Frage", "data.mapping.assistant=Antwort"]
    config = load_config(None, overrides, folder).config
    assert config.data.mapping == {"user": "Frage", "assistant": "Antwort"}


def test_an_empty_section_is_no_problem(folder):
    assert load_config(write(folder, "a.yaml", "train:\n"), (), folder).config == RunConfig()


# a null character is refused (no file name can hold it), and so is half a character
WRITABLE = st.characters(exclude_characters="\0", exclude_categories=("Cs",))


@given(
    rate=st.floats(1e-9, 1.0),
    system=st.text(WRITABLE, max_size=60),
    mapping=st.dictionaries(
        st.text(WRITABLE, min_size=1, max_size=9), st.text(WRITABLE, max_size=9), max_size=3
    ),
)
def test_what_is_written_reads_back_equal(tmp_path_factory, rate, system, mapping):
    root = tmp_path_factory.mktemp("yaml")
    values = {"train.learning_rate": rate, "style.system": system, "data.mapping": mapping}
    config = make_config(values)
    path = root / "config.yaml"
    path.write_text(config_to_yaml(config), encoding="utf-8")
    assert load_config(path, (), Workspace(root)).config == config


@pytest.mark.parametrize(
    "text", ["1e3", "0o7", "no", "null", "", "~", " x", "a: b", "\r\n", "\x85", "#"]
)
def test_text_that_looks_like_something_else_stays_text(folder, text):
    path = write(folder, "a.yaml", config_to_yaml(make_config({"style.system": text})))
    assert load_config(path, (), folder).config.style.system == text

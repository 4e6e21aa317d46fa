"""Chat templates: the choice and its reason, folding, the end of a turn, the contract."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.errors import ModelError, TemplateError
from sftplay_ui.engine.text.templates import (
    ChatTemplate,
    TurnEnd,
    choose_template,
    split_turn_end,
    template_contract,
    template_files,
)

BUNDLED = Path(__file__).parents[2] / "chat_templates"
CHATML_MARKS = ["<|im_start|>", "<|im_end|>"]
SYSTEM, USER, ANSWER = Message("system", "S"), Message("user", "U"), Message("assistant", "A")


def model(folder: Path, marks: list[str], **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    added = [{"id": n, "content": mark} for n, mark in enumerate(marks)]
    for name, value in {"tokenizer": {"added_tokens": added}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def template(source: str, eos: str = "</s>") -> ChatTemplate:
    return ChatTemplate(source, "mine.jinja", "", "<s>", eos)


@pytest.mark.parametrize(
    ("model_type", "marks", "name"),
    [
        ("llama", ["<|eot_id|>"], "llama3.jinja"),
        ("llama", CHATML_MARKS, "default.jinja"),
        ("llama", ["</s>"], "plain.jinja"),
        ("gemma3_text", ["<end_of_turn>"], "gemma.jinja"),
        ("mistral", ["</s>"], "mistral.jinja"),
        ("phi3", ["<|end|>"], "phi.jinja"),
        ("phi", ["<|endoftext|>"], "plain.jinja"),
        ("qwen3", CHATML_MARKS, "default.jinja"),
        ("gpt2", CHATML_MARKS, "plain.jinja"),
    ],
)
def test_a_model_without_a_template_gets_its_familys(
    tmp_path: Path, model_type: str, marks: list[str], name: str
) -> None:
    chosen = choose_template(
        model(tmp_path, marks, config={"model_type": model_type}), None, BUNDLED
    )
    assert chosen.name == name
    assert model_type in chosen.reason


def test_the_named_file_wins_over_the_models_own_and_that_over_the_family(tmp_path: Path) -> None:
    folder = model(
        tmp_path / "m",
        CHATML_MARKS,
        config={"model_type": "qwen2"},
        tokenizer_config={"chat_template": "config {{ user }}", "eos_token": "<|im_end|>"},
    )
    assert choose_template(folder, None, BUNDLED).source == "config {{ user }}"
    (folder / "chat_template.jinja").write_text("file {{ user }}", encoding="utf-8")
    own = choose_template(folder, None, BUNDLED)
    assert (own.source, own.eos, own.name) == ("file {{ user }}", "<|im_end|>", "the model's own")
    named = choose_template(folder, BUNDLED / "zephyr.jinja", BUNDLED)
    assert (named.name, named.reason) == ("zephyr.jinja", "zephyr.jinja was chosen")


def test_the_default_of_several_own_templates_is_taken(tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d {{ user }}"}]
    folder = model(tmp_path, [], tokenizer_config={"chat_template": several})
    assert choose_template(folder, None, BUNDLED).source == "d {{ user }}"


def test_a_model_never_taught_a_first_token_is_given_none_in_plain_words(tmp_path: Path) -> None:
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    without = choose_template(model(tmp_path, ["<s>"], tokenizer_config=named), None, BUNDLED)
    assert without.render([SYSTEM, USER, ANSWER]) == "System: S\nUser: U\nAssistant: A</s>\n"
    named["add_bos_token"] = True
    with_bos = choose_template(model(tmp_path, ["<s>"], tokenizer_config=named), None, BUNDLED)
    assert with_bos.render([USER], add_generation_prompt=True) == "<s>User: U\nAssistant:"


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("  \n", "is empty"), ("x" * 70_000, "larger than 64 kB")],
)
def test_an_unusable_file_is_refused_by_name(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "mine.jinja"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(TemplateError, match=rf"mine\.jinja.*{words}"):
        choose_template(model(tmp_path / "m", []), path, BUNDLED)


def test_binary_and_folders_are_no_templates(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes(b"\xff\xfe\x00")
    for wrong in (path, tmp_path):
        with pytest.raises(TemplateError, match="cannot be read"):
            choose_template(model(tmp_path / "m", []), wrong, BUNDLED)


def test_a_hostile_template_in_a_model_folder_is_refused_before_it_renders(tmp_path: Path) -> None:
    folder = model(tmp_path, [], tokenizer_config={"chat_template": "{{ ''.__class__ }}"})
    with pytest.raises(TemplateError, match="leave the sandbox"):
        choose_template(folder, None, BUNDLED)


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        choose_template(tmp_path, None, BUNDLED)


REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
DROPS = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TAKES = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("source", [REFUSES, DROPS])
def test_a_system_turn_without_a_place_is_folded_into_the_question(source: str) -> None:
    folding = template(source)
    assert folding.folds_system
    assert folding.render([SYSTEM, USER, ANSWER]) == "[user]S\n\nU[assistant]A"
    assert folding.render([USER, ANSWER]) == "[user]U[assistant]A"


def test_a_system_turn_with_a_place_stays_there() -> None:
    assert not template(TAKES).folds_system
    assert template(TAKES).render([SYSTEM, USER]) == "[system]S[user]U"


def test_a_template_that_refuses_everything_does_not_fold_but_tells() -> None:
    refusing = template("{{ raise_exception('never') }}")
    assert not refusing.folds_system
    with pytest.raises(TemplateError, match="never"):
        refusing.render([SYSTEM, USER])


def test_what_a_person_wrote_is_never_a_template() -> None:
    wild = "{{ messages }} {% for %} {# x #} ${name} {{name}}"
    assert template("{{ messages[0].content }}").render([Message("user", wild)]) == wild


def test_long_conversations_render_and_endless_ones_do_not() -> None:
    long = Message("user", "x" * 1_500_000)
    assert len(template("{{ messages[0].content }}").render([long])) == 1_500_000
    echo = "{% for n in range(9) %}{{ messages[0].content }}{% endfor %}"
    with pytest.raises(TemplateError, match="writes more than"):
        template(echo).render([long])


@pytest.mark.parametrize(
    ("tail", "eos", "mark", "rest"),
    [
        ("<|im_end|>\n", "<|im_end|>", "<|im_end|>", "\n"),
        ("<|im_end|>\n", "<|endoftext|>", "<|im_end|>", "\n"),
        ("<|end|>\n<|endoftext|>", "<|endoftext|>", "<|end|>", "\n<|endoftext|>"),
        (" </s><s>", "</s>", " </s>", "<s>"),
        ("</s>\n\n", "</s>", "</s>", "\n\n"),
        ("\n### End\n\n", "</s>", "\n### End", "\n\n"),
        ("\n", "</s>", "", "\n"),
        ("", "</s>", "", ""),
        ("\n", "", "", "\n"),
    ],
)
def test_the_mark_that_ends_a_turn_is_told_from_the_rest(
    tail: str, eos: str, mark: str, rest: str
) -> None:
    assert split_turn_end(tail, eos) == TurnEnd(mark, rest)


def test_the_contract_changes_with_each_of_its_parts() -> None:
    base = template(TAKES)
    contracts = [
        template_contract(base, "S"),
        template_contract(replace(base, source=DROPS), "S"),
        template_contract(base, ""),
        template_contract(replace(base, eos="<eos>"), "S"),
    ]
    assert len({contract.hash for contract in contracts}) == 4
    assert template_contract(replace(base, name="other", reason="moved"), "S") == contracts[0]


def test_a_workspace_without_templates_has_the_bundled_ones(tmp_path: Path) -> None:
    nothing = tmp_path / "chat_templates"
    template = choose_template(tmp_path, None, nothing)
    assert template.name == "plain.jinja"
    assert "gives no hint" in template.reason
    nothing.mkdir()
    (nothing / "plain.jinja").write_text("{{ user }}|{{ assistant }}", encoding="utf-8")
    assert choose_template(tmp_path, None, nothing).source == "{{ user }}|{{ assistant }}"
    assert {"default.jinja", "llama3.jinja"} <= template_files(nothing).keys()

"""The data doctor: what it finds, what it leaves alone, and what its fixes do."""

import json
from pathlib import Path
from typing import Any

import pytest

from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Example, Message
from sftplay_ui.engine.data.findings import FIXES, KINDS
from sftplay_ui.engine.data.leaks import find_leaks
from sftplay_ui.engine.data.private_data import mask_personal, mask_secrets
from sftplay_ui.engine.data.process import examine, process_files
from sftplay_ui.engine.data.report import ProcessReport
from sftplay_ui.engine.data.row_checks import check_example, mend_wrong_encoding, strip_html
from sftplay_ui.engine.workspace import Workspace

SUBJECTS = [
    "river dams", "copper wires", "window glass", "garden soil", "radio signals",
    "diesel engines", "stone harbours", "cotton markets", "oak forests", "summer storms",
    "valley winds", "butter churns", "sewing needles", "island ferries", "silver mirrors",
    "orange groves", "pepper trade", "rocket fuel", "saddle making", "temple roofs",
    "train tunnels", "velvet weaving", "wagon wheels", "zebra stripes", "ship anchors",
    "wicker baskets", "wax candles", "dragon myths", "steel hammers", "wool jackets",
]  # fmt: skip


def good_rows() -> list[dict[str, Any]]:
    return [
        {
            "question": f"Tell me briefly about {subject}, please",
            "answer": f"A short account of {subject} follows.",
        }
        for subject in SUBJECTS
    ]


def process(workspace: Workspace, rows: list[Any], *fixes: str) -> ProcessReport:
    path = workspace.data / "raw" / "rows.jsonl"
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows),
        encoding="utf-8",
    )
    config = RunConfig.model_validate({"data": {"raw_path": str(path), "fixes": list(fixes)}})
    return process_files(config, workspace)


def found(report: ProcessReport) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def texts(workspace: Workspace) -> str:
    folder = workspace.data / "processed"
    return "".join(
        (folder / f"{n}.jsonl").read_text(encoding="utf-8") for n in ("train", "val", "test")
    )


def row(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer}


def test_good_rows_have_nothing_wrong(workspace: Workspace) -> None:
    assert found(process(workspace, good_rows())) == {}


TROUBLE: list[tuple[str, list[Any]]] = [
    ("exact_duplicates", [good_rows()[3]]),
    ("near_duplicates", [row("Tell me, briefly, about cotton markets please!", "Anything else.")]),
    ("contradictory_answers", [row(good_rows()[3]["question"], "Quite another answer.")]),
    ("one_character_answers", [row("Is glass wet?", "n")]),
    (
        "answer_repeats_question",
        [row("How is felt made out of wool?", "How is felt made out of wool? By hand.")],
    ),
    (
        "question_holds_answer",
        [row("Is it true that moss grows on the north side?", "moss grows on the north side")],
    ),
    ("length_outliers", [row("Recite a very long poem.", "word " * 2000)]),
    ("mixed_languages", [row("Как дела, мой друг?", "Fine, thank you.")]),
    ("broken_lines", ['{"question": "Where to?", "answer": "Over there."},']),
]


@pytest.mark.parametrize(("kind", "rows"), TROUBLE, ids=[kind for kind, _ in TROUBLE])
def test_trouble_is_found_shown_with_its_place_and_left_alone(
    workspace: Workspace, kind: str, rows: list[Any]
) -> None:
    report = process(workspace, [*good_rows(), *rows])
    assert found(report) == {kind: 1}
    finding = report.findings[0]
    assert finding.examples[0].place == f"rows.jsonl:{len(SUBJECTS) + 1}"
    assert not finding.fixed
    expected = len(SUBJECTS) + (kind != "broken_lines")
    assert report.kept == expected


@pytest.mark.parametrize(("kind", "rows"), TROUBLE, ids=[kind for kind, _ in TROUBLE])
def test_a_fix_that_is_switched_on_is_applied_and_recorded(
    workspace: Workspace, kind: str, rows: list[Any]
) -> None:
    report = process(workspace, [*good_rows(), *rows], kind)
    assert report.findings[0].fixed
    assert report.fixes == (kind,)
    if kind == "broken_lines":
        assert report.kept == len(SUBJECTS) + 1
        assert report.changed == {"trailing_comma_after_object": 1}
    else:
        assert report.kept == len(SUBJECTS)
        assert report.dropped == {kind: 1}
    assert (workspace.data / "raw" / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("kind", "answer", "mended"),
    [
        ("control_characters", "A\bland is an island\u202e.", "Aland is an island."),
        ("wrong_encoding", "The cafÃ© is â€œopenâ€\x9d.", "The café is “open”."),
        ("html_remains", "<p>One &amp; two<br/>three</p>", "One & two\nthree\n"),
        ("secrets", "Use hf_abcdefghijklmnopqrstuvwxyz123456 here.", "Use [secret] here."),
        ("personal_data", "Write to ann.lee@postbox.org today.", "Write to [e-mail] today."),
    ],
)
def test_texts_are_mended_only_when_asked(
    workspace: Workspace, kind: str, answer: str, mended: str
) -> None:
    rows = [*good_rows(), row("What then?", answer)]
    assert kind in found(process(workspace, rows))
    assert (
        json.dumps(answer, ensure_ascii=False)[1:-1][:9] in texts(workspace)
        or kind == "control_characters"
    )
    report = process(workspace, rows, kind)
    assert report.changed == {kind: 1}
    assert json.dumps(mended, ensure_ascii=False) in texts(workspace)


def test_secrets_never_show_in_a_report(workspace: Workspace) -> None:
    key = "sk-abcdefghijklmnopqrstuvwx1234"
    odd = row(f"<b>Is {key} a key?</b>", f"\x07 {key} of ann@postbox.org")
    report = process(
        workspace, [*good_rows(), odd, odd, {"question": "Which?", "answer": [key, "x"]}]
    )
    assert key not in json.dumps(report.to_json()).replace("rows.jsonl", "")
    assert "ann@postbox.org" not in json.dumps(report.to_json())
    assert {"secrets", "personal_data", "html_remains", "exact_duplicates"} <= set(found(report))


def test_what_is_repeated_is_named_with_the_place_it_was_first_at(workspace: Workspace) -> None:
    rows = good_rows()
    asked = "Tell me briefly about wool jackets, please"
    rows += [rows[3], row(asked, "Another answer."), row(asked.replace("jackets", "jacket"), "No.")]
    shown = {f.kind: f.examples[0].text for f in process(workspace, rows).findings}
    assert shown["exact_duplicates"].startswith("like rows.jsonl:4: Tell me")
    assert shown["contradictory_answers"].startswith("like rows.jsonl:30: Tell me")


@pytest.mark.parametrize(
    ("question", "answer"),
    [("你好，朋友在哪里", "嗨"), ("Translate this sentence into Russian", "Я читаю эту книгу")],
)
def test_a_word_of_one_character_and_a_translation_are_no_trouble(
    question: str, answer: str
) -> None:
    example = Example((Message("user", question), Message("assistant", answer)))
    assert check_example(example, ()).troubles == ()


@pytest.mark.parametrize(
    "turns", [[("assistant", "Yes.")], [("user", "Why?"), ("assistant", "So."), ("user", "Oh?")]]
)
def test_an_example_of_any_order_of_turns_is_checked(turns: list[tuple[str, str]]) -> None:
    example = Example(tuple(Message(role, text) for role, text in turns))
    assert check_example(example, ()).example == example


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("AKIAABCDEFGHIJKLMNOP", "[secret]"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[secret]"),
        ("https://ann:geheim99@host/x", "https://[secret]@host/x"),
        ("api_key = 'a1b2c3d4e5f6'", "api_key = '[secret]'"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[secret]"),
        ("-----BEGIN PRIVATE KEY----- opens a key. - But -----", None),
        ("-----BEGIN PRIVATE KEY-----\nDEK-Info: AES-256\n\nabc", "[secret]"),
        ("aws_secret_access_key = wJalr4UtnFEMI/K7", "aws_secret_access_key = [secret]"),
        ("client_secret: 'a1b2c3d4e5f6'", "client_secret: '[secret]'"),
        ("the key to success: work hard", "the key to success: work hard"),
        ("password = getpass.getpass()", "password = getpass.getpass()"),
        ("task-based, risk-free", "task-based, risk-free"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, masked: str | None) -> None:
    assert mask_secrets(text) == (text if masked is None else masked)


def test_a_text_of_nothing_but_beginnings_is_looked_through_in_one_go() -> None:
    begin = "-----BEGIN RSA PRIVATE KEY-----"
    # each of them may look 8,000 characters ahead, which once took minutes
    assert mask_secrets(begin * 100_000) == begin * 99_999 + "[secret]"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Call +49 30 1234567 now", "Call [phone number] now"),
        ("(555) 123-4567", "[phone number]"),
        ("4111 1111 1111 1111", "[card number]"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("In 2019-2020 there were 12345678 people", "In 2019-2020 there were 12345678 people"),
        ("3.14159265358979", "3.14159265358979"),
        ("x = 10 - 2019 - 3055", "x = 10 - 2019 - 3055"),
        ("@decorator", "@decorator"),
        ("To: receiver@example.com, me@host.test", "To: receiver@example.com, me@host.test"),
        ("me@notexample.com", "[e-mail]"),
    ],
)
def test_personal_data_is_known_by_its_form(text: str, masked: str) -> None:
    assert mask_personal(text) == masked


def test_wrong_letters_are_mended_and_right_ones_kept() -> None:
    for text in ("Grüße aus Köln – „schön“, été, ½ £", "Ça va?", "Ð is a letter"):
        assert mend_wrong_encoding(text) == text
        assert mend_wrong_encoding(text.encode().decode("latin-1")) == text


def test_code_with_angle_brackets_is_no_html() -> None:
    for text in ("if a < b and b > c:", "List<String> x", "<module>", "a << 2", "x &y"):
        assert strip_html(text) == text
        checked = check_example(
            Example((Message("user", text), Message("assistant", "Yes, so."))), ()
        )
        assert checked.troubles == ()


def test_a_text_that_is_only_tags_is_not_emptied() -> None:
    example = Example((Message("user", "How do I break a line?"), Message("assistant", "<br>")))
    checked = check_example(example, ["html_remains"])
    assert checked.example == example
    assert checked.mended == ()


# ---- nearly the same


def test_questions_of_one_template_are_not_nearly_the_same(workspace: Workspace) -> None:
    rows = [
        row(f"What is the capital of the country called {s}?", f"It is {s} city.") for s in SUBJECTS
    ]
    assert found(process(workspace, rows)) == {}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Can I write my own functions in C?", "Can I write my own functions in C++?"),
        (
            "Ann has 12 apples and gives 3 of them to Bob, how many are left?",
            "Ann has 15 apples and gives 3 of them to Bob, how many are left?",
        ),
    ],
)
def test_other_numbers_or_signs_make_another_question(
    workspace: Workspace, one: str, two: str
) -> None:
    assert found(process(workspace, [*good_rows(), row(one, "First."), row(two, "Second.")])) == {}


def test_nearly_the_same_questions_share_a_split(workspace: Workspace) -> None:
    twins = [row(f"Say, {r['question'].lower()}?", "Shorter.") for r in good_rows()]
    report = process(workspace, [*good_rows(), *twins])
    assert found(report)["near_duplicates"] == len(twins)
    folder = workspace.data / "processed"
    for subject in SUBJECTS:
        holding = [n for n in report.splits if subject in (folder / f"{n}.jsonl").read_text()]
        assert len(holding) == 1, subject


def test_leaks_between_files_of_ones_own_are_found(tmp_path: Path) -> None:
    def write(name: str, *questions: str) -> Path:
        path = tmp_path / f"{name}.jsonl"
        path.write_text(
            "".join(json.dumps({"user": q, "assistant": "x"}) + "\n" for q in questions)
        )
        return path

    train = write("train", *(r["question"] for r in good_rows()))
    test = write(
        "test",
        "Something new?",
        good_rows()[2]["question"].upper(),
        "Tell me, briefly, about oak forests please!",
    )
    leaks = {
        leak.kind: leak
        for leak in find_leaks({"train": train, "val": tmp_path / "none", "test": test})
    }
    assert leaks["split_leaks"].examples[0].place == "test.jsonl:2"
    assert leaks["near_split_leaks"].examples[0].place == "test.jsonl:3"
    assert find_leaks({"train": train}) == ()


def test_every_kind_has_words_and_every_fix_says_what_it_does() -> None:
    assert all(kind.title for kind in KINDS.values())
    assert set(FIXES) == {name for name, kind in KINDS.items() if kind.fix}


def test_examining_finds_what_processing_finds(workspace: Workspace) -> None:
    report = process(workspace, [*good_rows(), good_rows()[0]])
    config = RunConfig.model_validate(
        {"data": {"raw_path": str(workspace.data / "raw" / "rows.jsonl")}}
    )
    assert examine(config, workspace).findings == report.findings

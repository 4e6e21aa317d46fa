"""Readers: every kind of file gives rows with their places, and no damage is passed over."""

import gzip
import itertools
import json
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import openpyxl
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftplay_ui.engine.data import bytes_in, columnar, json_pieces
from sftplay_ui.engine.data import rows as rows_module
from sftplay_ui.engine.data.encodings import detect_encoding
from sftplay_ui.engine.data.json_document import read_json_document
from sftplay_ui.engine.data.readers import open_source
from sftplay_ui.engine.data.rows import BrokenRow, RawRow, ReadOptions, Row
from sftplay_ui.engine.errors import DataError

PAIRS = [{"question": f"Why {n}?", "answer": f"Because {n}."} for n in range(5)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path, **options: Any) -> list[Row]:
    return list(open_source(path, ReadOptions(**options)).rows())


def values(rows: list[Row]) -> list[object]:
    return [row.value for row in rows if isinstance(row, RawRow)]


def kinds(rows: list[Row]) -> dict[str, int]:
    return dict(Counter(row.kind for row in rows if isinstance(row, BrokenRow)))


def lines_of(rows: list[Row]) -> list[int]:
    return [row.place.line for row in rows]


# ---- kinds of file


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.arrow", "a.xlsx"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = pyarrow.Table.from_pylist(PAIRS)
    match path.suffix:
        case ".json":
            write(path, json.dumps(PAIRS, indent=2))
        case ".jsonl":
            write(path, "\n".join(map(json.dumps, PAIRS)))
        case ".parquet":
            pyarrow.parquet.write_table(table, path)
        case ".arrow":
            with pyarrow.ipc.new_stream(path, table.schema) as stream:
                stream.write_table(table)
        case ".xlsx":
            book = openpyxl.Workbook()
            for cells in [list(PAIRS[0]), *(list(pair.values()) for pair in PAIRS)]:
                book.active.append(cells)
            book.save(path)
        case _:
            mark = "\t" if name.endswith("tsv") else ","
            write(
                path,
                "\n".join(mark.join(cells) for cells in [PAIRS[0], *(p.values() for p in PAIRS)]),
            )
    assert values(rows_of(path)) == PAIRS


def test_an_arrow_file_is_read_as_well_as_an_arrow_stream(tmp_path: Path) -> None:
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(PAIRS), str(tmp_path / "a.feather"))
    assert values(rows_of(tmp_path / "a.feather")) == PAIRS


@pytest.mark.parametrize(
    "document",
    [
        {"data": PAIRS},
        {"version": 1, "meta": {"by": "me"}, "rows": PAIRS, "end": True},
        {"question": [p["question"] for p in PAIRS], "answer": [p["answer"] for p in PAIRS]},
        {
            "columns": {
                "question": [p["question"] for p in PAIRS],
                "answer": [p["answer"] for p in PAIRS],
            }
        },
        {"columns": ["question", "answer"], "data": [list(p.values()) for p in PAIRS]},
        {key: {str(n): p[key] for n, p in enumerate(PAIRS)} for key in ("question", "answer")},
        {str(n): pair for n, pair in enumerate(PAIRS)},
    ],
)
def test_lists_and_columns_inside_an_object_become_rows(tmp_path: Path, document: object) -> None:
    assert values(rows_of(write(tmp_path / "a.json", json.dumps(document)))) == PAIRS


def test_one_object_is_one_row_even_with_a_list_of_turns(tmp_path: Path) -> None:
    conversation = {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    }
    assert values(rows_of(write(tmp_path / "a.json", json.dumps(conversation, indent=1)))) == [
        conversation
    ]


@pytest.mark.parametrize(
    "content",
    [
        "Q: Why?\nA: So.\nSure.\n\nQ: How?\nA: Thus.\n",
        "Question 1: Why?\nAnswer 1: So.\nSure.\nQuestion 2: How?\nAnswer 2: Thus.",
    ],
)
def test_marked_questions_and_answers_may_span_lines(tmp_path: Path, content: str) -> None:
    rows = rows_of(write(tmp_path / "a.txt", content))
    assert values(rows) == [
        {"question": "Why?", "answer": "So.\nSure."},
        {"question": "How?", "answer": "Thus."},
    ]


def test_a_question_without_an_answer_is_counted(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "a.txt", "Frage: Warum?\nAntwort: Darum.\nFrage: Wie?\n"))
    assert kinds(rows) == {"missing_answer": 1}
    assert rows[-1].place.line == 3


def test_the_content_decides_where_the_name_is_wrong(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), tmp_path / "a.csv")
    assert open_source(tmp_path / "a.csv").facts.kind == "Parquet"
    lines = write(tmp_path / "b.json", "\n".join(map(json.dumps, PAIRS)))
    assert open_source(lines).facts.kind == "JSON lines"
    assert values(rows_of(lines)) == PAIRS
    document = write(tmp_path / "c.jsonl", json.dumps(PAIRS, indent=1))
    assert values(rows_of(document)) == PAIRS


def test_gzip_is_unpacked_by_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", gzip.compress("\n".join(map(json.dumps, PAIRS)).encode()))
    source = open_source(path)
    assert "unpacked from gzip" in source.facts.notes
    assert values(list(source.rows())) == PAIRS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdf", b"%PDF-1.7 ...", "a PDF document"),
        ("a.yaml", b"- question: x", "a YAML file"),
        ("a.pkl", b"\x80\x04\x95...", "a Python pickle"),
        ("a.png", b"\x89PNG\r\n", "a picture"),
        ("a.gguf", b"GGUF....", "model weights"),
    ],
)
def test_an_unsupported_kind_is_named_with_what_is_supported(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_source(write(tmp_path / name, content))
    assert words in caught.value.what
    assert "Parquet" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "content", "words", "fix"),
    [
        ("a.zip", b"PK\x03\x04....", "a.zip is a ZIP archive: that kind", "Unpack it"),
        ("a.data", b"x" * 257 + b"ustar  \0", "is a TAR archive", "Unpack it"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office file", "Save it as XLSX"),
    ],
)
def test_what_can_be_made_readable_is_told_how(
    tmp_path: Path, name: str, content: bytes, words: str, fix: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_source(write(tmp_path / name, content))
    assert words in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b" \n\n ", "nothing but white space"),
        ("a.json", b"  ", "nothing but white space"),
        ("a.parquet", b"question,answer\n", "is not of that kind"),
        ("a.parquet", b"PAR1" + b"\0" * 50, "not a readable Parquet file"),
        ("a.xlsx", b"PK\x03\x04xl/ broken", "not a readable XLSX file"),
        ("a.json", b'{"question": ', "a.json:1"),
        ("a.jsonl.gz", gzip.compress(b"x" * 5000, mtime=0)[:-20], "damaged gzip"),
        ("a.csv", bytes(range(256)) * 40, "is not text"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert words in caught.value.what
    assert caught.value.fix


def test_folders_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "none.csv")


def test_a_gzip_bomb_is_refused_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytes_in, "BOMB_BYTES", 2**20)
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"a": "b"}\n' * 2**20))
    with pytest.raises(DataError, match="200 times its size"):
        rows_of(path)


# ---- JSON lines


def test_broken_lines_keep_their_place_kind_and_reason(tmp_path: Path) -> None:
    lines = [
        '{"a": 1}',
        '{"a": 1',
        '{"a": "cut in the',
        '{"a": 1},',
        "{'a': 1}",
        "// a comment",
        "",
        "   ",
        '{"a": 1} {"b": 2}',
        '{"a": 1, "a": 2}',
        "[" * 5000,
        '{"a": 2}',
    ]
    rows = rows_of(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert lines_of(rows) == list(range(1, 13))
    assert values(rows) == [{"a": 1}, {"a": 2}]
    assert [row.kind for row in rows if isinstance(row, BrokenRow)] == [
        "truncated_json",
        "truncated_json",
        "trailing_comma_after_object",
        "python_repr_single_quotes",
        "comment_line",
        "blank_lines",
        "blank_lines",
        "broken_json",
        "doubled_key",
        "nested_too_deep",
    ]
    assert all(row.reason for row in rows if isinstance(row, BrokenRow))


def test_what_a_repair_would_give_travels_with_the_broken_line(tmp_path: Path) -> None:
    rows = rows_of(
        write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2},\n{\'a\': 3}\n__import__("os")\n')
    )
    assert [row.mended for row in rows if isinstance(row, BrokenRow)] == [{"a": 2}, {"a": 3}, None]


def test_a_name_that_only_looks_doubled_is_no_fault(tmp_path: Path) -> None:
    value = {"a": 'say "a" twice', "b": {"a": 1}}
    assert values(rows_of(write(tmp_path / "a.jsonl", json.dumps(value) + "\n{}\n"))) == [value, {}]


def test_windows_line_ends_a_mark_and_no_last_newline_change_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, PAIRS)).encode()
    )
    assert values(rows_of(path)) == PAIRS
    assert lines_of(rows_of(path)) == [1, 2, 3, 4, 5]


def test_half_characters_are_read_and_zero_bytes_counted(tmp_path: Path) -> None:
    rows = rows_of(
        write(tmp_path / "a.jsonl", b'{"a": "\\ud83d"}\n{"a": "x\x00y"}\n' + b'{"a": "b"}\n' * 20)
    )
    assert values(rows)[:2] == [{"a": "\ud83d"}, {"a": "xy"}]
    assert [row.changes for row in rows[:3] if isinstance(row, RawRow)] == [
        (),
        ("zero_bytes_removed",),
        (),
    ]


def test_a_damaged_character_breaks_its_own_line_only(tmp_path: Path) -> None:
    content = '{"a": "é"}\n'.encode() * 20 + b'{"a": "\xff"}\n' + '{"a": "ü"}\n'.encode() * 20
    rows = rows_of(write(tmp_path / "a.jsonl", content))
    assert kinds(rows) == {"undecodable": 1}
    assert rows[20].place.line == 21


def test_an_endless_line_is_refused_with_its_place_and_the_next_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sftplay_ui.engine.data import encodings

    monkeypatch.setattr(encodings, "MAX_LINE_CHARS", 1000)
    rows = rows_of(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": "' + "x" * 5000 + '"}\n{"a": 2}\n'))
    assert kinds(rows) == {"line_too_long": 1}
    assert lines_of(rows) == [1, 2, 3]
    assert values(rows) == [{"a": 1}, {"a": 2}]


# ---- JSON documents


@pytest.mark.parametrize("chunk", [2**20, 7])
def test_a_broken_element_of_an_array_is_one_broken_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(json_pieces, "CHUNK_CHARS", chunk)
    turns = '[{"role": "user"}, {"role": "assistant"}]'
    text = (
        f'[{{"id": 1, "t": {turns}}},\n {{"id": tru, "t": {turns}}},\n {{"id": 3, "t": {turns}}}, ]'
    )
    rows = list(read_json_document(write(tmp_path / "a.json", text), "utf-8"))
    assert [value["id"] for value in values(rows) if isinstance(value, dict)] == [1, 3]
    assert kinds(rows) == {"broken_json": 2}
    assert lines_of(rows) == [1, 2, 3, 3]


def test_a_number_of_thousands_of_digits_is_a_broken_row_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text('[{"question": "a", "answer": ' + "9" * 6000 + "}]", encoding="utf-8")
    (row,) = open_source(path).rows()
    assert isinstance(row, BrokenRow)
    assert row.kind == "broken_json"
    assert "too many digits" in row.reason


@pytest.mark.parametrize("text", ["[1, 2", '[{"a": "x', '[{"a": [1, 2'])
def test_an_array_that_is_cut_says_so(tmp_path: Path, text: str) -> None:
    rows = list(read_json_document(write(tmp_path / "a.json", text), "utf-8"))
    assert kinds(rows) == {"truncated_json": 1}


def test_the_rows_of_an_array_in_one_line_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps([*PAIRS]))
    assert lines_of(rows_of(path)) == [1, 2, 3, 4, 5]
    path = write(tmp_path / "a.json", json.dumps([*PAIRS], indent=1))
    assert lines_of(rows_of(path)) == [2, 6, 10, 14, 18]


def test_a_big_array_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    row = json.dumps({"question": "Why?", "answer": "x" * 1000})
    path.write_text("[" + ",\n".join([row] * 20_000) + "]")
    tracemalloc.start()
    try:
        assert sum(1 for _ in open_source(path).rows()) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=8), st.text(max_size=20) | st.integers() | st.none(), max_size=4
        ),
        max_size=6,
    ),
    st.integers(1, 40),
)
def test_any_array_of_objects_is_read_back(
    tmp_path: Path, rows: list[dict[str, object]], chunk: int
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "CHUNK_CHARS", chunk)
        assert values(list(read_json_document(path, "utf-8"))) == rows


# ---- tables


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_gives_even_columns(tmp_path: Path, mark: str) -> None:
    rows = [
        ["question", "answer"],
        *([f"Why, or {n}; how?", "Well, so: yes; no"] for n in range(20)),
    ]
    text = "\n".join(mark.join(f'"{cell}"' for cell in row) for row in rows)
    source = open_source(write(tmp_path / "a.csv", text))
    assert source.facts.delimiter == mark
    assert source.facts.columns == ("question", "answer")
    assert len(values(list(source.rows()))) == 20


def test_commas_in_prose_do_not_win_over_semicolons(tmp_path: Path) -> None:
    text = "Frage;Antwort\nWas, wer, wie?;Ja, nein, doch\nWann?;Nie, oder\nWo?;Da\n"
    assert open_source(write(tmp_path / "a.csv", text)).facts.delimiter == ";"


def test_quoted_cells_keep_line_breaks_and_quotes(tmp_path: Path) -> None:
    text = 'question,answer\r\n"Why?","one\r\ntwo ""three"", four"\r\n"How?",so\r\n'
    rows = rows_of(write(tmp_path / "a.csv", text))
    assert values(rows) == [
        {"question": "Why?", "answer": 'one\ntwo "three", four'},
        {"question": "How?", "answer": "so"},
    ]
    assert lines_of(rows) == [2, 4]


def test_a_quote_that_is_never_closed_costs_one_row_only(tmp_path: Path) -> None:
    text = 'question,answer\nWhy?,"never closed\nHow?,so\nWhen?,"now"\nWho?,me\n'
    rows = rows_of(write(tmp_path / "a.csv", text))
    assert kinds(rows) == {"broken_row": 1}
    assert [row.place.line for row in rows if isinstance(row, BrokenRow)] == [2]
    assert [value["question"] for value in values(rows) if isinstance(value, dict)] == [
        "How?",
        "When?",
        "Who?",
    ]


def test_lines_above_the_header_and_uneven_rows_are_counted(tmp_path: Path) -> None:
    text = "Export of 2024\n\nquestion,answer\nWhy?,So\nHow?,so,and so\nWhen?\nWho?,Me\n"
    rows = rows_of(write(tmp_path / "a.csv", text))
    assert kinds(rows) == {"above_header": 1, "blank_lines": 1, "wrong_column_count": 2}
    assert len(values(rows)) == 2


def test_a_table_without_a_header_keeps_its_first_row(tmp_path: Path) -> None:
    text = "What is the capital of Peru?,Lima\nWhat is the capital of Chad?,N'Djamena\n"
    source = open_source(write(tmp_path / "a.csv", text))
    assert source.facts.header is False
    assert values(list(source.rows()))[0] == {
        "column_1": "What is the capital of Peru?",
        "column_2": "Lima",
    }


def test_the_header_can_be_set_by_the_person(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Paris,France\nRome,Italy\n")
    assert open_source(path, ReadOptions(header=True)).facts.columns == ("Paris", "France")
    assert len(rows_of(path, header=False)) == 2


def test_two_columns_of_one_name_are_told_apart_and_noted(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", "question,answer,answer\na,b,c\n"))
    assert source.facts.columns == ("question", "answer", "answer_2")
    assert "answer_2" in source.facts.notes[0]


def test_the_delimiter_excel_names_is_believed(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", "sep=|\nquestion|answer\nWhy?|So\n"))
    assert source.facts.delimiter == "|"
    assert values(list(source.rows())) == [{"question": "Why?", "answer": "So"}]


@pytest.mark.parametrize("wanted", [",,", '"', "\n"])
def test_a_delimiter_that_cannot_be_one_is_refused(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(DataError, match="cannot separate columns"):
        open_source(write(tmp_path / "a.csv", "a,b\n1,2\n"), ReadOptions(delimiter=wanted))


# ---- sheets


def test_a_sheet_is_chosen_by_name_and_formulas_are_text(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["nothing", "here"])
    sheet = book.create_sheet("Fragen")
    for cells in [["Frage", "Antwort"], ["1 + 1?", "=1+1"], [None, None], ["Wann?", 7]]:
        sheet.append(cells)
    book.save(tmp_path / "a.xlsx")
    source = open_source(tmp_path / "a.xlsx", ReadOptions(sheet="Fragen"))
    rows = list(source.rows())
    assert source.facts.sheets == ("Sheet", "Fragen")
    assert values(rows) == [
        {"Frage": "1 + 1?", "Antwort": "=1+1"},
        {"Frage": "Wann?", "Antwort": 7},
    ]
    assert kinds(rows) == {"blank_lines": 1}
    with pytest.raises(DataError, match='no sheet "Other"'):
        open_source(tmp_path / "a.xlsx", ReadOptions(sheet="Other"))


def test_formatted_cells_below_the_last_row_are_no_rows(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cells in [["Frage", "Antwort"], ["Wann?", "Nie"]]:
        book.active.append(cells)
    book.active["A500"].number_format = "0.00"
    book.save(tmp_path / "a.xlsx")
    assert values(rows_of(tmp_path / "a.xlsx")) == [{"Frage": "Wann?", "Antwort": "Nie"}]
    assert kinds(rows_of(tmp_path / "a.xlsx")) == {}


# ---- encodings

PROSE = {
    "Russian": "Сколько стоит этот дом? Я думаю, что он очень дорогой и большой",
    "Japanese": "日本の首都はどこですか？東京です。これはテストの文章です",
    "Korean": "대한민국의 수도는 어디입니까? 서울입니다 여기는 한국입니다",
    "Chinese": "中国的首都是哪里？北京。这是一个测试句子，用来检查编码",
    "Polish": "Zażółć gęślą jaźń? Warszawa jest największym miastem w Polsce, leży nad Wisłą",
    "Greek": "Ποια είναι η πρωτεύουσα της Ελλάδας; Η Αθήνα είναι η πρωτεύουσα",
    "Hebrew": "מהי בירת ישראל? ירושלים היא הבירה של המדינה",
    "Turkish": "Türkiye'nin başkenti neresidir? Ankara'dır, çünkü öyle söylenmiş, İstanbul değil",
    "French": "Où est la bibliothèque? C'est l'été à Paris, près de l'hôtel où j'étais",
}


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        ("Russian", "cp1251"),
        ("Russian", "koi8_r"),
        ("Russian", "utf-16-le"),
        ("Russian", "utf-32-be"),
        ("Japanese", "cp932"),
        ("Japanese", "euc_jp"),
        ("Japanese", "utf-16-be"),
        ("Korean", "euc_kr"),
        ("Chinese", "gb18030"),
        ("Chinese", "utf-16-le"),
        ("Polish", "cp1250"),
        ("Greek", "cp1253"),
        ("Hebrew", "cp1255"),
        ("French", "cp1252"),
        ("Turkish", "cp1254"),
        ("French", "utf-16"),
        ("French", "utf-8-sig"),
    ],
)
def test_the_encoding_is_found_by_the_text(tmp_path: Path, language: str, encoding: str) -> None:
    text = "question\tanswer\n" + f"{PROSE[language]}\tx\n" * 20
    rows = rows_of(write(tmp_path / "a.tsv", text.encode(encoding)))
    assert values(rows) == [{"question": PROSE[language], "answer": "x"}] * 20


def test_the_person_may_choose_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", f"question\tanswer\n{PROSE['Russian']}\tx\n".encode("koi8_r"))
    assert values(rows_of(path, encoding="koi8_r")) == [
        {"question": PROSE["Russian"], "answer": "x"}
    ]
    with pytest.raises(DataError, match='"klingon" is no text encoding'):
        rows_of(path, encoding="klingon")
    with pytest.raises(DataError, match='"zip" is no text encoding'):
        rows_of(path, encoding="zip")


def test_a_guess_says_why(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f"question,answer\n{PROSE['French']};x\n".encode("cp1252"))
    assert "check the preview" in detect_encoding(path).reason


# ---- files that lie about themselves


def sheet_of(path: Path, rows: str) -> Path:
    """Write a workbook whose only sheet holds these rows of XML."""
    openpyxl.Workbook().save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    sheet = f'<worksheet xmlns="{name}">{rows}</worksheet>'
    parts["xl/worksheets/sheet1.xml"] = sheet.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return path


def cell(name: str, text: str) -> str:
    return f'<c r="{name}" t="inlineStr"><is><t>{text}</t></is></c>'


HEAD_CELLS = cell("A1", "question") + cell("B1", "answer")


def test_an_arrow_file_whose_offsets_point_outside_is_refused_and_ends_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.arrow"
    table = pyarrow.table({"question": ["hello", "again"], "answer": ["a", "b"]})
    with pyarrow.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    content, offsets = path.read_bytes(), numpy.array([0, 5, 10], "<i4").tobytes()
    assert offsets in content
    path.write_bytes(content.replace(offsets, numpy.array([0, 5, 1 << 26], "<i4").tobytes()))
    with pytest.raises(DataError, match="out of bounds"):
        rows_of(path)


@pytest.mark.parametrize("part", ["[Content_Types].xml", "xl/theme/theme1.xml"])
def test_a_workbook_with_a_damaged_part_is_refused_in_words(tmp_path: Path, part: str) -> None:
    path = sheet_of(tmp_path / "a.xlsx", "<sheetData/>")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo(part).header_offset + 30 + len(part)
    content[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable XLSX file"):
        rows_of(path)


def test_what_a_sheet_says_of_its_size_makes_no_columns_and_no_rows(tmp_path: Path) -> None:
    size = '<dimension ref="A1:XFD1048576"/>'
    rows = f'<row r="1">{HEAD_CELLS}</row><row r="2">{cell("A2", "Why?")}{cell("B2", "So.")}</row>'
    path = sheet_of(tmp_path / "a.xlsx", f"{size}<sheetData>{rows}</sheetData>")
    source = open_source(path)
    assert source.facts.columns == ("question", "answer")
    assert values(list(itertools.islice(source.rows(), 1))) == [
        {"question": "Why?", "answer": "So."}
    ]


def test_a_row_far_below_what_a_sheet_can_hold_is_not_waited_for(tmp_path: Path) -> None:
    far = f'<row r="2000000000">{cell("A2000000000", "Why?")}</row>'
    rows = f'<sheetData><row r="1">{HEAD_CELLS}</row>{far}</sheetData>'
    assert rows_of(sheet_of(tmp_path / "a.xlsx", rows)) == []


def test_a_row_of_endless_cells_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "SCANNED_BYTES", 1000)
    rows = f"<sheetData><row>{'<c/>' * 20_000}</row></sheetData>"
    with pytest.raises(DataError, match="a row of more than 16,384 cells"):
        open_source(sheet_of(tmp_path / "a.xlsx", rows))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_text_packed_once_for_many_rows_is_not_unpacked_for_all(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 500, "int32"), ["x" * 2**20])
    table = pyarrow.table({"question": texts, "answer": ["because"] * 500})
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        pyarrow.feather.write_feather(table, path)
    with pytest.raises(DataError, match="unpacks to more than"):
        rows_of(path)


def test_rows_too_big_to_be_made_at_once_are_made_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "MAX_BATCH_BYTES", 5000)
    turns = [{"role": "user", "content": "x" * size} for size in (10, 1000, 4000, 6000, 20)]
    table = pyarrow.Table.from_pylist([{"messages": [turn]} for turn in turns])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet")
    assert lines_of(rows) == [1, 2, 3, 4, 5]
    assert kinds(rows) == {"line_too_long": 1}
    assert [row["messages"] for row in values(rows)] == [[t] for t in turns if t is not turns[3]]


def test_a_key_that_stands_twice_is_found_among_many(tmp_path: Path) -> None:
    keys = ",".join(f'"c{n}": "c{n}"' for n in range(100))
    path = write(tmp_path / "a.jsonl", f'{{{keys}}}\n{{{keys}, "c7": 1}}\n')
    assert kinds(rows_of(path)) == {"doubled_key": 1}


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_a_table_of_endless_columns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(rows_module, "MAX_COLUMNS", 20)
    path = tmp_path / f"a.{kind}"
    table = pyarrow.table({f"c{n}": ["x"] for n in range(30)})
    match kind:
        case "csv":
            write(path, ",".join(table.column_names) + "\n" + ",".join("x" * 30) + "\n")
        case "parquet":
            pyarrow.parquet.write_table(table, path)
        case _:
            pyarrow.feather.write_feather(table, path)
    with pytest.raises(DataError, match="has 30 columns; more than 20 are not read"):
        open_source(path)


# ---- anything at all


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=400)
    | st.text(alphabet='{}[]",:\n\r\t;|\\ab1é中\0=Q', max_size=300).map(str.encode),
    name=st.sampled_from(
        [
            "a.json",
            "a.jsonl",
            "a.csv",
            "a.tsv",
            "a.txt",
            "a",
            "a.parquet",
            "a.xlsx",
            "a.arrow",
            "a.csv.gz",
        ]
    ),
)
def test_any_bytes_are_read_or_refused_in_words(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    try:
        rows = rows_of(path)
    except DataError as error:
        assert error.what and error.fix
    else:
        assert all(row.place.line >= 1 for row in rows)
        assert lines_of(rows) == sorted(lines_of(rows))


def test_damaged_files_of_every_kind_are_read_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits on memory are set as Linux and macOS do it")
    from benchmarks import fuzz_readers

    known = fuzz_readers.seeds([])
    for number in range(40):
        name, content = fuzz_readers.make_case(number, known)
        assert fuzz_readers.try_case(write(tmp_path / f"{number}-{name}", content)) == ""

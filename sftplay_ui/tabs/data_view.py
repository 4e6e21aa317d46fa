"""Data's pictures as HTML: facts of a file, a preview, what the doctor found, report, lengths."""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from sftplay_ui.engine.data.convert import Rejected
from sftplay_ui.engine.data.examples import Message, RenderedExample
from sftplay_ui.engine.data.findings import KINDS, Finding
from sftplay_ui.engine.data.marks import EDITED, MARKS
from sftplay_ui.engine.data.process import Examination
from sftplay_ui.engine.data.report import ProcessReport, describe
from sftplay_ui.engine.data.table import TableRow
from sftplay_ui.engine.data.tally import Occurrence
from sftplay_ui.tabs.data_files import Looks, PreviewRow
from sftplay_ui.tabs.markup import Figure, bytes_text, empty, escape, figures, note, table
from sftplay_ui.tabs.style_view import turn

EMPTY = empty(
    "Bring your questions and answers",
    "Drop files above, paste text, or press Use the sample. "
    "JSON, JSONL, CSV, TSV, Parquet and Excel files are read, whatever their columns are called.",
)
TRY_IT = (
    "<strong>New here?</strong><p class='muted'>Try it now walks 210 bundled trivia questions "
    "through all of it: a small model is trained, asked what it learned, and opened for a chat. "
    "A few minutes on a CPU; the first time, about 100 MB are fetched.</p>"
)
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
SPLIT_TITLES = {"train": "Train", "val": "Validation", "test": "Test"}
DEMO = (
    "These are the trivia questions that Try it now learned from. Process a file of your own, and "
    "its examples stand here."
)
SHOWN = 3
CELL_CHARS = 2_000
ICON = "<svg viewBox='0 0 16 16' aria-hidden='true'><path d='{}'/></svg>"
PENCIL = ICON.format("M2.5 13.5l.8-3.2 7.6-7.6 2.4 2.4-7.6 7.6zM9.6 4l2.4 2.4")
BIN = ICON.format("M3 4.5h10M6.5 4V2.5h3V4M4.5 4.5l.6 9h5.8l.6-9M6.7 7v4M9.3 7v4")
BARS = 28


def facts_board(looks: Looks, rows: int | None) -> str:
    """Show what was found out about the files, with the reason of each guess."""
    facts, guess = looks.first.facts, looks.first.guess
    size = bytes_text(sum(look.facts.size_bytes for look in looks.each))
    counted = Figure("Rows", "counting" if rows is None else f"{rows:,}", size)
    if len(looks.each) > 1:
        shapes = {look.guess.shape for look in looks.each}
        cells = [counted, Figure("Files", f"{len(looks.each):,}", ", ".join(sorted(shapes)))]
        return figures(cells) + files_table(looks) + told_of(looks)
    delimiter = DELIMITERS.get(facts.delimiter or "", facts.delimiter or "")
    cells = [
        counted,
        Figure("Kind", facts.kind, f"cut at each {delimiter}" if delimiter else ""),
        Figure("Encoding", facts.encoding or "binary", facts.encoding_reason),
        Figure("Shape", guess.shape, f"confidence: {guess.confidence}"),
    ]
    return figures(cells) + told_of(looks)


def files_table(looks: Looks) -> str:
    """List several files: how each is read, and what its columns are taken for."""
    lines = [
        (
            escape(look.name),
            escape(", ".join(filter(None, [look.facts.kind, look.facts.encoding]))),
            escape(", ".join(f"{role}: {column}" for role, column in look.guess.columns.items())),
            escape(look.guess.confidence),
        )
        for look in looks.each
    ]
    return table(("File", "Read as", "Columns", "Confidence"), lines, label="Chosen files")


def told_of(looks: Looks) -> str:
    """Say why the columns were guessed so, and what is odd about the files."""
    notes = [(look, said) for look in looks.each for said in look.facts.notes]
    several = len(looks.each) > 1
    lines = "".join(
        f"<li>{escape(f'{look.name}: ' if several else '')}{escape(said)}</li>"
        for look, said in notes
    )
    unclear = [look for look in looks.each if not look.guess.is_usable]
    if unclear:
        place = f" of {unclear[0].name}" if several else ""
        reason = note(f"Please choose the columns{place}: {unclear[0].guess.reason}.")
    elif several and not looks.agree:
        reason = note("The files differ, so each is read by its own columns.")
    else:
        reason = f"<p class='muted'>Guessed because {escape(looks.first.guess.reason)}.</p>"
    return reason + (f"<ul class='warns'>{lines}</ul>" if lines else "")


def preview_board(files: Sequence[Sequence[PreviewRow]]) -> str:
    """Show the first rows of every file as the examples they become."""
    if not files:
        return note("Choose a column for the question and one for the answer to see the examples.")
    good = [[row for row in rows if not isinstance(row.result, Rejected)] for rows in files]
    # one of each file before a second of the first
    turns = [row for level in itertools.zip_longest(*good) for row in level if row is not None]
    bad = [row for rows in files for row in rows if isinstance(row.result, Rejected)]
    shown = turns[: max(SHOWN, min(len(files), 2 * SHOWN))]
    parts = [preview_card(row) for row in [*shown, *bad[:2]]]
    return f"<div class='previews'>{''.join(parts)}</div>"


def preview_card(row: PreviewRow) -> str:
    """Show one row: its turns, or why it is left out."""
    place = f"<span class='place'>{escape(row.place)}</span>"
    if isinstance(row.result, Rejected):
        reason = f"<p class='bad'>{escape(row.result.reason)}</p>"
        return f"<article class='example'>{place}{reason}</article>"
    first = row.result.examples[0]
    body = "".join(turn(m.role, m.content, escape(m.content)) for m in first.messages)
    more = len(row.result.examples) - 1
    rest = f"<small>and {more} more from this row</small>" if more else ""
    return f"<article class='example'>{place}{body}{rest}</article>"


def doctor_board(exam: Examination, chosen: Collection[str], why_not: str) -> str:
    """Show what the doctor found, each with its switch and places; then what cannot be used."""
    uncounted = f"<p class='muted'>{escape(why_not)}</p>" if why_not else ""
    if not exam.findings and not exam.dropped and not exam.changed:
        return note(f"Nothing to complain about: {exam.found:,} examples.", "good") + uncounted
    words = "Switch on what is to be mended; your file stays as it is." if exam.findings else ""
    head = f"<p class='muted'>{exam.found:,} examples in {exam.rows:,} rows. {words}</p>"
    found = [finding_line(f, switch(f, f.kind in chosen)) for f in exam.findings]
    lost = counted(exam.dropped, exam.examples, "left out")
    lost += counted(exam.changed, exam.examples, "changed")
    return head + group("", found) + group("Rows left out or changed", lost, "lost") + uncounted


def group(title: str, parts: Sequence[str], kind: str = "") -> str:
    """Put lines of findings together; nothing where there are none."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<div class='findings {kind}'>{head}{''.join(parts)}</div>" if parts else ""


def switch(finding: Finding, is_on: bool) -> str:
    """Offer the fix of a finding as a switch; what nobody can mend has none."""
    if not finding.fix:
        return ""
    label = f"{finding.title}: {finding.fix}"
    return (
        f"<label class='switch'><input type='checkbox' role='switch' data-fix='{finding.kind}' "
        f"aria-label='{escape(label)}'{' checked' if is_on else ''}><span>Mend</span></label>"
    )


def finding_line(finding: Finding, mark: str = "", *, shows_rows: bool = False) -> str:
    """Show one finding; what its fix does and its cases unfold."""
    if finding.fixed:
        mark += "<span class='pill good'>mended</span>"
    elif shows_rows and finding.kind in MARKS:
        label = f"Show the rows: {finding.title}"
        mark += (
            f"<button type='button' class='link' data-kind='{finding.kind}' "
            f"aria-label='{escape(label)}'>Show rows</button>"
        )
    return case_list(finding.title, finding.count, finding.examples, mark, finding.fix)


def counted(
    counts: Mapping[str, int], examples: Mapping[str, Sequence[Occurrence]], what: str
) -> list[str]:
    """Show kinds of dropped or changed rows, the commonest first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    mark = f"<span class='pill'>{escape(what)}</span>"
    return [case_list(describe(k), n, examples.get(k, ()), mark) for k, n in ranked]


def case_list(title: str, count: int, cases: Iterable[Occurrence], mark: str, fix: str = "") -> str:
    """Show a kind with its count; where it was seen unfolds."""
    lines = "".join(
        f"<li><span class='place'>{escape(case.place)}</span> {escape(case.text)}</li>"
        for case in cases
    )
    mends = f"<p><b>The fix:</b> {escape(fix)}</p>" if fix else ""
    return (
        f"<div class='finding'><details><summary><b>{count:,}</b> {escape(title)}</summary>"
        f"{mends}<ul>{lines}</ul></details>{mark}</div>"
    )


def rows_board(rows: Sequence[TableRow], split: str, *, editable: bool) -> str:
    """Show rows of a processed file as a table whose texts can be edited in place."""
    if not rows:
        return empty("No rows", "Nothing in this split fits the search and the filter.")
    body = "".join(row_line(row, editable=editable) for row in rows)
    heads = "<th scope='col'>Row</th><th scope='col'>Question</th><th scope='col'>Answer</th>"
    tools = "<th scope='col'><span class='sr-only'>Delete</span></th>" if editable else ""
    return (
        f"<table class='table stacked rows' data-split='{escape(split)}'>"
        f"<thead><tr>{heads}{tools}</tr></thead><tbody>{body}</tbody></table>"
    )


def row_line(row: TableRow, *, editable: bool) -> str:
    """Show one row: what was asked, the last answer, and what the doctor found in it."""
    number = f"{row.row + 1:,}"
    if isinstance(row.example, RenderedExample):
        texts = [Message("input", row.example.input), Message("target", row.example.target)]
    else:
        texts = [*row.example.messages]
    answer = max(n for n, text in enumerate(texts) if text.role in ("assistant", "target"))
    plain = len([text for text in texts if text.role != "system"]) == 2
    cells = ["", ""]
    for n, text in enumerate(texts):
        role = "" if plain and text.role != "system" else text.role
        cells[n >= answer] += cell_box(text.content, n, role, number if editable else "")
    found = "".join(f"<li>{escape(kind_title(kind))}</li>" for kind in row.kinds)
    tools = (
        "<td class='row-tools'><button type='button' class='icon' data-do='delete' "
        f"title='Delete row {number}' aria-label='Delete row {number}'>{BIN}</button></td>"
    )
    return (
        f"<tr data-row='{row.row}' data-name='{row.name}'>"
        f"<td data-label='Row'><span class='place'>{number}</span></td>"
        f"<td data-label='Question'>{cells[0]}</td>"
        f"<td data-label='Answer'>{cells[1]}"
        f"{f'<ul class=tags>{found}</ul>' if found else ''}</td>{tools if editable else ''}</tr>"
    )


def cell_box(text: str, turn: int, role: str, row: str) -> str:
    """Show the text of one turn; its pencil (where a row is named) opens it for editing."""
    name = f"<small>{escape(role)}</small>" if role else ""
    shown = escape(text[:CELL_CHARS])
    if len(text) > CELL_CHARS:
        shown += f"<small>and {len(text) - CELL_CHARS:,} more characters</small>"
    label = f"Edit {role or ('answer' if turn else 'question')} of row {row}"
    pencil = (
        f"<button type='button' class='icon' data-do='edit' title='{escape(label)}' "
        f"aria-label='{escape(label)}'>{PENCIL}</button>"
    )
    return (
        f"<div class='cell' data-turn='{turn}'>{name}<div class='cell-text' dir='auto'>{shown}"
        f"</div>{pencil if row else ''}</div>"
    )


def kind_title(kind: str) -> str:
    """Name a finding of a row."""
    return "Edited by hand" if kind == EDITED else KINDS[kind].title


def report_board(report: ProcessReport, sizes: Mapping[str, int], *, demo: bool) -> str:
    """Show what became of the rows; `sizes` are the splits as they are now, edits and all."""
    dropped = sum(report.dropped.values())
    left = "each with its reason" if dropped else "none"
    cells = [Figure("Examples", f"{sum(sizes.values()):,}", f"of {report.rows:,} rows")]
    cells.append(Figure("Left out", f"{dropped:,}", left))
    if (tokens := report.tokens) is not None:
        lose = f"{tokens.cut_answers:,} answers lose their end"
        cells.append(Figure("Tokens learned", f"{tokens.learned:,}", lose))
    for split, title in SPLIT_TITLES.items():
        cells.append(Figure(title, f"{sizes.get(split, 0):,}", report.paths.get(split, "")))
    found = [finding_line(finding, shows_rows=True) for finding in report.findings]
    lost = counted(report.dropped, report.examples, "left out")
    lost += counted(report.changed, report.examples, "changed")
    said = "".join(f"<li>{escape(one)}</li>" for one in report.notes)
    notes = f"<ul class='warns'>{said}</ul>" if said else ""
    account = group("Found in the examples", found) + group(
        "Rows left out or changed", lost, "lost"
    )
    return (note(DEMO) if demo else "") + figures(cells) + notes + account


def card_board(report: ProcessReport, path: str) -> str:
    """Show the data card: what the set is, where it is from, under which licence."""
    lengths = report.lengths
    scripts = ", ".join(f"{name} {count:,}" for name, count in report.scripts.items())
    facts = {
        "Licence": report.licence or "not named",
        "Tokens": tokens_text(report),
        "Writing of the answers": scripts or "none",
        "Length in characters": f"median {lengths.median:,}, nine of ten up to {lengths.p90:,}, "
        f"longest {lengths.longest:,}",
        "Seed of the split": str(report.seed),
        "Mended": ", ".join(KINDS[kind].title for kind in report.fixes) or "nothing",
    }
    for source in report.sources:
        read = ", ".join(filter(None, [source.kind, source.encoding, f"{source.rows:,} rows"]))
        facts[source.path] = f"{read}; sha256 {source.sha256[:16]}"
    lines = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    where = f"<p class='muted'>All of it in {escape(path)}.</p>"
    return f"<dl class='facts'>{lines}</dl>{where}"


def tokens_text(report: ProcessReport) -> str:
    """Word how many tokens there are to learn from."""
    if (tokens := report.tokens) is None:
        return "not counted"
    return (
        f"{tokens.total:,}, {tokens.learned:,} of them learned; {tokens.cut_answers:,} answers "
        "lose their end"
    )


def histogram(lengths: Sequence[int], limit: int, model: str = "") -> str:
    """Draw how long the examples are in tokens; what is beyond the limit is marked."""
    if not lengths:
        return ""
    longest = max(lengths)
    width = max(1, -(-(longest + 1) // BARS))
    counts = [0] * (longest // width + 1)
    for length in lengths:
        counts[length // width] += 1
    highest = max(counts)
    bars = "".join(
        f"<i class='{'over' if n * width >= limit else ''}' style='height:{100 * c / highest:.1f}%'"
        f" title='{n * width} to {(n + 1) * width - 1} tokens: {c} examples'></i>"
        for n, c in enumerate(counts)
    )
    end = len(counts) * width
    mark = f"<b class='limit' style='left:{100 * limit / end:.1f}%'><span>{limit:,}</span></b>"
    bars += mark if limit < end else ""
    ranked = sorted(lengths)
    over = sum(length > limit for length in lengths)
    cut = (
        f"{over:,} longer than {limit:,}, whose ends are cut off."
        if over
        else (f"none longer than {limit:,}, so nothing is cut off.")
    )
    words = (
        f"{len(lengths):,} training examples, median {ranked[len(ranked) // 2]:,} tokens, "
        f"longest {longest:,}; {cut}"
    )
    counted_with = f" Counted with the tokenizer of {model}." if model else ""
    return (
        f"<figure class='histogram'><small>{highest:,} examples</small>"
        f"<div role='img' aria-label='{escape(words)}'>{bars}</div>"
        f"<figcaption><span>0</span><span>{longest // 2:,}</span><span>{longest:,} tokens</span>"
        f"</figcaption><p class='muted'>{escape(words + counted_with)}</p></figure>"
    )

"""Data's pictures as HTML: facts of a file, a preview, what the doctor found, report, lengths."""

from collections.abc import Iterable, Mapping, Sequence

from sftplay_ui.engine.data.convert import Rejected
from sftplay_ui.engine.data.findings import Finding
from sftplay_ui.engine.data.process import Examination
from sftplay_ui.engine.data.report import ProcessReport, describe
from sftplay_ui.engine.data.tally import Occurrence
from sftplay_ui.tabs.data_files import Look, PreviewRow
from sftplay_ui.tabs.markup import Figure, bytes_text, empty, escape, figures, note
from sftplay_ui.tabs.style_view import turn

EMPTY = empty(
    "Bring your questions and answers",
    "Drop a file above, paste text, or press Use the sample. "
    "JSON, JSONL, CSV, TSV, Parquet and Excel files are read, whatever their columns are called.",
)
TRY_IT = (
    "<strong>New here?</strong><p class='muted'>Try it now walks 210 bundled trivia questions "
    "through all of it: a small model is trained, asked what it learned, and opened for a chat. "
    "A few minutes on a CPU; the first time, about 100 MB are fetched.</p>"
)
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
SHOWN = 3
BARS = 28


def facts_board(look: Look, rows: int | None) -> str:
    """Show what was found out about a file, with the reason of the guess."""
    facts, guess = look.facts, look.guess
    delimiter = DELIMITERS.get(facts.delimiter or "", facts.delimiter or "")
    cells = [
        Figure("Rows", "counting" if rows is None else f"{rows:,}", bytes_text(facts.size_bytes)),
        Figure("Kind", facts.kind, f"cut at each {delimiter}" if delimiter else ""),
        Figure("Encoding", facts.encoding or "binary", facts.encoding_reason),
        Figure("Shape", guess.shape, f"confidence: {guess.confidence}"),
    ]
    said = "".join(f"<li>{escape(one)}</li>" for one in facts.notes)
    reason = f"<p class='muted'>Guessed because {escape(guess.reason)}.</p>"
    if not guess.is_usable:
        reason = note(f"Please choose the columns: {guess.reason}.")
    return figures(cells) + reason + (f"<ul class='warns'>{said}</ul>" if said else "")


def preview_board(rows: Sequence[PreviewRow]) -> str:
    """Show the first rows as the examples they become."""
    if not rows:
        return note("Choose a column for the question and one for the answer to see the examples.")
    good = [row for row in rows if not isinstance(row.result, Rejected)]
    bad = [row for row in rows if isinstance(row.result, Rejected)]
    parts = [preview_card(row) for row in [*good[:SHOWN], *bad[:2]]]
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


def doctor_board(exam: Examination) -> str:
    """Show what the doctor found, by kind, with places; then the rows that cannot be used."""
    if not exam.findings and not exam.dropped and not exam.changed:
        return note(f"Nothing to complain about: {exam.found:,} examples.", "good")
    parts = [finding_line(finding) for finding in exam.findings]
    parts += counted(exam.dropped, exam.examples, "left out")
    parts += counted(exam.changed, exam.examples, "changed")
    head = f"<p class='muted'>{exam.found:,} examples in {exam.rows:,} rows.</p>"
    return f"{head}<div class='findings'>{''.join(parts)}</div>"


def finding_line(finding: Finding) -> str:
    """Show one finding; its cases unfold."""
    fixed = "<span class='pill good'>mended</span>" if finding.fixed else ""
    return case_list(finding.title, finding.count, finding.examples, fixed)


def counted(
    counts: Mapping[str, int], examples: Mapping[str, Sequence[Occurrence]], what: str
) -> list[str]:
    """Show kinds of dropped or changed rows, the commonest first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    mark = f"<span class='pill'>{escape(what)}</span>"
    return [case_list(describe(k), n, examples.get(k, ()), mark) for k, n in ranked]


def case_list(title: str, count: int, cases: Iterable[Occurrence], mark: str) -> str:
    """Show a kind with its count; where it was seen unfolds."""
    lines = "".join(
        f"<li><span class='place'>{escape(case.place)}</span> {escape(case.text)}</li>"
        for case in cases
    )
    return (
        f"<details><summary><b>{count:,}</b> {escape(title)} {mark}</summary>"
        f"<ul>{lines}</ul></details>"
    )


def report_board(report: ProcessReport) -> str:
    """Show what became of the rows."""
    splits = report.splits
    dropped = sum(report.dropped.values())
    cells = [
        Figure("Examples written", f"{report.kept:,}", f"of {report.rows:,} rows"),
        Figure("Left out", f"{dropped:,}", "each with its reason" if dropped else "none"),
        Figure("Train", f"{splits.get('train', 0):,}", report.paths.get("train", "")),
        Figure("Validation", f"{splits.get('val', 0):,}", report.paths.get("val", "")),
        Figure("Test", f"{splits.get('test', 0):,}", report.paths.get("test", "")),
    ]
    parts = [finding_line(finding) for finding in report.findings]
    parts += counted(report.dropped, report.examples, "left out")
    parts += counted(report.changed, report.examples, "changed")
    return figures(cells) + (f"<div class='findings'>{''.join(parts)}</div>" if parts else "")


def histogram(lengths: Sequence[int], limit: int) -> str:
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
    ranked = sorted(lengths)
    over = sum(length > limit for length in lengths)
    words = (
        f"{len(lengths):,} training examples, median {ranked[len(ranked) // 2]:,} tokens, "
        f"longest {longest:,}; {over:,} longer than {limit:,}, whose ends are cut off."
    )
    return (
        f"<figure class='histogram'><div role='img' aria-label='{escape(words)}'>{bars}</div>"
        f"<figcaption><span>0</span><span>{longest:,} tokens</span></figcaption>"
        f"<p class='muted'>{escape(words)}</p></figure>"
    )

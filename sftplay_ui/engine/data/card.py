"""The data card: what a set of examples is, where it is from, under which licence, on one page."""

from sftplay_ui.engine.data.report import ProcessReport, describe


def data_card(report: ProcessReport) -> str:
    """Write the card of a processed set as Markdown; nothing of the data itself is quoted."""
    lines = ["# Data card", ""]
    lines += [f"* {name}: {count:,} examples" for name, count in report.splits.items()]
    lengths = report.lengths
    lines += [
        f"* Length in characters: median {lengths.median:,}, nine of ten up to {lengths.p90:,}, "
        f"longest {lengths.longest:,}",
        *_token_lines(report),
        f"* Languages of the answers, by script: {_counted(report.scripts)}",
        f"* Repeated before any fix: {_repeated(report)}",
        f"* Licence: {report.licence or 'not named'}",
        f"* Split by question with seed {report.seed}; the same question is never in two splits",
        "",
        "## Sources",
        "",
    ]
    for source in report.sources:
        columns = ", ".join(f"{role} = {column}" for role, column in source.columns.items())
        facts = ", ".join(filter(None, [source.kind, source.encoding, f"{source.rows:,} rows"]))
        lines += [f"* `{source.path}` ({facts}; {columns}; sha256 `{source.sha256}`)"]
    lines += ["", "## What was done", "", f"* Rows read: {report.rows:,}"]
    lines += [f"* Left out: {count:,} {describe(kind)}" for kind, count in report.dropped.items()]
    lines += [f"* Changed: {count:,} {describe(kind)}" for kind, count in report.changed.items()]
    lines += [
        f"* {finding.title}: {finding.count:,} ({'mended' if finding.fixed else 'left as it is'})"
        for finding in report.findings
    ]
    lines += ["", "## Files", ""]
    lines += [f"* `{report.paths[name]}` sha256 `{value}`" for name, value in report.sha256.items()]
    return "\n".join(lines) + "\n"


def _repeated(report: ProcessReport) -> str:
    found = {finding.kind: finding.count for finding in report.findings}
    kinds = {
        "exact_duplicates": "whole examples",
        "near_duplicates": "nearly the same questions",
        "contradictory_answers": "questions with another answer",
    }
    return ", ".join(f"{found.get(kind, 0):,} {words}" for kind, words in kinds.items())


def _token_lines(report: ProcessReport) -> list[str]:
    if (tokens := report.tokens) is None:
        return []
    return [
        f"* Tokens: {tokens.total:,}, {tokens.learned:,} of them learned; median "
        f"{tokens.median:,}, longest {tokens.longest:,}; {tokens.cut_answers:,} answers lose their "
        "end"
    ]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"

"""An evaluation as a page shows it: verdict, scores with their intervals, answers side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sftplay_ui.engine.evaluation import AnswerPair, Difference, Evaluation
from sftplay_ui.tabs.markup import Tone, escape, table

PAGE_ROWS = 20
LOWER_IS_BETTER = frozenset({"reference_loss", "perplexity", "eval_loss"})
SHARES = frozenset({"exact_match", "answer_contained"})
TITLES = {
    "exact_match": "Exactly right",
    "answer_contained": "Contains the answer",
    "rougeL": "ROUGE-L",
    "token_f1": "Words in common (F1)",
    "sari": "SARI",
    "reference_loss": "Surprise at the reference",
    "perplexity": "Perplexity of the reference",
}
TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "mixed": "busy"}

Order = Literal["gains", "losses", "asked"]
ORDERS: tuple[tuple[str, Order], ...] = (
    ("Biggest gain first", "gains"),
    ("Biggest loss first", "losses"),
    ("As asked", "asked"),
)


def metric_title(metric: str) -> str:
    """Name a score for people."""
    return TITLES.get(metric, metric.replace("_", " "))


def metric_choices(evaluation: Evaluation) -> list[tuple[str, str]]:
    """List the scores of single answers, as label and name."""
    return [(metric_title(n), n) for n in metrics(evaluation) if n not in LOWER_IS_BETTER]


def metrics(evaluation: Evaluation) -> list[str]:
    """Name the scores there are, the telling ones first; the loss stands as its perplexity."""
    compared = [difference.metric for difference in evaluation.differences]
    found = dict.fromkeys([*compared, *evaluation.after, *evaluation.before])
    found.pop("eval_loss", None)
    return [*(name for name in TITLES if name in found), *(n for n in found if n not in TITLES)]


def written(metric: str, value: float, *, signed: bool = False) -> str:
    """Write a score: shares as per cent, all else with three digits."""
    sign = "+" if signed and value else ""
    if metric in SHARES:
        return f"{100 * value:{sign}.0f} %"
    return f"{value:{sign}.3f}" if abs(value) < 10 else f"{value:{sign}.1f}"


def tone_of(difference: Difference) -> Tone:
    """Colour a change only where its interval leaves no doubt."""
    if difference.low <= 0 <= difference.high:
        return ""
    rises = difference.low > 0
    return "good" if rises != (difference.metric in LOWER_IS_BETTER) else "bad"


def verdict_card(evaluation: Evaluation) -> str:
    """Say in one sentence whether tuning helped, and on what that rests."""
    tone = TONES.get(evaluation.judgement, "")
    left_out = sum(evaluation.left_out.values())
    basis = f"{evaluation.rows:,} questions of {short(evaluation.data_path, 3)}"
    basis += f", {left_out:,} left out" if left_out else ""
    basis += f", {evaluation.trained_on:,} of them trained on" if evaluation.trained_on else ""
    return (
        f"<div class='verdict {tone}'><span class='pill {tone}'>{escape(evaluation.judgement)}"
        f"</span><p>{escape(evaluation.verdict)}</p>"
        f"<small>{escape(evaluation.run)} against {escape(short(evaluation.model, 2))} on "
        f"{escape(basis)}</small></div>"
    )


def short(path: str, parts: int) -> str:
    """Name a file or model by the end of its path; names and ids stay."""
    found = Path(path)
    return "/".join(found.parts[-parts:]) if found.is_absolute() else path


def score_cards(evaluation: Evaluation) -> str:
    """Lay out every score: before, after, the change with its 95 % interval, rows that changed."""
    cards = "".join(score_card(evaluation, name) for name in metrics(evaluation))
    return f"<div class='scores'>{cards}</div>"


def score_card(evaluation: Evaluation, metric: str) -> str:
    """Show one score; without a comparison it is a single figure."""
    difference = evaluation.difference(metric)
    before, after = evaluation.before.get(metric), evaluation.after.get(metric)
    if difference is not None:
        before, after = difference.before, difference.after
    sides = [written(metric, side) for side in (before, after) if side is not None]
    lower = "<small>lower is better</small>" if metric in LOWER_IS_BETTER else ""
    head = f"<h3>{escape(metric_title(metric))}</h3>"
    figure = "<span class='arrow' aria-label='to'>→</span>".join(f"<b>{side}</b>" for side in sides)
    rest = lower if difference is None else change_line(difference) + lower
    return f"<article class='score'>{head}<p class='figures'>{figure}</p>{rest}</article>"


def change_line(difference: Difference) -> str:
    """Write a change with its interval, drawn and in figures."""
    metric = difference.metric
    low, high = (written(metric, value, signed=True) for value in (difference.low, difference.high))
    reach = max(abs(difference.low), abs(difference.high)) or 1.0
    left, right = (50 + 48 * value / reach for value in (difference.low, difference.high))
    tone = tone_of(difference)
    return (
        f"<p class='change {tone}'>{written(metric, difference.change, signed=True)} "
        f"<span>({low} to {high})</span></p>"
        f"<div class='interval {tone}' aria-hidden='true'>"
        f"<i style='left:{left:.1f}%;width:{max(1.0, right - left):.1f}%'></i></div>"
        f"<small>better on {difference.better}, worse on {difference.worse}, "
        f"equal on {difference.equal}</small>"
    )


def ordered(pairs: Sequence[AnswerPair], metric: str, order: Order) -> list[AnswerPair]:
    """Sort answers by how much they changed; equal changes stay in the order of the questions."""
    if order == "asked":
        return list(pairs)
    sign = -1 if order == "gains" else 1
    return sorted(pairs, key=lambda pair: sign * pair.change(metric))


def answers_table(pairs: Sequence[AnswerPair], metric: str, page: int) -> str:
    """Show one page of answers side by side."""
    first = (page - 1) * PAGE_ROWS
    rows = [answer_row(pair, metric) for pair in pairs[first : first + PAGE_ROWS]]
    heads = ("Question", "Reference", "Base model", "Tuned model", "Change")
    return f"<div class='answers'>{table(heads, rows, label='Answers side by side')}</div>"


def answer_row(pair: AnswerPair, metric: str) -> tuple[str, ...]:
    """Write the cells of one question."""
    change = pair.change(metric)
    tone = "good" if change > 0 else "bad" if change < 0 else ""
    both = pair.base is not None and pair.tuned is not None
    mark = (
        f"<span class='pill {tone}'>{written(metric, change, signed=True)}</span>" if both else ""
    )
    return (
        f"<div class='cell-text' dir='auto'>{escape(pair.question)}</div>",
        f"<div class='cell-text' dir='auto'>{escape(pair.reference)}</div>",
        answer_cell(pair.base),
        answer_cell(pair.tuned),
        mark,
    )


def answer_cell(text: str | None) -> str:
    """Write one answer; a side that was not asked and an empty answer both say so."""
    if text is None:
        return "<span class='muted'>not asked</span>"
    if not text.strip():
        return "<span class='muted'>(empty answer)</span>"
    return f"<div class='cell-text' dir='auto'>{escape(text)}</div>"

"""Style's pictures as HTML: what changed in an example, and which of its tokens are learned.

Every text of a person is escaped, and shown in its own direction.
"""

import difflib
import re
from collections.abc import Sequence
from itertools import zip_longest

from sftplay_ui.engine.checks import CheckResult
from sftplay_ui.engine.data.examples import Example, RenderedExample
from sftplay_ui.engine.style.checks import QUOTED, Adherence
from sftplay_ui.engine.text.tokens import TokenisedExample, TokenPiece
from sftplay_ui.tabs.markup import Figure, escape, figures

DIFF_CHARS = 20_000
TOKENS_SHOWN = 4_000
# A finding opens with the file's name, and a line where there is one.
PLACE = re.compile(r"[^\n:]*:(\d+) ")
WHOLE = re.compile(r"^[\w' .-]*\.jinja |^the model's own ")
LEGEND = (
    "<ul class='legend' aria-label='Legend'>"
    "<li><i class='tok learned'>learned</i> the model is trained to write this</li>"
    "<li><i class='tok context'>context</i> it only reads this</li>"
    "<li><i class='tok cut'>cut off</i> beyond the longest example</li>"
    "<li><i class='tok context special'>mark</i> special token</li></ul>"
)


def turns(example: Example | RenderedExample) -> list[tuple[str, str]]:
    """Give an example as role and text."""
    if isinstance(example, RenderedExample):
        return [("input", example.input), ("target", example.target)]
    return [(message.role, message.content) for message in example.messages]


def before_after(before: Example | RenderedExample, after: Example | RenderedExample) -> str:
    """Show an example before and after, with what was taken out and put in marked by word."""
    old, new = turns(before), turns(after)
    # a system turn that appears has no partner among the old turns
    if old[0][0] != "system" and new[0][0] == "system":
        old = [("system", ""), *old]
    pairs = list(zip_longest(old, new, fillvalue=("", "")))
    left = "".join(turn(*a, marked(a[1], b[1], "del")) for a, b in pairs if a[0])
    right = "".join(turn(*b, marked(a[1], b[1], "ins")) for a, b in pairs if b[0])
    same = "" if old != new else "<p class='muted'>This example stays as it is.</p>"
    return (
        f"<div class='before-after'><section><h3>Before</h3>{left}</section>"
        f"<section><h3>After</h3>{right}</section></div>{same}"
    )


def turn(role: str, text: str, body: str) -> str:
    """Show one turn with its role."""
    shown = body if text else "<span class='muted'>(none)</span>"
    return (
        f"<div class='turn {escape(role)}'><small>{escape(role)}</small>"
        f"<div dir='auto'>{shown}</div></div>"
    )


def marked(before: str, after: str, tag: str) -> str:
    """Mark what only one side has: `del` in the text before, `ins` in the text after."""
    side = before if tag == "del" else after
    if before == after or len(before) + len(after) > DIFF_CHARS:
        return escape(side)
    old, new = words(before), words(after)
    parts = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        piece = escape("".join(old[a:b] if tag == "del" else new[c:d]))
        parts.append(piece if kind == "equal" or not piece else f"<{tag}>{piece}</{tag}>")
    return "".join(parts)


def words(text: str) -> list[str]:
    """Cut a text into words and the blanks between them."""
    return re.findall(r"\s+|[^\s]+", text)


def token_figures(tokenised: TokenisedExample) -> str:
    """Count tokens: all, learned, and what does not fit."""
    kept, learned = len(tokenised.input_ids), tokenised.learned_count
    share = f"{learned / kept:.0%} of what the model sees" if kept else ""
    whole = learned + tokenised.cut_learned
    lost = f"{tokenised.cut_learned / whole:.0%} of the answer is lost" if whole else ""
    cells = [
        Figure("Tokens", f"{kept:,}", "one example, as trained"),
        Figure("Learned", f"{learned:,}", share),
        Figure("Cut off", f"{tokenised.cut_tokens:,}", lost if tokenised.cut_tokens else "it fits"),
    ]
    return figures(cells)


def token_view(pieces: Sequence[TokenPiece]) -> str:
    """Colour a rendered example token by token; ids appear on hover."""
    body = "".join(token(piece) for piece in pieces[:TOKENS_SHOWN])
    more = len(pieces) - TOKENS_SHOWN
    rest = f"<p class='muted'>{more:,} further tokens are not shown.</p>" if more > 0 else ""
    return (
        f"{LEGEND}<div class='tokens mono' role='region' tabindex='0' dir='auto' "
        f"aria-label='The rendered example, token by token'>{body}</div>"
        f"<p class='tok-readout muted'>Point at a token to see its number.</p>"
        f"{rest}"
    )


def token(piece: TokenPiece) -> str:
    """Show one piece; line breaks are made visible, since they are tokens too."""
    ids = " ".join(map(str, piece.ids))
    special = " special" if piece.special else ""
    names = {"learned": "learned", "context": "context", "cut": "cut off"}
    text = escape(piece.text).replace("\n", "<span class='eol'>↵</span>\n")
    return (
        f"<span class='tok {piece.state}{special}' title='token {ids}, {names[piece.state]}'>"
        f"{text}</span>"
    )


def findings(verdict: CheckResult, source: str, standing: str) -> str:
    """Show what a check found in a template, each finding with the line it is about."""
    words = {"accept": "Good", "accept_with_warning": "Usable", "reject": "Not usable"}
    tones = {"accept": "good", "accept_with_warning": "busy", "reject": "bad"}
    items = "".join(finding(message, source.splitlines()) for message in verdict.messages)
    head = f"<b class='pill {tones[verdict.verdict]}'>{words[verdict.verdict]}</b>"
    list_of = f"<ul class='findings'>{items}</ul>" if items else ""
    said = f"<span class='muted'>{escape(standing)}</span>" if standing else ""
    return f"<div class='check-head'>{head}{said}</div>{list_of}"


def finding(message: str, lines: Sequence[str]) -> str:
    """Show one finding; where it names a line, that line and its neighbours stand below it."""
    named = PLACE.match(message)
    if not named:
        return f"<li>{escape(WHOLE.sub('It ', message))}</li>"
    number = int(named[1])
    first = max(1, number - 1)
    shown = "".join(
        f"<span class='{'at' if n == number else ''}'><i>{n}</i>{escape(line) or ' '}</span>"
        for n, line in enumerate(lines[first - 1 : number + 1], start=first)
    )
    place = f"<b>Line {number}</b> {escape(message[named.end() :])}"
    return f"<li>{place}<pre class='excerpt mono'>{shown}</pre></li>"


def adherence_view(found: Sequence[Adherence], rule: str, looked: str) -> str:
    """Show how the answers that are there keep to the rule."""
    if not rule:
        return ""
    if not found:
        return (
            "<div class='adherence'><p class='muted'>No program can judge this rule. Read a few "
            "answers: what they do is what the model will learn.</p></div>"
        )
    return "<div class='adherence'>" + "".join(one_demand(one, looked) for one in found) + "</div>"


def one_demand(found: Adherence, looked: str) -> str:
    """Show one demand: the share that breaks it as a bar, and some of those answers."""
    tone = "bad" if found.broken else "good"
    percent = 100 * found.share
    shown = "".join(
        f"<li><button type='button' class='row-link' data-row='{row}'>Example {row}</button> "
        f"<q dir='auto'>{escape(text)}{'…' if len(text) >= QUOTED else ''}</q></li>"
        for row, text in zip(found.rows, found.examples, strict=False)
    )
    listed = f"<details><summary>Some that break it</summary><ul>{shown}</ul></details>"
    listed = listed if shown else ""
    return (
        f"<section class='demand {tone}'><p><b>{escape(found.sentence)}</b></p>"
        f"<div class='share' role='img' aria-label='{percent:.0f} % break it'>"
        f"<i style='width:{percent:.1f}%'></i></div>"
        f"{listed}<small class='muted'>{escape(looked)}</small></section>"
    )

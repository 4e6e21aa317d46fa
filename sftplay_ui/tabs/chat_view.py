"""A conversation as HTML, one side or both side by side; all texts in it are escaped."""

from collections.abc import Sequence

from sftplay_ui.engine.chat_session import AnswerStats, Side
from sftplay_ui.tabs.chat_room import Exchange
from sftplay_ui.tabs.markup import empty, escape

NAMES: dict[Side, str] = {"tuned": "Tuned model", "base": "Base model"}
NOTHING = empty("Say hello", "Choose a model, type a question and press Send.")


def conversation(exchanges: Sequence[Exchange], *, writing: bool = False) -> str:
    """Show all exchanges, the newest at the bottom."""
    if not exchanges:
        return NOTHING
    last = len(exchanges) - 1
    parts = [shown(one, writing=writing and n == last) for n, one in enumerate(exchanges)]
    return f"<div class='chat' role='log' aria-label='Conversation'>{''.join(parts)}</div>"


def shown(exchange: Exchange, *, writing: bool) -> str:
    """Show a question and its answers."""
    sides = [side for side in NAMES if side in exchange.answers]
    answers = "".join(
        answer(exchange, side, writing=writing and side == sides[-1]) for side in sides
    )
    waiting = "" if answers else "<div class='said model'><p class='muted'>…</p></div>"
    return (
        f"<div class='said person' dir='auto'>{escape(exchange.question)}</div>"
        f"<div class='sides n{len(sides)}'>{answers}{waiting}</div>"
    )


def answer(exchange: Exchange, side: Side, *, writing: bool) -> str:
    """Show one answer with its speed; a caret stands where it is being written."""
    text = escape(exchange.answers[side])
    caret = "<i class='caret' aria-hidden='true'></i>" if writing else ""
    if not text and not writing:
        text = "<span class='muted'>(empty answer)</span>"
    stats = exchange.stats.get(side)
    return (
        f"<div class='said model {side}'><small>{NAMES[side]}</small>"
        f"<div class='words' dir='auto'>{text}{caret}</div>{speed(stats)}</div>"
    )


def speed(stats: AnswerStats | None) -> str:
    """Say how long an answer took."""
    if stats is None:
        return ""
    stopped = ", stopped" if stats.stopped else ""
    rate = f"{stats.tokens_per_second:.0f} tokens/s"
    return f"<small>{stats.tokens:,} tokens, {stats.seconds:.1f} s, {rate}{stopped}</small>"


def sent_prompts(exchanges: Sequence[Exchange]) -> str:
    """Show the very text each side was last asked with."""
    if not exchanges or not exchanges[-1].prompts:
        return "<p class='muted'>Ask something first.</p>"
    return "".join(
        f"<p class='muted'>{NAMES[side]}</p>"
        f"<pre class='log' tabindex='0' aria-label='{NAMES[side]}'>{escape(text)}</pre>"
        for side, text in exchanges[-1].prompts.items()
    )

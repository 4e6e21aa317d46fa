"""`infer`: talk to the model in the terminal, or let it answer a file of questions."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftplay_ui.commands import Answer, Context
from sftplay_ui.engine.atomic_file import replace_text
from sftplay_ui.engine.chat_session import ChatSession, Side
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import ROLES, Message
from sftplay_ui.engine.errors import DataError


def infer(context: Context) -> Answer:
    """Answer with the tuned model, or with the base model (`--base`)."""
    args = context.args
    run = "base" if args.base else None if args.run in (None, "last") else args.run
    config = context.config([f"chat.run={run}"] if run else [])
    side: Side = "base" if args.base else "tuned"
    if args.mode == "batch":
        return answer_file(context, config, side)
    return talk(context, config, side)


def answer_file(context: Context, config: RunConfig, side: Side) -> Answer:
    """Answer every question of a file; the answers appear in one move, when all are there."""
    args, workspace = context.args, context.workspace
    if not args.input_file or not args.output_file:
        raise DataError(
            "Batch mode needs a file to read and one to write.",
            "Name --input_file and --output_file.",
        )
    source, target = workspace.resolve(args.input_file), workspace.resolve(args.output_file)
    questions = list(read_questions(source))
    lines = []
    with ChatSession.open(config, workspace) as session:
        session.wait_ready(context.reporter.show_one)
        context.reporter.begin("generate", len(questions))
        for number, messages in enumerate(questions, start=1):
            text = "".join(session.answer(messages, side, config.generate))
            record = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
            lines.append(json.dumps({**record, "answer": text}, ensure_ascii=False) + "\n")
            context.reporter.advance(number)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_text(target, "".join(lines))
    value = {"rows": len(lines), "output_file": str(target)}
    return Answer(value, f"{len(lines)} answers in {workspace.shorten(target)}")


def read_questions(path: Path) -> Iterator[list[Message]]:
    """Read questions: JSON lines with `user` or `messages` (an answer at the end is left out), a
    JSON string, or plain text, one a line. Raises DataError with file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.", "Check the path; it must be UTF-8."
        ) from None
    found = False
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found = True
            yield question_of(line.strip(), f"{path.name}:{number}")
    if not found:
        raise DataError(f"{path.name} holds no question.", "Put one question on each line.")


def question_of(line: str, place: str) -> list[Message]:
    """Read one question from its line."""
    if line[0] not in '{"':
        return [Message("user", line)]
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON ({error}).", "Correct or remove the line.") from None
    if isinstance(record, str):
        return [Message("user", record)]
    turns = record.get("messages") or [
        {"role": role, "content": record[role]} for role in ("system", "user") if record.get(role)
    ]
    try:
        messages = [Message(turn["role"], turn["content"]) for turn in turns]
    except (TypeError, KeyError):
        messages = []
    for message in messages:
        # a template would write any role, and the model has never seen it
        if message.role not in ROLES or not isinstance(message.content, str):
            raise DataError(
                f"{place} has a turn no model can read (role {message.role!r}).",
                f"Use the roles {', '.join(ROLES)}, each with its text.",
            )
    while messages and messages[-1].role == "assistant":
        messages.pop()
    if not messages or messages[-1].role != "user":
        raise DataError(f"{place} asks nothing.", 'Write {"user": "..."} or {"messages": [...]}.')
    return messages


def talk(context: Context, config: RunConfig, side: Side) -> Answer:
    """Talk until an empty line or the end of the input; Ctrl-C stops an answer."""
    history: list[Message] = []
    answer = ""
    with ChatSession.open(config, context.workspace) as session:
        session.wait_ready(context.reporter.show_one)
        context.reporter.say("Ask; an empty line ends. Ctrl-C stops an answer.")
        while question := ask():
            history.append(Message("user", question))
            answer = stream(session, history, side, config)
            history.append(Message("assistant", answer))
    turns = len(history) // 2
    return Answer({"turns": turns, "last_answer": answer})


def ask() -> str:
    """Read a question; the prompt shows only where somebody types."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline().strip()


def stream(session: ChatSession, history: list[Message], side: Side, config: RunConfig) -> str:
    """Write an answer as it comes, and give it whole; Ctrl-C stops it, and what is there stays."""
    pieces: list[str] = []
    try:
        for piece in session.answer(history, side, config.generate):
            pieces.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        session.stop()
    sys.stdout.write("\n")
    return "".join(pieces)

"""The whole road on the bundled sample: data, training, scores, an answer, a merged model."""

import json
import time

from sftplay_ui.commands import STOPPED, Answer, Context
from sftplay_ui.commands.jobs import describe_scores, evaluate_run, merge_run, train_run
from sftplay_ui.engine.chat_session import ChatSession
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.data.process import process_files
from sftplay_ui.engine.demo_settings import HELD_BACK, QUESTION, demo_settings


def demo_overrides() -> list[str]:
    """Write the settings of the walk the way `--set` takes them."""
    settings = {"run_name": "demo", **demo_settings()}
    return [f"{path}={json.dumps(value)}" for path, value in settings.items()]


def demo(context: Context) -> Answer:
    """Walk the bundled sample from Data to Chat and Merge; every part is the real one."""
    started = time.monotonic()
    say = context.reporter.say
    config = context.config(demo_overrides())
    say("1. Data: the bundled trivia questions")
    report = process_files(config, context.workspace)
    say("2. Train: LoRA on the starter model")
    trained = train_run(config, context)
    if trained.code == STOPPED:
        return trained
    run = trained.value["run"]
    say(f"3. Evaluate: before and after, on {HELD_BACK} questions it has not seen")
    scores = evaluate_run(with_run(config, run), context)
    if scores.code == STOPPED:
        return scores
    say(describe_scores(scores.value))
    question = context.args.question or QUESTION
    say(f"4. Chat: {question}")
    answer = ask(with_run(config, run), question, context)
    say(f"   {answer}")
    say("5. Merge: one folder that plain transformers loads")
    merged = merge_run(with_run(config, run), context)
    if merged.code == STOPPED:
        return merged
    value = {
        "process": report.to_json(),
        "train": trained.value,
        "eval": scores.value,
        "chat": {"question": question, "answer": answer},
        "merge": merged.value,
        "seconds": round(time.monotonic() - started, 1),
    }
    return Answer(value, f"Done in {value['seconds']:.0f} s. {merged.text}")


def with_run(config: RunConfig, run: str) -> RunConfig:
    """Name the trained run for the jobs that come after it."""
    return config.model_copy(
        update={
            "run_name": "auto",
            "evaluate": config.evaluate.model_copy(update={"run": run}),
            "merge": config.merge.model_copy(update={"adapter": run}),
            "chat": config.chat.model_copy(update={"run": run}),
        }
    )


def ask(config: RunConfig, question: str, context: Context) -> str:
    """Ask the tuned model one question."""
    with ChatSession.open(config, context.workspace) as session:
        messages = [Message("user", question)]
        return "".join(session.answer(messages, "tuned", config.generate))

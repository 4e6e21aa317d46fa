"""The questions of an evaluation: read from a split, rendered and tokenised as in training."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sftplay_ui.engine.config import Split
from sftplay_ui.engine.data.examples import Example, RenderedExample, read_examples
from sftplay_ui.engine.errors import DataError
from sftplay_ui.engine.text.tokens import TokenisedExample, pair_prompt, text_ids, tokenise
from sftplay_ui.engine.worker.scoring.sides import Pair
from sftplay_ui.engine.workspace import Workspace

LONGEST = 131_072
NO_REFERENCE = "without a reference answer"
TOO_LONG = "too long for the model"


@dataclass(frozen=True)
class Question:
    """One question: the very text and tokens the model is asked with, and what it should say."""

    id: int
    prompt: str
    prompt_ids: tuple[int, ...]
    question: str
    reference: str
    tokenised: TokenisedExample


@dataclass(frozen=True)
class QuestionSet:
    """Questions from one file, what was left out and why, and how many were trained on."""

    path: Path
    questions: tuple[Question, ...]
    left_out: Mapping[str, int]
    trained_on: int


def read_questions(pair: Pair, split: Split, limit: int, workspace: Workspace) -> QuestionSet:
    """Read the split that the adapter's own run names; at most `limit` questions, 0 is all.

    Raises DataError where nothing is left to ask.
    """
    data = pair.config.data
    path = workspace.resolve(getattr(data, f"{split}_path"))
    context = pair.base.config().get("max_position_embeddings") or LONGEST
    left_out: Counter[str] = Counter()
    questions: list[Question] = []
    for number, example in enumerate(islice(read_examples(path), limit or None)):
        question = make_question(number, example, pair)
        if not question.reference.strip():
            left_out[NO_REFERENCE] += 1
        elif len(question.tokenised.input_ids) >= context:
            left_out[TOO_LONG] += 1
        else:
            questions.append(question)
    if not questions:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"{path} holds no question to ask ({why or 'it is empty'}).",
            "Choose another split, or process the data again.",
        )
    trained = set() if split == "train" else trained_questions(workspace.resolve(data.train_path))
    known = sum((one.question, one.reference) in trained for one in questions)
    return QuestionSet(path, tuple(questions), dict(left_out), known)


def make_question(number: int, example: Example | RenderedExample, pair: Pair) -> Question:
    """Render and tokenise one question with its reference."""
    if isinstance(example, Example):
        prompt = pair.prompt(example.prompt)
    else:
        prompt = pair_prompt(example, pair.template)
    return Question(
        id=number,
        prompt=prompt,
        prompt_ids=tuple(text_ids(prompt, pair.template, pair.tokeniser)),
        question=question_text(example),
        reference=reference_text(example, pair),
        tokenised=tokenise(example, pair.template, pair.tokeniser, LONGEST),
    )


def question_text(example: Example | RenderedExample) -> str:
    """Give what was asked last, without the turns before it."""
    if isinstance(example, RenderedExample):
        return example.input
    asked = [message.content for message in example.prompt if message.role == "user"]
    return asked[-1] if asked else ""


def reference_text(example: Example | RenderedExample, pair: Pair) -> str:
    """Give the wanted answer, without a mark that ends the turn."""
    if isinstance(example, Example):
        return example.reference
    return example.target.rstrip().removesuffix(pair.template.turn_end.mark.strip())


def trained_questions(path: Path) -> set[tuple[str, str]]:
    """Collect the questions and answers a run learned from; none where the file is gone."""
    if not path.is_file():
        return set()
    found = set()
    for example in read_examples(path):
        answer = example.reference if isinstance(example, Example) else example.target
        found.add((question_text(example), answer))
    return found

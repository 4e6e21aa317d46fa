"""Prove that a merged model says what base and adapter say together.

First the pair answers some questions and its scores along those answers are kept; then the merged
folder is loaded the way any program would, through plain transformers, and does the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.data.examples import Example, Message, read_examples
from sftplay_ui.engine.errors import ModelError
from sftplay_ui.engine.worker.model.precision import DTYPES
from sftplay_ui.engine.worker.scoring.sides import Pair, Sides
from sftplay_ui.engine.worker.writing.generate import Limits, generate_batch
from sftplay_ui.engine.workspace import Workspace

TOKENS = 32
QUESTIONS = 8
# asked where the run's own questions are gone
SPARE_QUESTIONS = ("Who are you?", "Name three colours.", "What is two and two?")


@dataclass(frozen=True)
class Parity:
    """How alike two models are on some questions.

    `same_tokens` says whether all greedy answers are equal. Along the pair's own answers, token by
    token, `different` of `tokens` would have been chosen otherwise; at those the pair preferred its
    own token by at most `largest_margin`.
    """

    same_tokens: bool
    prompts: int
    tokens: int
    different: int
    largest_logit_difference: float
    largest_margin: float
    precision: str


@dataclass(frozen=True)
class Spoken:
    """What a model wrote to each question, and its scores [answer tokens + 1, vocabulary]."""

    answers: tuple[tuple[int, ...], ...]
    scores: tuple[Tensor, ...]


def choose_questions(pair: Pair, workspace: Workspace) -> list[tuple[Message, ...]]:
    """Take the first questions that the adapter's run held back, or else some of our own."""
    for split in ("test", "val", "train"):
        path = workspace.resolve(getattr(pair.config.data, f"{split}_path"))
        if not path.is_file():
            continue
        examples = islice(read_examples(path), QUESTIONS)
        found = [example.prompt for example in examples if isinstance(example, Example)]
        if found:
            return found
    return [(Message("user", text),) for text in SPARE_QUESTIONS]


def hear_pair(sides: Sides, questions: Sequence[tuple[Message, ...]]) -> Spoken:
    """Let base and adapter answer, and keep the scores along the answers."""
    pair = sides.pair
    prompts = [pair.tokeniser.encode(pair.prompt(question)) for question in questions]
    with sides.asking("tuned") as model:
        answers = write(model, prompts, pair)
        return Spoken(answers, scores_along(model, prompts, answers))


def hear_merged(
    folder: Path, sides: Sides, questions: Sequence[tuple[Message, ...]], along: Spoken
) -> Spoken:
    """Load the merged folder through plain transformers and let it answer the same questions.

    Raises ModelError where its tokenizer or its template makes other prompts than the pair's.
    """
    pair = sides.pair
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    dtype = DTYPES[sides.precision.value]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    model.to(sides.device.id).eval()
    prompts = [
        tokenizer(pair.prompt(question), add_special_tokens=False)["input_ids"]
        for question in questions
    ]
    expected = [pair.tokeniser.encode(pair.prompt(question)) for question in questions]
    if prompts != expected:
        raise ModelError(
            f"The tokenizer in {folder} makes other tokens than the one that was trained with.",
            "Fetch the base model again, train again, and merge again.",
        )
    check_template(tokenizer, pair, questions[0])
    return Spoken(write(model, prompts, pair), scores_along(model, prompts, along.answers))


def check_template(
    tokenizer: PreTrainedTokenizerBase, pair: Pair, question: Sequence[Message]
) -> None:
    """Refuse a folder whose own template asks in other words than training did."""
    if pair.template.folds_system and question[0].role == "system":
        return  # our rendering moves the system turn; the bare template cannot hold one
    turns = [{"role": message.role, "content": message.content} for message in question]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if text != pair.template.render(tuple(question), add_generation_prompt=True):
        raise ModelError(
            "The merged folder's chat template asks in other words than the adapter was taught.",
            "Train with a template that needs no variables of its own.",
        )


def write(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], pair: Pair
) -> tuple[tuple[int, ...], ...]:
    """Answer greedily, all questions side by side."""
    answers = generate_batch(
        model,
        prompts,
        limits=Limits(pair.eos_ids, GenerateConfig(max_new_tokens=TOKENS)),
        pad_id=pair.tokeniser.pad_id,
        batch_size=len(prompts),
    )
    return tuple(answer.ids for answer in answers)


@torch.no_grad()
def scores_along(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[Tensor, ...]:
    """Give the scores at each place of the answers and after them."""
    scores = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer]], device=model.device)
        output = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1)
        scores.append(output.logits[0].float().cpu())
    return tuple(scores)


def compare(pair: Spoken, merged: Spoken, precision: str) -> Parity:
    """Measure how far the merged model is from the pair."""
    ours, theirs = torch.cat(pair.scores), torch.cat(merged.scores)
    chosen, others = ours.argmax(-1), theirs.argmax(-1)
    margins = (ours.gather(1, chosen[:, None]) - ours.gather(1, others[:, None]))[:, 0]
    return Parity(
        same_tokens=pair.answers == merged.answers,
        prompts=len(pair.answers),
        tokens=len(ours),
        different=int((chosen != others).sum()),
        largest_logit_difference=(ours - theirs).abs().max().item(),
        largest_margin=margins.max().item(),
        precision=precision,
    )

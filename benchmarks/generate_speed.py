"""How fast answers are written: ours against transformers, and how soon the first token comes.

    python -m benchmarks.generate_speed [--threads 1] [--tokens 64]

Starter model with a fresh rank-16 adapter on all linear layers, greedy, no end token, so that both
write the same number of tokens. Processor seconds, so that other programs count for little.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from sftplay_ui.engine.config import GenerateConfig
from sftplay_ui.engine.data.examples import Message
from sftplay_ui.engine.models.store import fetch_model
from sftplay_ui.engine.text.templates import choose_template
from sftplay_ui.engine.text.tokens import Tokeniser, prompt_ids
from sftplay_ui.engine.worker.model.load import load_base, without_peft_noise
from sftplay_ui.engine.worker.model.lora_linear import use_lean_linears
from sftplay_ui.engine.worker.scoring.sides import round_adapter
from sftplay_ui.engine.worker.writing.decoding import Conversation
from sftplay_ui.engine.worker.writing.generate import Limits, generate_batch, stream
from sftplay_ui.engine.workspace import PROJECT_ROOT, Workspace

QUESTIONS = (
    "What is photosynthesis?",
    "Name the capital of France.",
    "Explain list comprehensions in Python.",
    "Who wrote Hamlet?",
    "What is a tuple?",
    "How do I open a file?",
    "At what temperature does water boil?",
    "Where do elephants live?",
    "What is the largest planet?",
    "How many legs has a spider?",
    "What is a noun?",
    "Who painted the Mona Lisa?",
    "What is a prime number?",
    "How is glass made?",
    "Why is the sky blue?",
    "What does a compiler do?",
)


def main() -> None:
    """Measure and print one line for each way of writing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", default="starter", help="starter, a folder, or a Hub id")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = fetch_model(args.model, workspace=Workspace(PROJECT_ROOT)).path
    prompts, tokeniser = read_prompts(folder)
    limits = Limits((), GenerateConfig(max_new_tokens=args.tokens))

    def ours(model: PeftModel, batch_size: int) -> Callable[[], int]:
        chosen = (prompts * (1 + batch_size // len(prompts)))[: max(batch_size, 2)]

        def write() -> int:
            answers = generate_batch(
                model, chosen, limits=limits, pad_id=tokeniser.pad_id, batch_size=batch_size
            )
            return sum(len(answer.ids) for answer in answers)

        return write

    def theirs(model: PeftModel) -> Callable[[], int]:
        def write() -> int:
            ids = torch.tensor([prompts[0]])
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=args.tokens,
                max_new_tokens=args.tokens,
                do_sample=False,
            )
            return output.shape[1] - ids.shape[1]

        return write

    plain = with_adapter(folder, torch.float32)
    reference = report("transformers, fp32, one by one, live adapter", theirs(plain), None)
    report("transformers, bf16, one by one, live adapter", theirs(lean(folder, False)), reference)
    model = lean(folder, True)
    report("ours, bf16, one by one, live adapter", ours(model, 1), reference)
    for batch_size in (8, 16, 32):
        report(f"ours, bf16, {batch_size} side by side", ours(model, batch_size), reference)
    report_first_token(model, prompts, limits)


def read_prompts(folder: Path) -> tuple[list[list[int]], Tokeniser]:
    """Render the questions as the model is asked."""
    template = choose_template(folder, None, Workspace(PROJECT_ROOT).templates)
    tokeniser = Tokeniser.load(folder)
    asked = [prompt_ids((Message("user", text),), template, tokeniser) for text in QUESTIONS]
    return asked, tokeniser


def with_adapter(folder: Path, dtype: torch.dtype) -> PeftModel:
    """Load the model with an adapter that changes nothing; it costs the same as a trained one."""
    base = load_base(folder, dtype=dtype, device="cpu")
    shape = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
    with without_peft_noise():
        return get_peft_model(base, shape).eval()


def lean(folder: Path, switched: bool) -> PeftModel:
    """Load in bf16; `switched` the way Evaluate and Chat do."""
    model = with_adapter(folder, torch.bfloat16)
    if switched:
        round_adapter(model, torch.bfloat16)
        model.requires_grad_(False)
        use_lean_linears(model)
    return model


def report(name: str, write: Callable[[], int], reference: float | None) -> float:
    """Print tokens a processor second, and how many times the reference that is."""
    with torch.no_grad():
        write()
        started = time.process_time()
        tokens = write()
        rate = tokens / (time.process_time() - started)
    times = "" if reference is None else f"  {rate / reference:5.1f} x"
    print(f"{name:50}{rate:8.1f} tokens/s{times}")
    return rate


def report_first_token(model: PeftModel, prompts: list[list[int]], limits: Limits) -> None:
    """Print the time to the first token: of a new chat, and of one whose beginning is known."""
    conversation = Conversation(model)
    for name, prompt in (("new", prompts[0]), ("same beginning", prompts[1])):
        started = time.process_time()
        next(stream(conversation, prompt, limits=limits))
        seconds = time.process_time() - started
        print(f"{f'first token, {name}, {len(prompt)} tokens':50}{seconds:8.3f} s")


if __name__ == "__main__":
    main()

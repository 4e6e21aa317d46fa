"""The reference job done by TRL, for `train_speed.py --trl-python`: its own environment runs this.

It gets the very tokens ours learns from (a JSON file), so only the training is compared. A `way`
names settings that people would choose among; the best of them is what counts.

    PYTHON benchmarks/trl_peer.py --tokens FILE --model FOLDER --way grouped --steps 6
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

LONGEST = 512
# an example of the job has 181 tokens on average: so many packed rows hold as much as 8 of them
PACKED_ROWS = 3
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "grouped, chunked loss": {
        "train_sampling_strategy": "group_by_length",
        "loss_type": "chunked_nll",
    },
    "grouped, autocast": {"train_sampling_strategy": "group_by_length", "bf16": True},
    "packing": {"packing": True, "per_device_train_batch_size": PACKED_ROWS},
    "padding-free": {"padding_free": True, "max_length": None},
}


class Watch(TrainerCallback):
    """Notes processor and wall seconds of every step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.marks:
            self.mark()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.mark()

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))


def main() -> None:
    """Train a few steps and print one JSON object; the first step warms up and is not counted."""
    options = read_options()
    rows = json.loads(options.tokens.read_text(encoding="utf-8"))
    tokeniser = AutoTokenizer.from_pretrained(options.model)
    if tokeniser.pad_token is None:
        tokeniser.pad_token = tokeniser.eos_token
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=load(options),
            args=configure(options, folder),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokeniser,
            peft_config=None if options.mode == "full" else adapter(),
            callbacks=[watch],
        )
        batches = count_tokens(trainer)
        trainer.train()
    (begun, spent), (ended, spent_all) = watch.marks[1], watch.marks[-1]
    tokens = sum(batches[1 : options.steps])
    # logged as text by some versions
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    print(
        json.dumps(
            {
                "tokens_per_second": tokens / (ended - begun),
                "tokens_per_processor_second": tokens / (spent_all - spent),
                "first_losses": losses[:3],
                "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            }
        )
    )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--way", choices=WAYS, default="grouped")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--mode", default="lora", choices=["lora", "qlora", "full"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    return parser.parse_args()


def load(options: argparse.Namespace) -> Any:
    """Load the model as TRL's users do; weights that all learn stay in fp32, as ours."""
    narrow = options.precision == "bf16" and options.mode != "full"
    dtype = torch.bfloat16 if narrow else torch.float32
    packed: dict[str, Any] = {}
    if options.mode == "qlora":
        packed["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, **packed)


def configure(options: argparse.Namespace, folder: str) -> SFTConfig:
    autocast = options.precision == "bf16" and options.mode == "full"
    chosen = {
        "output_dir": folder,
        "max_length": LONGEST,
        "max_steps": options.steps,
        "per_device_train_batch_size": 8,
        "gradient_checkpointing": False,
        "learning_rate": 2e-4,
        "bf16": autocast,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 42,
        **WAYS[options.way],
    }
    return SFTConfig(**chosen)


def adapter() -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
    )


def count_tokens(trainer: SFTTrainer) -> list[int]:
    """Note the real tokens of every batch that is collated, without padding."""
    counts: list[int] = []
    collate = trainer.data_collator

    def counted(examples: list[Any]) -> dict[str, Any]:
        counts.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    trainer.data_collator = counted
    return counts


if __name__ == "__main__":
    main()

"""Turn the starter model's GGUF into an ordinary model folder: `python -m ...convert GGUF FOLDER`.

A process of its own, since it needs torch and about 1 GB of memory. Prints the number of each stage
that is done; `starter` reads them.
"""

import sys
from pathlib import Path

STAGES = 3
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PAD_TOKEN = "<|endoftext|>"
MAX_LENGTH = 8192


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF's model and tokenizer as safetensors in bfloat16, with tokenizer.json."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # It arrives as pad == eos: a model that never learns to stop.
    tokenizer.pad_token = PAD_TOKEN
    # It arrives as 1e30.
    tokenizer.model_max_length = MAX_LENGTH
    tell(1)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        # Without it the model stays marked as quantised: it can neither be saved nor trained.
        quantization_config=GgufConfig(dequantize=True),
    )
    tell(2)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config._model_name_or_path = NAME
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tell(3)


def tell(stage: int) -> None:
    """Print the number of the stage that is done."""
    print(stage, flush=True)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))

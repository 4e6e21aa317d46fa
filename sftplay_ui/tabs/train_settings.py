"""What the form of Train offers: the settings under Advanced, by heading, and some base models."""

from collections.abc import Mapping

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Learning": (
        "train.lr_scheduler_type",
        "train.optim",
        "train.warmup_ratio",
        "train.warmup_steps",
        "train.weight_decay",
        "train.max_grad_norm",
        "train.neftune_noise_alpha",
        "train.label_smoothing_factor",
        "train.max_steps",
        "train.seed",
    ),
    "Adapter": (
        "tuning.lora.r",
        "tuning.lora.alpha",
        "tuning.lora.dropout",
        "tuning.lora.target_modules",
        "tuning.lora.use_rslora",
        "tuning.lora.use_dora",
    ),
    "Memory and speed": (
        "tuning.backend",
        "tuning.double_quant",
        "tuning.unpack_4bit",
        "train.processes",
        "train.sharding",
        "train.lanes",
        "train.packing",
        "train.batch_size",
        "train.grad_accum",
        "train.bf16",
        "train.fp16",
        "train.gradient_checkpointing",
    ),
    "Evaluation and checkpoints": (
        "train.eval_strategy",
        "train.eval_steps",
        "train.save_strategy",
        "train.save_steps",
        "train.save_total_limit",
        "train.metric_for_best_model",
        "train.eval_answers",
        "train.early_stopping_patience",
        "train.sample_prompts",
        "train.load_best_model_at_end",
    ),
    "Files and names": (
        "run_name",
        "model.revision",
        "data.template_path",
        "logging.backend",
        "logging.log_interval",
    ),
}
BASE_MODELS = (
    ("starter (SmolLM2-135M-Instruct)", "starter"),
    ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
    ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"),
    ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
)

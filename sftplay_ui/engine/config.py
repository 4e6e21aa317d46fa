"""Every setting, once: type, limits, default and help text.

The YAML check, the form of the window, `--set` and the table in the README are all made from these
fields (listed by `settings`). Reading files is left to `config_file`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1, le=4096)]
Split = Literal["train", "val", "test"]
Job = Literal["train", "find_lr", "evaluate", "chat", "merge"]
ESSENTIAL: dict[str, Any] = {"essential": True}


class Section(BaseModel):
    """A group of settings: frozen, unknown keys refused, numbers never taken from text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class ModelConfig(Section):
    """The base model."""

    name: str = Field(
        "starter",
        min_length=1,
        description="Base model: `starter` (SmolLM2-135M-Instruct), a local folder, or a Hub id.",
        json_schema_extra=ESSENTIAL,
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub model.")
    max_seq_len: int = Field(
        512,
        ge=16,
        le=131072,
        description="Longest example in tokens; what is longer is cut at the end, and counted.",
        json_schema_extra=ESSENTIAL,
    )


class LoraConfig(Section):
    """The shape of the adapter."""

    r: int = Field(16, ge=1, le=512, description="Rank: width of the adapter matrices.")
    alpha: int = Field(
        32, ge=1, le=2048, description="Scale of the adapter is alpha / r (use_rslora: / sqrt(r))."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of adapter inputs dropped.")
    target_modules: str | list[str] = Field(
        "all-linear",
        description="`all-linear`, or names of the layers that get an adapter.",
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha / sqrt(r), so that high ranks learn as fast (rsLoRA)."
    )
    use_dora: bool = Field(
        False, description="Learn each weight's length apart from its direction (DoRA); slower."
    )


class TuningConfig(Section):
    """How the model is tuned."""

    mode: Literal["auto", "qlora", "lora", "full"] = Field(
        "auto",
        description="How much learns: qlora (4-bit base), lora (16-bit base), full (all weights).",
        json_schema_extra=ESSENTIAL,
    )
    backend: Literal["bnb", "unsloth"] = Field(
        "bnb",
        description="Who loads and quantises the base model; unsloth comes with "
        "`setup --backend unsloth`.",
    )
    double_quant: bool | Auto = Field(
        "auto", description="Quantise the scales of 4-bit weights too: leaner, hardly less exact."
    )
    unpack_4bit: bool | Auto = Field(
        "auto",
        description="On a CPU, unpack 4-bit weights once instead of in every step: faster, but "
        "with the memory of 16-bit weights; auto where there is enough.",
    )
    lora: LoraConfig = LoraConfig()


class SplitConfig(Section):
    """How many examples go where: ratios below 1, or counts."""

    train: float = Field(0.8, ge=0, description="Share (or count) of examples to learn from.")
    val: float = Field(0.1, ge=0, description="Share (or count) watched during training.")
    test: float = Field(0.1, ge=0, description="Share (or count) held back for Evaluate.")


class DataConfig(Section):
    """Where the examples come from."""

    format: str = Field(
        "auto",
        description="Shape of the raw file; `auto` detects it. See `data.mapping`.",
    )
    raw_path: str | list[str] | None = Field(
        None, description="Raw file, several files, or a Hub data set id."
    )
    encoding: str = Field("auto", description="Text encoding of the raw file.")
    delimiter: str = Field("auto", description="Column separator of CSV and TSV files.")
    header: bool | Auto = Field(
        "auto", description="Whether the first row of a table names its columns."
    )
    sheet: str | None = Field(None, description="Sheet of an XLSX file; the first by default.")
    train_path: str = Field("data/processed/train.jsonl", description="Examples to learn from.")
    val_path: str = Field("data/processed/val.jsonl", description="Examples to watch.")
    test_path: str = Field("data/processed/test.jsonl", description="Examples held back.")
    template_path: str | None = Field(
        None, description="Chat template file; by default the model's own."
    )
    mapping: dict[str, str] = Field(
        default_factory=dict, description="Role to column, such as `user: Frage`."
    )
    fixes: list[str] = Field(
        default_factory=list, description="Kinds of findings the data doctor mends."
    )
    split: SplitConfig = SplitConfig()
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Seed of the split.")
    licence: str = Field("", description="Licence of the data, for the data card.")
    keep_edits: bool = Field(
        True, description="Make edits of processed examples again when they are processed anew."
    )


class StyleConfig(Section):
    """A rule every example should follow."""

    system: str = Field("", description="System prompt for the examples; empty leaves them.")
    rule: str = Field("", description="Style rule: a preset's name or free text.")
    how: Literal["inject", "append", "override"] = Field(
        "inject",
        description="inject (only where none), append, or override the system prompt.",
    )
    splits: list[Split] = Field(
        default=["train", "val", "test"],
        description="Splits the style is applied to.",
    )


class TrainConfig(Section):
    """The training loop."""

    epochs: float = Field(
        3,
        gt=0,
        le=1000,
        description="Passes over the training examples.",
        json_schema_extra=ESSENTIAL,
    )
    max_steps: int = Field(0, ge=0, description="Stop after this many steps; 0 means by epochs.")
    extended_by: list[Annotated[float, Field(gt=0, le=1000)]] = Field(
        default_factory=list,
        description="Epochs added after the end (`--extend`), each with its own warm-up and decay.",
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = Field(
        "auto",
        description="Size of an update at its highest; auto goes by model size and mode.",
        json_schema_extra=ESSENTIAL,
    )
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "constant",
        "constant_with_warmup",
        "polynomial",
        "inverse_sqrt",
    ] = Field("cosine", description="How the learning rate falls.")
    warmup_ratio: float = Field(0.05, ge=0, le=1, description="Share of steps to warm up.")
    warmup_steps: int = Field(0, ge=0, description="Steps to warm up; above 0 it wins.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Pull of the weights towards zero.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are clipped here; 0 is off.")
    neftune_noise_alpha: float = Field(
        0.0, ge=0, le=100, description="Noise on the embeddings while learning; 0 is off, 5 usual."
    )
    label_smoothing_factor: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all tokens; 0 is off."
    )
    optim: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="Optimizer; auto is adamw on a CPU and adamw_8bit on CUDA."
    )
    batch_size: Count | Auto = Field(
        "auto",
        description="Examples learned at a time on one device; auto: more where they are short.",
    )
    grad_accum: Count | Auto = Field(
        "auto", description="Micro-batches per step; auto keeps effective_batch."
    )
    effective_batch: int = Field(
        8,
        ge=1,
        le=65536,
        description="Examples per step over all micro-batches and devices.",
        json_schema_extra=ESSENTIAL,
    )
    processes: int = Field(
        1, ge=1, le=64, description="Processes of this machine that learn together; one per GPU."
    )
    lanes: Annotated[int, Field(ge=1, le=64)] | Auto = Field(
        "auto",
        description="Threads of a CPU that each learn from part of a micro-batch; auto by cores.",
    )
    sharding: Literal["no", "fsdp"] = Field(
        "no",
        description="Whether processes that learn together each keep only a part of the weights "
        "(fsdp): for models that one device cannot hold; slower.",
    )
    bf16: bool | Auto = Field("auto", description="Compute in bfloat16 where the device can.")
    fp16: bool | Auto = Field("auto", description="Compute in float16: older CUDA cards only.")
    gradient_checkpointing: bool | Auto = Field(
        "auto", description="Recompute instead of keeping activations: slower, leaner."
    )
    packing: bool | Auto = Field(
        "auto",
        description="Examples side by side without padding; attention stays per example.",
    )
    eval_strategy: Literal["no", "steps", "epoch"] = Field(
        "epoch", description="When the validation examples are scored."
    )
    eval_steps: int = Field(50, ge=1, description="Steps between evaluations (strategy steps).")
    save_strategy: Literal["no", "steps", "epoch"] = Field(
        "steps", description="When a checkpoint is saved; Stop always saves one."
    )
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints (strategy steps).")
    save_total_limit: int = Field(2, ge=1, description="Complete checkpoints kept, plus the best.")
    load_best_model_at_end: bool = Field(
        False, description="End with the checkpoint of the best evaluation."
    )
    metric_for_best_model: str = Field(
        "eval_loss",
        description="What best means: eval_loss, eval_perplexity, or a score of answers (rougeL, "
        "exact_match, token_f1 ...).",
    )
    eval_answers: Annotated[int, Field(ge=0, le=1000)] | Auto = Field(
        "auto",
        description="Validation questions answered and scored at every evaluation; auto is none, "
        "or 32 where metric_for_best_model needs them.",
    )
    early_stopping_patience: int = Field(
        0, ge=0, description="Evaluations without a gain before stopping; 0 is never."
    )
    sample_prompts: int = Field(
        2, ge=0, le=20, description="Validation questions answered at every evaluation."
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Seed of order, weights and dropout.")
    resume: str | None = Field(None, description="Run to continue from its newest checkpoint.")

    @model_validator(mode="after")
    def check_pairs(self) -> "TrainConfig":
        """Refuse settings that contradict each other."""
        problems = contradictions(self.__dict__)
        if problems:
            raise ValueError(" ".join(problems))
        return self


def contradictions(train: Mapping[str, Any]) -> list[str]:
    """List the pairs of training settings that cannot both hold; absent ones have their default."""
    no_evaluation = train.get("eval_strategy") == "no"
    found = []
    if train.get("bf16") is True and train.get("fp16") is True:
        found.append("`train.bf16` and `train.fp16` are both true: set one of them.")
    if train.get("load_best_model_at_end") is True and no_evaluation:
        found.append("`train.load_best_model_at_end` needs `train.eval_strategy` steps or epoch.")
    if train.get("early_stopping_patience") and no_evaluation:
        found.append("`train.early_stopping_patience` needs `train.eval_strategy` steps or epoch.")
    return found


class EvaluateConfig(Section):
    """Scores before and after tuning."""

    run: str | None = Field(
        None,
        description="Run or adapter folder to score; the last by default, `base` for none.",
    )
    split: Split = Field("test", description="Examples to score on.")
    limit: int = Field(30, ge=0, description="Most examples to answer; 0 means all.")
    base: bool = Field(True, description="Answer with the base model too, for the comparison.")
    batch_size: int = Field(16, ge=1, le=512, description="Answers written side by side.")


class GenerateConfig(Section):
    """How answers are written."""

    max_new_tokens: int = Field(200, ge=1, le=8192, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0, le=5, description="0 is greedy: always the likeliest.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the likeliest tokens up to this.")
    top_k: int = Field(0, ge=0, description="Draw from this many likeliest tokens; 0 is all.")
    repetition_penalty: float = Field(1.0, ge=0.5, le=5, description="Above 1 repeats less.")
    seed: int = Field(42, ge=0, le=2**31 - 1, description="Seed of the drawing.")


class MergeConfig(Section):
    """Folding an adapter into its base model."""

    adapter: str | None = Field(None, description="Run or adapter folder; the last by default.")
    out: str | None = Field(None, description="Folder of the merged model.")
    dtype: Literal["bf16", "fp16"] = Field("bf16", description="Precision of the merged weights.")


class ChatConfig(Section):
    """Talking to a model."""

    run: str | None = Field(
        None,
        description="Run or adapter folder to talk to; the last by default, `base` for none.",
    )


class LoggingConfig(Section):
    """What is written down while a run goes on."""

    backend: Literal["tensorboard", "none"] = Field(
        "tensorboard", description="Mirror the events for TensorBoard, or not."
    )
    log_interval: int = Field(1, ge=1, description="Steps between logged steps.")


class RunConfig(Section):
    """All that a run needs to know; `outputs/<run>/config.yaml` holds it whole."""

    job: Job = Field("train", description="What the run does.")
    run_name: str = Field("auto", description="Name of the run's folder; auto goes by model.")
    model: ModelConfig = ModelConfig()
    tuning: TuningConfig = TuningConfig()
    data: DataConfig = DataConfig()
    style: StyleConfig = StyleConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    generate: GenerateConfig = GenerateConfig()
    merge: MergeConfig = MergeConfig()
    chat: ChatConfig = ChatConfig()
    logging: LoggingConfig = LoggingConfig()

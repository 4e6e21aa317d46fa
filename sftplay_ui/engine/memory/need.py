"""From a configuration to bytes on a device: what a run of it would need here, at most.

Every `auto` is decided by `resolve`, as the worker decides it. A verdict is left to `estimate`.
"""

from dataclasses import dataclass

from sftplay_ui.engine.backends import hoped_for
from sftplay_ui.engine.config import RunConfig
from sftplay_ui.engine.device import DeviceInfo
from sftplay_ui.engine.memory.lengths import TokenLengths
from sftplay_ui.engine.memory.shapes import ModelShape
from sftplay_ui.engine.memory.terms import Parts, Peak, Setup, peak, way_of
from sftplay_ui.engine.resolve import ModelSize, Resolved, resolve

GIB = 1 << 30
# Blocks torch's allocator holds beside what is in use; replayed traces needed 2 to 14 % more.
SLACK = 0.15
# CUDA's own memory in a process that computes; taken over from others' figures, not measured.
CUDA_CONTEXT = 0.7 * GIB
# Python with torch, transformers and peft loaded, before any model; with bitsandbytes and what it
# unpacks while it loads. From a few runs of the starter model, whose real peaks were 2.3 GB (2.5
# estimated), 1.5 (1.4) and, in 4 bits, 1.8 (1.7).
PROCESS, PROCESS_QUANTISED = 0.75 * GIB, 1.15 * GIB
LONGEST_WITH_SCORES = 1024


@dataclass(frozen=True)
class Correction:
    """What is known better than by the closed form: `factors` of its parts, and what is `more`.

    `slack` is the share around the tensors, `context` what the process takes, where it is known.
    """

    factors: Parts
    more: Parts
    slack: float = SLACK
    context: float | None = None

    @classmethod
    def between(
        cls, closed: Parts, known: Parts, *, slack: float = SLACK, context: float | None = None
    ) -> "Correction":
        """Make the correction that turns one step's closed form into what is known of it."""
        pairs = [(name, size, getattr(known, name)) for name, size in vars(closed).items()]
        return cls(
            Parts(**{name: better / size if size else 1.0 for name, size, better in pairs}),
            Parts(**{name: 0.0 if size else better for name, size, better in pairs}),
            slack,
            context,
        )

    def of(self, closed: Parts) -> Parts:
        """Correct the closed form of the same step, or of one like it."""
        factors, more = vars(self.factors), vars(self.more)
        return Parts(**{k: v * factors[k] + more[k] for k, v in vars(closed).items()})


@dataclass(frozen=True)
class Need:
    """What a run needs at its worst moment, in bytes: tensors, slack around them, the process."""

    resolved: Resolved
    setup: Setup
    peak: Peak
    slack: float
    context: float
    config: RunConfig
    correction: Correction | None = None

    @property
    def device_bytes(self) -> int:
        return int(self.peak.parts.total + self.slack + self.context)


def need(
    config: RunConfig,
    shape: ModelShape,
    device: DeviceInfo,
    lengths: TokenLengths | None = None,
    correction: Correction | None = None,
) -> Need:
    """Estimate what a training run needs; without lengths every example counts as the longest.

    A correction found for a run like it is applied to the closed form.
    Raises ConfigError or BackendError for what the device cannot do at all.
    """
    longest = longest_example(config, lengths)
    size = ModelSize(
        shape.parameters,
        shape.layers,
        shape.hidden,
        shape.intermediate,
        encodes=shape.family == "t5",
    )
    resolved = resolve(config, device, size, longest, backend=hoped_for(config))
    return settled_need(config, shape, device, resolved, lengths, correction)


def settled_need(
    config: RunConfig,
    shape: ModelShape,
    device: DeviceInfo,
    resolved: Resolved,
    lengths: TokenLengths | None = None,
    correction: Correction | None = None,
) -> Need:
    """Estimate what a run needs whose settings are decided."""
    setup = setup_of(config, shape, resolved, lengths, on_cpu=device.kind == "cpu")
    most, slack, context = peak(shape, setup), SLACK, context_bytes(device, resolved.mode)
    if correction is not None:
        most = Peak(most.phase, correction.of(most.parts))
        slack = correction.slack
        context = context if correction.context is None else correction.context
    return Need(resolved, setup, most, slack * most.parts.total, context, config, correction)


def longest_example(config: RunConfig, lengths: TokenLengths | None) -> int:
    """Name the longest example after the cut."""
    cut = config.model.max_seq_len
    return min(cut, lengths.longest) if lengths else cut


def setup_of(
    config: RunConfig,
    shape: ModelShape,
    resolved: Resolved,
    lengths: TokenLengths | None,
    *,
    on_cpu: bool,
) -> Setup:
    """Put the decided settings into numbers; on a CPU attention keeps the scores of short rows."""
    longest, batch = longest_example(config, lengths), resolved.batch_size
    tokens = longest * batch
    share = 1.0
    if lengths is not None:
        share = lengths.learned_share
        # unsloth's attention knows no rows side by side
        if config.train.packing is not False and resolved.backend == "bnb":
            # left to itself a run takes more of the short ones at a time
            more = resolved.grad_accum if config.train.batch_size == "auto" else 1
            tokens = min(tokens, lengths.heaviest(batch * more))
    lora = config.tuning.lora
    learns_all = resolved.mode == "full"
    # what is unpacked once learns as 16-bit weights do
    mode = "lora" if resolved.unpacked else resolved.mode
    return Setup(
        mode=mode,
        way=way_of(mode, resolved.precision),
        loss="chunked" if shape.plain_head else "selected",
        adapter=0 if learns_all else shape.adapter_weights(lora.r, lora.target_modules),
        optim=resolved.optim,
        checkpointing=resolved.gradient_checkpointing,
        tokens=tokens,
        learned=max(1, round(tokens * share)),
        row=longest if on_cpu and longest <= LONGEST_WITH_SCORES else 0,
        double_quant=resolved.double_quant,
        on_cpu=on_cpu,
        lanes=resolved.lanes,
    )


def context_bytes(device: DeviceInfo, mode: str) -> float:
    """Estimate what the process takes before any model: CUDA's context, or Python and libraries."""
    if device.kind == "cuda":
        return CUDA_CONTEXT
    return PROCESS_QUANTISED if mode == "qlora" else PROCESS

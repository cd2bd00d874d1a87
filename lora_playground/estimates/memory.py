"""Estimates how much memory a run will need, by cause, from sizes alone.

It knows a model's shape, what each variant keeps in memory (`variants.base.Memory`) and how this app's training loop
uses memory. It needs no torch, and reads only file headers of a model. `benchmarks/memory_estimate.py` compares the
estimate with what is really allocated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.errors import ModelError, PlaygroundError
from lora_playground.estimates.parameters import Shapes, modules_of, trained
from lora_playground.models.catalogue import sizes_of
from lora_playground.models.model_shape import ModelShape
from lora_playground.runs import RunStore
from lora_playground.variants import get_variant

OVERHEAD = {"cpu": (700_000_000, 1_050_000_000), "cuda": (400_000_000, 1_000_000_000)}
"""{device: (least, most) bytes that the process holds besides tensors}. On a CPU: Python, its libraries, and freed
memory that the C library keeps, as measured with the embedded model (docs/benchmarks.md); a larger model can take its
weights' size once more, for weights that are read but not yet converted. On CUDA, not measured: the context, its
kernels, and what torch's allocator keeps."""
RECENT_RUNS = 20
"""How many of the newest runs are read for their overhead."""

_LOGITS_AT_ONCE = 2**25
"""Logits computed at once (`training.loss`)."""
_PADDED = 1.15
"""Positions per token in this app's CPU attention, which rounds the examples' lengths up (`training.attention`)."""
_SHARED_INPUT = (
    ("attention", ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value")),
    ("mlp", ("gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc")),
)
"""Modules of a layer that read the same input; any other module has an input of its own."""


@dataclass(frozen=True)
class Conditions:
    """What the memory depends on besides the config.

    Attributes:
        device: 'cpu' or 'cuda'. precision: of 'auto' on this device, 'float32' or 'bfloat16'.
        longest: tokens of the longest example; None takes `data.max_length`, or the batch where that is less.
        learned: share of the tokens that count for the loss.
    """

    device: str = "cpu"
    precision: str = "float32"
    longest: int | None = None
    learned: float = 0.5


@dataclass(frozen=True)
class MemoryEstimate:
    """What a run needs.

    Attributes:
        trainable, parameters: how many are trained, and how many the base model has.
        adapter_bytes: size of the saved adapter, in float32.
        causes: bytes by cause: weights, adapter, gradients, optimiser, activations, logits, and runtime (the most that
            `overhead` says).
        tensors: peak bytes of all tensors at once. This is less than the sum of the causes, since gradients and
            activations are not largest at the same time.
        overhead: least and most bytes besides tensors.
    """

    trainable: int
    parameters: int
    adapter_bytes: int
    causes: dict[str, int]
    tensors: int
    overhead: tuple[int, int]

    @property
    def least(self) -> int:
        """The least peak memory in bytes, of the process (CPU) or on the device (CUDA)."""
        return self.tensors + self.overhead[0]

    @property
    def most(self) -> int:
        """The largest peak memory in bytes."""
        return self.tensors + self.overhead[1]


def estimate_memory(
    config: RunConfig, conditions: Conditions = Conditions(), overhead: tuple[int, int] | None = None
) -> MemoryEstimate | None:
    """Estimates a run.

    Args:
        overhead: (least, most) bytes of earlier runs besides tensors (`seen_overhead`); None takes OVERHEAD.

    Returns:
        None if the model's sizes are neither on this disk nor in the catalogue.

    Raises:
        ConfigError: the variant's options do not fit the model. ModelError: the model cannot be read.
    """
    shape, modules = sizes_of(config.model.source), modules_of(config.model.source)
    if shape is None or modules is None:
        return None
    trainable, adapted = trained(config, modules)
    step = _Step.of(config, shape, adapted, trainable, conditions)
    weights, logits = step.weights() + step.frozen(), step.logits()
    adapter = 0 if step.full else 4 * trainable  # full fine-tuning trains the weights themselves
    kept, passing = step.activations()
    gradients, optimiser = 4 * trainable, 8 * trainable
    summed = gradients if config.training.accumulation > 1 else 0  # of earlier micro-batches
    tensors = weights + adapter + optimiser + max(kept + summed + max(logits, passing), gradients + passing)
    if overhead is None:
        least, most = OVERHEAD["cuda" if step.cuda else "cpu"]
        overhead = (least, most if step.cuda else most + weights)
    causes = {
        "weights": weights,
        "adapter": adapter,
        "gradients": gradients,
        "optimiser": optimiser,
        "activations": kept + (0 if logits > passing else passing),
        "logits": logits,
        "runtime": overhead[1],
    }
    saved = trainable if step.full else get_variant(config.variant.name).saved(list(adapted.values()), config.variant)
    return MemoryEstimate(trainable, shape.parameters, 4 * saved, causes, tensors, overhead)


def known_memory(config: RunConfig, conditions: Conditions = Conditions()) -> MemoryEstimate | None:
    """Like `estimate_memory`, but None if the model cannot be read, for callers that need no reason."""
    try:
        return estimate_memory(config, conditions)
    except ModelError:
        return None


def seen_overhead(store: RunStore, source: str) -> tuple[int, int] | None:
    """(least, most) bytes that recent runs of this base model held besides their tensors; None without such runs."""
    found = []
    for run in store.list()[:RECENT_RUNS]:
        result = run.result() or {}
        try:
            whole, tensors = int(result.get("peak_memory_bytes") or 0), int(result.get("tensor_memory_bytes") or 0)
            if 0 < tensors < whole and run.config().model.source == source:
                found.append(whole - tensors)
        except (PlaygroundError, TypeError, ValueError):
            continue  # a result in another format
    return (min(found), max(found)) if found else None


def advice(config: RunConfig, estimate: MemoryEstimate, conditions: Conditions = Conditions()) -> list[str]:
    """What to change so that the run needs less memory: at most three changes, the most useful first. Each is tried
    with the estimate; those that save less than a twentieth are left out."""
    training, batch = config.training, config.training.batch_tokens
    changes: list[tuple[str, str, dict[str, Any]]] = []
    if not training.gradient_checkpointing:
        changes.append(("turn on training.gradient_checkpointing", "training", {"gradient_checkpointing": True}))
    if batch // training.accumulation > 64:
        more, less = 4 * training.accumulation, max(32, batch // 4)
        changes.append((f"raise training.accumulation to {more}", "training", {"accumulation": more}))
        changes.append((f"lower training.batch_tokens to {less}", "training", {"batch_tokens": less}))
    if config.data.max_length > 64:
        shorter = config.data.max_length // 2
        changes.append((f"shorten data.max_length to {shorter}", "data", {"max_length": shorter}))
    if config.model.quantisation == "none" and 4 in get_variant(config.variant.name).bits:
        changes.append(("store the base in 4 bit (model.quantisation)", "model", {"quantisation": "4bit"}))
    found: list[tuple[int, str]] = []
    for text, section, change in changes:
        tried = config.model_copy(update={section: getattr(config, section).model_copy(update=change)})
        shorter = min(conditions.longest or tried.data.max_length, tried.data.max_length)
        again = estimate_memory(tried, replace(conditions, longest=conditions.longest and shorter))
        if again is not None and estimate.tensors - again.tensors > 0.05 * estimate.tensors:
            found.append((estimate.tensors - again.tensors, text))
    return [text for _, text in sorted(found, reverse=True)][:3] or ["choose a smaller base model"]


def micro_batches(config: RunConfig, available: int, conditions: Conditions = Conditions()) -> int:
    """The smallest number of micro-batches for each step, `training.accumulation` times a power of two, with which the
    run needs at most nine tenths of the available bytes. `training.accumulation` itself if no number is enough, or the
    model's sizes are unknown."""
    asked = micro = config.training.accumulation
    while config.training.batch_tokens // micro >= 64:
        training = config.training.model_copy(update={"accumulation": micro})
        found = estimate_memory(config.model_copy(update={"training": training}), conditions)
        if found is None:
            return asked
        if found.tensors <= 0.9 * available:
            return micro
        micro *= 2
    return asked


@dataclass(frozen=True)
class _Step:
    """What one micro-batch uses.

    Attributes:
        adapted: (out, in) of the adapted modules. trainable: trained parameters.
        width: bytes of an activation, 4 or 2. tokens: of the micro-batch, padding included.
        longest: tokens of the longest example. learned: share of the tokens that count for the loss.
    """

    config: RunConfig
    shape: ModelShape
    adapted: Shapes
    trainable: int
    cuda: bool
    width: int
    tokens: int
    longest: int
    learned: float

    @classmethod
    def of(cls, config: RunConfig, shape: ModelShape, adapted: Shapes, trainable: int, conditions: Conditions) -> _Step:
        training, limit = config.training, config.data.max_length
        precision = conditions.precision if training.precision == "auto" else training.precision
        micro = max(1, training.batch_tokens // training.accumulation)
        longest = min(limit, conditions.longest or max(micro, 64))
        tokens = -(-max(micro, longest) // 32) * 32  # a batch holds at least the longest example, and is padded to 32
        longest = min(limit, conditions.longest or limit, tokens)
        width, cuda = 2 if precision == "bfloat16" else 4, conditions.device.startswith("cuda")
        return cls(config, shape, adapted, trainable, cuda, width, tokens, longest, conditions.learned)

    @property
    def full(self) -> bool:
        return self.config.variant.name == "full"

    def weights(self) -> int:
        """The base model's weights as they are stored."""
        total, stored = self.shape.parameters, self.config.model.quantisation
        if self.full:
            # Trained weights are in float32. On a CPU there is also an unchanged copy of them.
            copies = 1 if self.cuda else 2
            return 4 * copies * self.trainable + self.width * max(0, total - self.trainable)
        linear = sum(out * into for _, out, into in self.shape.modules())
        if stored == "4bit":  # for every 64 weights one scale of 8 bits, and for 256 scales one in float32
            return round(linear * (0.5 + 1 / 64 + 4 / 64 / 256)) + self.width * (total - linear)
        if stored == "8bit":  # one float32 scale per row
            return linear + sum(4 * out for _, out, _ in self.shape.modules()) + self.width * (total - linear)
        return self.width * total

    def frozen(self) -> int:
        """Tensors of the variant that are neither the base model's nor trained."""
        variant, rank = get_variant(self.config.variant.name), getattr(self.config.variant, "rank", 0)
        lora = sum(rank * (out + into) for out, into in self.adapted.values())
        float32, computed = variant.beside(self.adapted, self.config.variant)
        own = variant.memory.frozen * lora + variant.memory.trained * self.trainable + float32
        return round(4 * own + self.width * computed)

    def activations(self) -> tuple[int, int]:
        """(bytes that all layers keep for backward, bytes that the backward pass of one layer needs besides)."""
        s, e, t = self.shape, self.width, self.tokens
        layer = self._norms() + self._attention() + t * e * (3 if s.gated else 4) * s.inner + self._adapters()
        ends = t * s.hidden * (2 * e + 4) + self._mask()  # embeddings and the last norm
        passing = t * e * (2 * s.inner + s.hidden) + self._dense()
        if self.config.training.gradient_checkpointing:  # layers keep their inputs, and are computed again one by one
            return round(s.layers * t * s.hidden * e + ends), round(layer + passing)
        return round(s.layers * layer + ends), round(passing)

    def logits(self) -> int:
        """Scores of the vocabulary, their softmax and their gradient, for the learned tokens or a part of them."""
        rows, words = round(self.learned * self.tokens), self.shape.vocabulary
        if rows <= max(1, _LOGITS_AT_ONCE // words):
            return 12 * rows * words
        return 4 * _LOGITS_AT_ONCE * (2 if self.width == 4 else 3)

    def _norms(self) -> float:
        s, t = self.shape, self.tokens
        kept = 4 + (self.width if self.full else 0)  # the input in float32; to train the scales, the normalised one too
        if not s.rms and self.width == 2:
            kept += 4  # LayerNorm gives float32 under autocast
        return s.norms * t * s.hidden * kept + (t * (s.query + s.key) * 4 if s.head_norms else 0)

    def _attention(self) -> float:
        s, e, t = self.shape, self.width, self.tokens
        keys = 2 * (s.query if s.key < s.query else s.key)  # keys and values, repeated for groups of query heads
        if self.cuda:
            return t * e * (2 * s.query + keys)
        e = 4  # `training.attention` computes in float32 there
        # A CPU has no fused attention with dropout: it keeps weights, the mask, and the weights that are left.
        weights = s.heads * 13 * 0.8 * self.longest if s.attention_dropout else 4 * s.heads
        return _PADDED * t * (e * (2 * s.query + keys) + weights)

    def _adapters(self) -> float:
        """Bytes that the adapted modules keep, averaged over the layers."""
        keeps, options, t = get_variant(self.config.variant.name).memory, self.config.variant, self.tokens
        rank, dropout = getattr(options, "rank", 0), getattr(options, "dropout", 0.0) > 0
        squares = keeps.squares + keeps.squares_by_rank * rank
        total = 0.0
        for out, into in self.adapted.values():
            total += t * self.width * (rank + keeps.inputs * into + keeps.outputs * out)
            total += 4 * (keeps.copies * out * into + squares * into**2)
            total += t * (1 + self.width) * into if dropout else 0
        if keeps.shared and not dropout:
            total += t * self.width * sum(self._inputs().values())
        return total / self.shape.layers

    def _inputs(self) -> dict[str, int]:
        """{input: width} of the inputs of adapted modules; modules that read the same input count once."""
        found = {}
        for name, (_, into) in self.adapted.items():
            layer, last = name.rsplit(".", 1)
            reader = next((kind for kind, names in _SHARED_INPUT if last in names), "")
            if reader and self.shape.norms == 1:  # attention and MLP run in parallel and read the same norm
                layer, reader = layer.rsplit(".", 1)[0], "both"
            found[f"{layer} {reader}" if reader else name] = into
        return found

    def _dense(self) -> float:
        """Temporary matrices of the largest module: a quantised weight is unpacked, and some variants write out ΔW. An
        8-bit product makes three matrices of the output's size: int32 sums, the scales, and their product."""
        stored, passing = self.config.model.quantisation, get_variant(self.config.variant.name).memory.passing
        largest = max((out * into for out, into in self.adapted.values()), default=0)
        sums = 3 * self.width * self.tokens * max((out for out, _ in self.adapted.values()), default=0)
        unpacked = 0 if stored == "none" else self.width
        return (unpacked + 4 * passing) * largest + (sums if stored == "8bit" else 0)

    def _mask(self) -> int:
        """On CUDA, attention takes a mask of tokens × the longest row."""
        side = min(self.tokens, max(32, self.config.data.max_length))
        return self.tokens * side * (self.width + 1) if self.cuda else 0

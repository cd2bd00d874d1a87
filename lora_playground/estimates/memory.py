"""What a run will cost, from sizes alone: trained parameters, the adapter's size, and memory by cause.

It knows a model's geometry, the variants' counts and how this app's loop uses memory; no torch, no files but headers.
The memory of the tensors is compared with what is really allocated in `benchmarks/memory_estimate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_playground.config import RunConfig
from lora_playground.errors import ModelError
from lora_playground.models.catalogue import folder_of, module_shapes, sizes_of, tensor_shapes
from lora_playground.models.model_shape import ModelShape
from lora_playground.variants import get_variant
from lora_playground.variants.base import Memory
from lora_playground.variants.targets import select

LEARNED = 0.5
"""Share of the tokens that are learned where the data does not tell."""
BESIDE = {"cpu": (700_000_000, 1_050_000_000), "cuda": (400_000_000, 1_000_000_000)}
"""The least and the most that the process holds beside tensors: Python, its libraries and what the C library keeps of
freed memory, as runs of the embedded model were seen to (docs/benchmarks.md), or the CUDA context, its kernels and what
torch's allocator keeps, which nobody has measured yet. On a CPU a larger model may come to hold its weights once more
(what is read beside what it is read into, and freed memory that is kept): the most grows by them."""

_CHUNK = 2**25
"""Logits computed at once (`training.loss`)."""
_GROUPS = 1.15
"""Places of this app's CPU attention to a token: examples are grouped by rounded length (`training.attention`)."""

_READERS = (
    ("attention", ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value")),
    ("mlp", ("gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc")),
)
"""Modules of a layer that read the same input; any other reads its own."""


@dataclass(frozen=True)
class Cost:
    """What a run will cost.

    Attributes:
        trainable, parameters: how many are trained, and how many the model has.
        adapter_bytes: of the saved adapter, in float32.
        causes: bytes by cause: weights, adapter, gradients, optimiser, activations, logits, and at most the runtime.
        beside: the least and the most that is held beside tensors, the second being the runtime.
        tensors: peak bytes of all tensors at once; less than the sum of the causes, since gradients and activations
            are not at their highest at the same time.
    """

    trainable: int
    parameters: int
    adapter_bytes: int
    causes: dict[str, int]
    tensors: int
    beside: tuple[int, int]

    @property
    def least(self) -> int:
        """Peak bytes of the process (CPU) or of all that it takes of the device (CUDA), at the least."""
        return self.tensors + self.beside[0]

    @property
    def total(self) -> int:
        """The same at the most."""
        return self.tensors + self.beside[1]


def cost(
    config: RunConfig,
    device: str = "cpu",
    precision: str = "float32",
    longest: int | None = None,
    learned: float = LEARNED,
    beside: tuple[int, int] | None = None,
) -> Cost | None:
    """Estimates a run.

    Args:
        device: 'cpu' or 'cuda', on which attention keeps different things.
        precision: 'float32' or 'bfloat16': what 'auto' will choose there; a config that names one overrules it.
        longest: tokens of the longest example; None takes `data.max_length`, or the batch where that is less.
        learned: share of the tokens that are learned.
        beside: what earlier runs held beside tensors, at the least and at the most; None takes `BESIDE`.

    Returns:
        None where neither the disk nor the catalogue knows the model's sizes.

    Raises:
        ConfigError, ModelError: as the catalogue and the variant's options give them.
    """
    sizes = sizes_of(config.model.source)
    if sizes is None:
        return None
    if config.training.precision != "auto":
        precision = config.training.precision
    trained, adapted = _trained(config, sizes)
    tokens = _tokens(config, longest)
    most = min(config.data.max_length, longest or config.data.max_length, tokens)
    use = _Use(config, sizes, device, 2 if precision == "bfloat16" else 4, tokens, learned, most)
    weights, adapter = use.weights(trained) + use.frozen(adapted, trained), 4 * trained
    activations, passing = use.activations(adapted)
    logits = use.logits()
    optimiser = 8 * trained
    if config.variant.name == "full":
        adapter = 0
    gradients = 4 * trained
    held = gradients if config.training.accumulation > 1 else 0
    lasting = weights + adapter + optimiser
    peak = lasting + max(activations + held + max(logits, passing), gradients + passing)
    around = beside or _beside(device, weights)
    causes = {
        "weights": weights,
        "adapter": adapter,
        "gradients": gradients,
        "optimiser": optimiser,
        "activations": activations + (0 if logits > passing else passing),
        "logits": logits,
        "runtime": around[1],
    }
    return Cost(trained, use.parameters, 4 * trained, causes, peak, around)


def _beside(device: str, weights: int) -> tuple[int, int]:
    if device.startswith("cuda"):
        return BESIDE["cuda"]
    least, most = BESIDE["cpu"]
    return least, most + weights


def _trained(config: RunConfig, sizes: ModelShape) -> tuple[int, dict[str, tuple[int, int]]]:
    """How many parameters are trained, and the (out, in) of the modules that are adapted."""
    variant: Any = get_variant(config.variant.name)
    folder = folder_of(config.model.source)
    listed = module_shapes(folder) if folder is not None else sizes.modules()
    shapes = {name: (out, into) for name, out, into in listed}
    targets = getattr(config.variant, "target_modules", None)
    if targets is not None:
        adapted = select(shapes, targets)
        return variant.count(adapted.values(), config.variant), adapted
    # A variant that cannot be told which modules to adapt trains all parameters.
    whole: list[tuple[int, ...]] = [(sizes.parameters,)]
    if folder is not None:
        whole = list(tensor_shapes(folder).values())
    if not getattr(config.variant, "embeddings", True):
        whole = list(shapes.values())
    return variant.count(whole, config.variant), shapes


def _tokens(config: RunConfig, longest: int | None) -> int:
    """Tokens of a micro-batch, padding included: rows are rounded up to the longest example and to 32."""
    room = max(1, config.training.batch_tokens // config.training.accumulation)
    most = min(config.data.max_length, longest or config.data.max_length)
    if longest is None:
        most = min(most, max(room, 64))
    return -(-max(room, most) // 32) * 32


@dataclass(frozen=True)
class _Use:
    """How much a micro-batch of `tokens` uses. `e`: bytes of an activation, 4 or 2."""

    config: RunConfig
    sizes: ModelShape
    device: str
    e: int
    tokens: int
    learned: float
    longest: int

    @property
    def parameters(self) -> int:
        """Parameters of the base model."""
        return self.sizes.parameters

    def weights(self, trained: int) -> int:
        """Bytes of the frozen weights as they are stored."""
        linear = sum(m * n for _, m, n in self.sizes.modules())
        other = self.sizes.parameters - linear
        stored = self.config.model.quantisation
        if self.config.variant.name == "full":
            # What trains is float32; a pristine copy waits in main memory.
            whole = 4 * trained + self.e * max(0, self.parameters - trained)
            return whole + (0 if self.device.startswith("cuda") else 4 * trained)
        if stored == "4bit":  # four bits, and for every 64 of them a scale of 8 bits (double quantisation)
            return round(linear * (0.5 + 1 / 64 + 4 / 64 / 256)) + self.e * other
        if stored == "8bit":
            return linear + sum(4 * m for _, m, _ in self.sizes.modules()) + self.e * other
        return self.e * self.parameters

    def activations(self, adapted: dict[str, tuple[int, int]]) -> tuple[int, int]:
        """(bytes kept for backward by all layers, bytes that one layer's backward needs on top)."""
        g, e, t = self.sizes, self.e, self.tokens
        full = self.config.variant.name == "full"
        layer = self._norms(full) + self._attention() + self._mlp() + self._adapters(adapted)
        ends = t * (g.hidden * (e + self._norm_bytes()) + g.hidden * e) + self._mask()
        passing = t * e * (2 * g.inner + g.hidden) + self._dense_passing(adapted)
        if self.config.training.gradient_checkpointing:
            return round(g.layers * t * g.hidden * e + ends), round(layer + passing)
        return round(g.layers * layer + ends), round(passing)

    def _norm_bytes(self) -> int:
        """Of what a norm keeps of its input, to an entry: its float32 copy (in float32 the residual itself)."""
        return 4

    def _norms(self, full: bool) -> float:
        g, e, t = self.sizes, self.e, self.tokens
        kept = self._norm_bytes() + (e if full else 0)  # its input; trained scales need the normed input too
        if not g.rms and e == 2:
            kept += 4  # LayerNorm gives float32 under autocast
        heads = t * (g.query + g.key) * 4 if g.head_norms else 0
        return g.norms * t * g.hidden * kept + heads

    def _attention(self) -> float:
        g, e, t = self.sizes, self.e, self.tokens
        keys = 2 * (g.query if g.key < g.query else g.key)
        if self.device.startswith("cuda"):
            return t * e * (g.query + keys + g.query)
        # With dropout the CPU has no fused attention, and keeps weights, mask and what is left of them.
        weights = g.heads * 13 * 0.8 * self.longest if g.attention_dropout else 4 * g.heads
        return _GROUPS * t * (e * (2 * g.query + keys) + weights)

    def _mlp(self) -> float:
        kept = 3 if self.sizes.gated else 4
        return self.tokens * self.e * kept * self.sizes.inner

    def _adapters(self, adapted: dict[str, tuple[int, int]]) -> float:
        """What the adapters keep, a layer on average."""
        variant, t, keeps = self.config.variant, self.tokens, self._memory
        rank = getattr(variant, "rank", 0)
        dropout = getattr(variant, "dropout", 0.0) > 0
        squares = keeps.squares + keeps.squares_by_rank * rank
        total = 0.0
        for out, into in adapted.values():
            total += t * self.e * (rank + keeps.inputs * into + keeps.outputs * out)
            total += 4 * (keeps.copies * out * into + squares * into**2)
            total += t * (1 + self.e) * into if dropout else 0
        if keeps.shared and not dropout:
            total += t * self.e * sum(self._inputs(adapted).values())
        return total / self.sizes.layers

    def _inputs(self, adapted: dict[str, tuple[int, int]]) -> dict[str, int]:
        """Widths of the inputs that adapted modules read, each once."""
        found = {}
        for name, (_, into) in adapted.items():
            layer, last = name.rsplit(".", 1)[0], name.rsplit(".", 1)[1]
            reader = next((kind for kind, names in _READERS if last in names), "")
            if reader and self.sizes.norms == 1:  # attention and MLP side by side, behind one norm
                layer, reader = layer.rsplit(".", 1)[0], "both"
            found[f"{layer} {reader}" if reader else name] = into
        return found

    @property
    def _memory(self) -> Memory:
        return get_variant(self.config.variant.name).memory

    def frozen(self, adapted: dict[str, tuple[int, int]], trained: int) -> int:
        """Bytes of what a variant keeps that is neither the base's nor trained."""
        rank = getattr(self.config.variant, "rank", 0)
        lora = sum(rank * (out + into) for out, into in adapted.values())
        float32, computed = get_variant(self.config.variant.name).beside(adapted, self.config.variant)
        return round(4 * (self._memory.frozen * lora + self._memory.trained * trained + float32) + self.e * computed)

    def _dense_passing(self, adapted: dict[str, tuple[int, int]]) -> float:
        """Of the largest module: a quantised weight is unpacked for its product, and what a variant writes out. A
        product in 8 bit is a sum in int32, its scales written out, and the two multiplied, before it is a result."""
        stored = self.config.model.quantisation
        unpacked = 0 if stored == "none" else self.e
        largest = max((out * into for out, into in adapted.values()), default=0)
        sums = 3 * self.e * self.tokens * max((out for out, _ in adapted.values()), default=0)
        return (unpacked + 4 * self._memory.passing) * largest + (sums if stored == "8bit" else 0)

    def _mask(self) -> int:
        """Where attention takes a mask: rows of the batch's length at most."""
        if not self.device.startswith("cuda"):
            return 0
        side = min(self.tokens, max(32, self.config.data.max_length))
        return self.tokens * side * (self.e + 1)

    def logits(self) -> int:
        """At the head: scores, their softmax and their gradient for the learned tokens, or for a chunk of them."""
        v, n = self.sizes.vocabulary, round(self.learned * self.tokens)
        if n <= max(1, _CHUNK // v):
            return 12 * n * v
        return 4 * _CHUNK * (2 if self.e == 4 else 3)


def advice(config: RunConfig, estimate: Cost, **situation: Any) -> list[str]:
    """What to change so that the run needs less memory: at most three, the most useful first.

    Each is tried on the estimate; what saves less than a twentieth is left out. `situation`: as for `cost`.
    """
    training, batch = config.training, config.training.batch_tokens
    changes: list[tuple[str, str, dict[str, Any]]] = []
    if not training.gradient_checkpointing:
        changes.append(("turn on training.gradient_checkpointing", "training", {"gradient_checkpointing": True}))
    if batch // training.accumulation > 64:
        more = 4 * training.accumulation
        changes.append((f"raise training.accumulation to {more}", "training", {"accumulation": more}))
        less = max(32, batch // 4)
        changes.append((f"lower training.batch_tokens to {less}", "training", {"batch_tokens": less}))
    if config.data.max_length > 64:
        shorter = config.data.max_length // 2
        changes.append((f"shorten data.max_length to {shorter}", "data", {"max_length": shorter}))
    if config.model.quantisation == "none" and 4 in get_variant(config.variant.name).bits:
        changes.append(("store the base in 4 bit (model.quantisation)", "model", {"quantisation": "4bit"}))
    found: list[tuple[int, str]] = []
    for text, section, change in changes:
        part = getattr(config, section).model_copy(update=change)
        given = dict(situation)
        if "max_length" in change and given.get("longest"):
            given["longest"] = min(given["longest"], change["max_length"])
        again = cost(config.model_copy(update={section: part}), **given)
        if again is not None:
            found.append((estimate.tensors - again.tensors, text))
    useful = [pair for pair in sorted(found, reverse=True) if pair[0] > 0.05 * estimate.tensors]
    return [text for _, text in useful][:3] or ["choose a smaller base model"]


def micro_batches(config: RunConfig, room: int, **situation: Any) -> int:
    """The fewest micro-batches a step, doubling from `training.accumulation`, with which the run needs at most nine
    tenths of `room` bytes; the number asked for where no number of them is enough or the cost is unknown."""
    asked = micro = config.training.accumulation
    while config.training.batch_tokens // micro >= 64:
        part = config.training.model_copy(update={"accumulation": micro})
        found = cost(config.model_copy(update={"training": part}), **situation)
        if found is None:
            return asked
        if found.tensors <= 0.9 * room:
            return micro
        micro *= 2
    return asked


def known(config: RunConfig, **others: Any) -> Cost | None:
    """As `cost`, but None where the model cannot be read: for forms, which say elsewhere what is wrong with it."""
    try:
        return cost(config, **others)
    except ModelError:
        return None

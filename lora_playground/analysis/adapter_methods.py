"""The tensors that each of PEFT's methods stores, and ΔW from them if that needs no base. NumPy; opens no file.

`Method.needs` names what of the base a method needs; `exchange.extraction` then has PEFT itself compute ΔW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_playground.analysis import circulant
from lora_playground.analysis.update import Update
from lora_playground.errors import AdapterError

Shapes = Mapping[str, tuple[int, ...]]
Parts = Mapping[str, np.ndarray]

ADAPTER_CONFIG = "adapter_config.json"
ALONE, SHAPES, WEIGHTS = "alone", "shapes", "weights"
INDICES = "shira_indices"
"""The only part that is not a trained tensor: the integer positions of SHiRA's weights."""


def brief(value: Any) -> str:
    """A value from a stranger's file, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------------- values of the config


def whole(low: int, high: int, *others: Any) -> Callable[[str, Any], Any]:
    """A check that accepts whole numbers from `low` to `high`, and these other values."""

    def check(name: str, value: Any) -> Any:
        if value in others and type(value) in {type(other) for other in others}:
            return value
        if type(value) is not int or not low <= value <= high:
            raise AdapterError(
                f"{ADAPTER_CONFIG}: {name} is {brief(value)}; it must be a whole number from {low} to {high}."
            )
        return value

    return check


def number(name: str, value: Any) -> float:
    """Accepts finite numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e6:
        raise AdapterError(f"{ADAPTER_CONFIG}: {name} is {brief(value)}; it must be a finite number.")
    return float(value)


def switch(name: str, value: Any) -> bool:
    """Accepts true and false; None counts as false."""
    value = value or False
    if not isinstance(value, bool):
        raise AdapterError(f"{ADAPTER_CONFIG}: {name} is {brief(value)}; it must be true or false.")
    return value


def one_of(*allowed: Any) -> Callable[[str, Any], Any]:
    """A check that accepts these values."""

    def check(name: str, value: Any) -> Any:
        for one in allowed:
            if type(value) is type(one) and value == one:
                return value
        shown = ", ".join(repr(one) for one in allowed)
        raise AdapterError(f"{ADAPTER_CONFIG}: {name} is {brief(value)}; known here are {shown}.")

    return check


def word(name: str, value: Any) -> str:
    """Accepts a short name."""
    if not isinstance(value, str) or len(value) > 40:
        raise AdapterError(f"{ADAPTER_CONFIG}: {name} is {brief(value)}; it must be a short name.")
    return value


_SIZE, _KEY = whole(0, 2**20), whole(0, 2**63 - 1)


@dataclass(frozen=True)
class Method:
    """How an adapter of one of PEFT's methods is imported.

    Attributes:
        label: the method's usual name.
        parts: names of a module's tensors. prefix: the common beginning of their names.
        needs: ALONE if ΔW follows from the file; SHAPES if the base's shapes are needed too; WEIGHTS if ΔW is a
            function of W.
        options: {field of the config: its check}; only these are handed on to PEFT.
        variant: name of this app's variant for the same method, '' for none.
        shared: names of tensors of the whole adapter, without which no module can be computed.
        ranked: whether its config has a rank r.
    """

    label: str
    parts: tuple[str, ...]
    needs: str = ALONE
    options: Mapping[str, Callable[[str, Any], Any]] = field(default_factory=dict)
    variant: str = ""
    shared: tuple[str, ...] = ()
    ranked: bool = True

    @property
    def prefix(self) -> str:
        return self.parts[0].split("_")[0] + "_"


METHODS = {
    "LORA": Method("LoRA", ("lora_A", "lora_B", "lora_magnitude_vector"), variant="lora"),
    "ADALORA": Method("AdaLoRA", ("lora_A", "lora_B", "lora_E"), variant="adalora"),
    "LOHA": Method("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), variant="loha"),
    "LOKR": Method("LoKr", ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"), variant="lokr"),
    "GRALORA": Method(
        "GraLoRA",
        ("gralora_A", "gralora_B", "gralora_A_general", "gralora_B_general"),
        options={"gralora_k": whole(1, 4096), "hybrid_r": _SIZE},
        variant="gralora",
    ),
    "DELORA": Method("DeLoRA", ("delora_A", "delora_B", "delora_lambda", "delora_w_norm"), variant="delora"),
    "C3A": Method("C3A", ("c3a_kernel",), variant="c3a", ranked=False),
    "VERA": Method(
        "VeRA",
        ("vera_lambda_b", "vera_lambda_d"),
        SHAPES,
        {"projection_prng_key": _KEY, "save_projection": switch},
        "vera",
        ("vera_A", "vera_B"),
    ),
    "RANDLORA": Method(
        "RandLoRA",
        ("randlora_lambda", "randlora_gamma"),
        SHAPES,
        {
            "randlora_alpha": whole(1, 2**20),
            "projection_prng_key": _KEY,
            "save_projection": switch,
            "sparse": switch,
            "very_sparse": switch,
        },
        "randlora",
        ("randlora_A", "randlora_B"),
    ),
    "FOURIERFT": Method(
        "FourierFT",
        ("fourierft_spectrum",),
        SHAPES,
        {"scaling": number, "random_loc_seed": _KEY},
        "fourierft",
        ranked=False,
    ),
    "SHIRA": Method("SHiRA", ("shira_weight", INDICES), SHAPES, {"random_seed": _KEY, "mask_type": word}, "shira"),
    "MISS": Method(
        "MiSS",
        ("miss_block",),
        SHAPES,
        {"mini_r": _SIZE, "init_weights": one_of(True, False, "mini", "bat")},
        "miss",
    ),
    "IA3": Method("IA³", ("ia3_l",), WEIGHTS, variant="ia3", ranked=False),
    "OFT": Method(
        "OFT",
        ("oft_R",),
        WEIGHTS,
        {
            "r": _SIZE,
            "oft_block_size": _SIZE,
            "coft": switch,
            "eps": number,
            "block_share": switch,
            "use_cayley_neumann": switch,
            "num_cayley_neumann_terms": whole(1, 100),
        },
        "oft",
        ranked=False,
    ),
    "BOFT": Method(
        "BOFT",
        ("boft_R", "boft_s"),
        WEIGHTS,
        {"boft_block_size": _SIZE, "boft_block_num": _SIZE, "boft_n_butterfly_factor": whole(1, 64)},
        "boft",
        ranked=False,
    ),
    "HRA": Method("HRA", ("hra_u",), WEIGHTS, {"apply_GS": switch}, "hra"),
    "HIRA": Method("HiRA", ("hira_A", "hira_B"), WEIGHTS, variant="hira"),
    "ROAD": Method(
        "RoAd",
        ("road_theta", "road_alpha"),
        WEIGHTS,
        {"variant": one_of("road_1", "road_2", "road_4"), "group_size": whole(2, 2**20)},
        ranked=False,
    ),
}
"""The methods of this app's variants, and two more that rescale W. Methods that change no weight (prompts, prefixes),
or only weights that no linear module has (norms), have no ΔW to examine."""


# ----------------------------------------------------------------------------------------- what the file alone tells


def shape_of(method: str, module: str, shapes: Shapes, rank: int) -> tuple[tuple[int, int], int]:
    """((out, in), r) of a module's update; raises AdapterError if its tensors are missing or disagree.

    Args:
        method: one that needs its file ALONE. shapes: {part: shape} of the module's tensors. rank: the config's.
    """
    return _SHAPES[method](module, shapes, rank)


def _lora_shape(module: str, shapes: Shapes, rank: int) -> tuple[tuple[int, int], int]:
    (out, into), r, embedding = _two_factors(module, shapes)
    if r != rank:
        raise AdapterError(
            f"{module} has rank {r} by its tensors but {rank} by {ADAPTER_CONFIG}; one of them is wrong."
        )
    return ((into, out) if embedding else (out, into)), r


def _adalora_shape(module: str, shapes: Shapes, rank: int) -> tuple[tuple[int, int], int]:
    shape, r, _ = _two_factors(module, shapes)
    if shapes.get("lora_E") != (r, 1):
        raise AdapterError(f"{module}: lora_E must be ({r}, 1), it is {shapes.get('lora_E', 'missing')}.")
    return shape, r


def _two_factors(module: str, shapes: Shapes, prefix: str = "lora") -> tuple[tuple[int, int], int, bool]:
    """((out, in), r, whether it is an embedding's) of plain factors B (out, r) and A (r, in)."""
    embedding = f"{prefix}_A!" in shapes
    A, B = (shapes.get(f"{prefix}_{side}{'!' if embedding else ''}") for side in "AB")
    if A is None or B is None:
        raise AdapterError(
            f"{module} has {prefix}_{'A' if A else 'B'} but not the other factor; the file is incomplete."
        )
    if len(A) != 2 or len(B) != 2:
        raise AdapterError(f"{module} is no linear layer: its factors have shapes {A} and {B}.")
    if A[0] != B[1]:
        raise AdapterError(f"{module}: A is {A} and B is {B}; B must be (out, r) and A (r, in) with one r.")
    return (B[0], A[1]), A[0], embedding


def _delora_shape(module: str, shapes: Shapes, rank: int) -> tuple[tuple[int, int], int]:
    (out, into), r, _ = _two_factors(module, shapes, "delora")
    if r != rank:
        raise AdapterError(
            f"{module} has rank {r} by its tensors but {rank} by {ADAPTER_CONFIG}; one of them is wrong."
        )
    if shapes.get("delora_lambda") != (1,) or shapes.get("delora_w_norm") != (into,):
        raise AdapterError(
            f"{module}: delora_lambda must be (1) and delora_w_norm ({into}); they are "
            f"{shapes.get('delora_lambda', 'missing')} and {shapes.get('delora_w_norm', 'missing')}."
        )
    return (out, into), r


def _loha_shape(module: str, shapes: Shapes, rank: int) -> tuple[tuple[int, int], int]:
    names = METHODS["LOHA"].parts
    found = [shapes.get(part) for part in names]
    if any(shape is None or len(shape) != 2 for shape in found):
        raise AdapterError(f"{module} lacks one of {', '.join(names)}, or is no linear layer.")
    w1a, w1b, w2a, w2b = (shape for shape in found if shape is not None)
    if w1a != w2a or w1b != w2b or w1a[1] != w1b[0]:
        raise AdapterError(f"{module}: LoHa's factors {w1a}, {w1b}, {w2a}, {w2b} do not fit together.")
    return (w1a[0], w1b[1]), w1a[1] ** 2


def _lokr_shape(module: str, shapes: Shapes, rank: int) -> tuple[tuple[int, int], int]:
    first, second = (_kron_side(module, shapes, f"lokr_w{i}") for i in (1, 2))
    return (first[0] * second[0], first[1] * second[1]), first[2] * second[2]


def _kron_side(module: str, shapes: Shapes, name: str) -> tuple[int, int, int]:
    """(rows, columns, rank) of one Kronecker factor, whole or as a product."""
    one, a, b = shapes.get(name), shapes.get(f"{name}_a"), shapes.get(f"{name}_b")
    if one is not None and len(one) == 2:
        return one[0], one[1], min(one)
    if a is None or b is None or len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        raise AdapterError(f"{module}: {name} is missing, or its factors {a} and {b} do not fit together.")
    return a[0], b[1], a[1]


def _gralora_shape(module: str, shapes: Shapes, rank: int) -> tuple[tuple[int, int], int]:
    A, B = shapes.get("gralora_A"), shapes.get("gralora_B")
    if A is None or B is None or len(A) != 3 or len(B) != 3:
        raise AdapterError(f"{module}: gralora_A and gralora_B must be there with three sides; they are {A} and {B}.")
    k, into, r = A
    if B[:2] != (k, r) or k < 1 or r % k or r != rank:
        raise AdapterError(
            f"{module}: gralora_A is {A} and gralora_B {B}; they must be (k, in/k, r) and (k, r, out/k), and k must "
            f"divide r = {rank}."
        )
    out, more = B[2] * k, 0
    general = [shapes.get(f"gralora_{side}_general") for side in "AB"]
    if general != [None, None]:
        Ag, Bg = general
        if Ag is None or Bg is None or len(Ag) != 2 or Bg != (out, Ag[0]) or Ag[1] != into * k:
            raise AdapterError(f"{module}: the general factors {Ag} and {Bg} do not fit {out} by {into * k}.")
        more = Ag[0]
    return (out, into * k), k * r + more


_SHAPES = {
    "LORA": _lora_shape,
    "ADALORA": _adalora_shape,
    "LOHA": _loha_shape,
    "LOKR": _lokr_shape,
    "GRALORA": _gralora_shape,
    "DELORA": _delora_shape,
    "C3A": circulant.shape_of,
}


def build(method: str, module: str, arrays: Parts, rank: int, alpha: float, rslora: bool = False) -> Update:
    """ΔW of a module from its tensors {part: tensor}, scaling folded in; float32 factors if it is low-rank."""
    x = {part: np.asarray(array, dtype=np.float32) for part, array in arrays.items()}
    if method == "LORA":
        scaling = alpha / (math.sqrt(rank) if rslora else rank)
        if "lora_A!" in x:
            return Update(module, scaling * x["lora_A!"].T, x["lora_B!"].T)
        return Update(module, scaling * x["lora_B"], x["lora_A"])
    if method == "ADALORA":
        r = x["lora_A"].shape[0]
        scaling = (alpha if alpha > 0 else float(r)) / (r + 1e-5)
        return Update(module, scaling * x["lora_B"], x["lora_A"] * x["lora_E"])
    if method == "DELORA":
        A, B = x["delora_A"], x["delora_B"]
        lengths = np.maximum(np.linalg.norm(A, axis=1), 1e-4) * np.maximum(np.linalg.norm(B, axis=0), 1e-4)
        return Update(module, B * (x["delora_lambda"] / A.shape[0] / lengths), A * x["delora_w_norm"])
    if method == "GRALORA":
        return _gralora(module, x, alpha)
    if method == "C3A":
        return Update(module, dense=circulant.update_of(x["c3a_kernel"]))
    scaling = alpha / rank
    if method == "LOHA":
        # (C₁D₁)∘(C₂D₂) = Σᵢⱼ (c₁ᵢ∘c₂ⱼ)(d₁ᵢ∘d₂ⱼ): row-wise and column-wise products of all pairs of directions.
        B = (x["hada_w1_a"][:, :, None] * x["hada_w2_a"][:, None, :]).reshape(x["hada_w1_a"].shape[0], -1)
        A = (x["hada_w1_b"][:, None, :] * x["hada_w2_b"][None, :, :]).reshape(-1, x["hada_w1_b"].shape[1])
        return _smaller(module, scaling * B, A)
    (B1, A1), (B2, A2) = (_kron_factors(x, f"lokr_w{i}") for i in (1, 2))
    # (B₁A₁)⊗(B₂A₂) = (B₁⊗B₂)(A₁⊗A₂).
    return _smaller(module, scaling * np.kron(B1, B2), np.kron(A1, A2))


def _gralora(module: str, x: Parts, alpha: float) -> Update:
    """Block (j, n) of ΔW is (A_n[:, j] · B_j[n, :])ᵀ, with r/k directions of A_n and of B_j for each of the blocks."""
    A, B = x["gralora_A"], x["gralora_B"]
    k, into, r = A.shape
    out, s = B.shape[2], r // k
    left, right = np.zeros((out * k, k * r), np.float32), np.zeros((k * r, into * k), np.float32)
    for j in range(k):
        for n in range(k):
            columns = slice((j * k + n) * s, (j * k + n + 1) * s)
            left[j * out : (j + 1) * out, columns] = B[j, n * s : (n + 1) * s].T
            right[columns, n * into : (n + 1) * into] = A[n, :, j * s : (j + 1) * s].T
    hybrid = 0
    if "gralora_A_general" in x:
        hybrid = x["gralora_A_general"].shape[0]
        left = np.hstack([left, x["gralora_B_general"]])
        right = np.vstack([right, x["gralora_A_general"]])
    return _smaller(module, np.float32(alpha / (r + hybrid)) * left, right)


def _kron_factors(x: Parts, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name not in x:
        return x[f"{name}_a"], x[f"{name}_b"]
    one = x[name]
    if one.shape[0] <= one.shape[1]:
        return np.eye(one.shape[0], dtype=np.float32), one
    return one, np.eye(one.shape[1], dtype=np.float32)


def _smaller(module: str, B: np.ndarray, A: np.ndarray) -> Update:
    if B.shape[1] * (B.shape[0] + A.shape[1]) < B.shape[0] * A.shape[1]:
        return Update(module, B, A)
    return Update(module, dense=B @ A)


def trained_only(module: str, arrays: Parts) -> Update:
    """The largest of a module's trained tensors as a matrix, to look at if ΔW cannot be computed."""
    largest = max((a for part, a in arrays.items() if part != INDICES), key=lambda array: array.size)
    return Update(module, dense=np.asarray(largest, dtype=np.float32).reshape(trained_shape(largest.shape)))


def trained_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor's shape as a matrix: a vector becomes a column; of more than two dimensions all but the last are
    flattened into one."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) < 2:
        return math.prod(shape), 1
    return math.prod(shape[:-1]), shape[-1]

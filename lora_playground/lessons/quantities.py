"""Quantities and comparisons as lessons write them: `r16.score`, `r16.cut_score@1`, `r1.score > r16.score - 0.1`.

Pure functions of texts and numbers; `measuring` takes the values from runs.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_playground.wording import counted

VALUES: dict[str, tuple[str, str]] = {
    "score": ("score", "%"),
    "base_score": ("the base's score", "%"),
    "gain": ("gain in score", "points"),
    "forgetting": ("forgetting", "points"),
    "skills": ("base skills kept", "%"),
    "loss": ("training loss", ""),
    "validation_loss": ("validation loss", ""),
    "early_loss": ("mean loss of the first quarter", ""),
    "parameters": ("trained numbers", "count"),
    "adapter_bytes": ("adapter's size", "bytes"),
    "seconds": ("training time", "s"),
    "tokens_per_second": ("tokens a second", "count"),
    "effective_rank": ("directions used (effective rank)", ""),
    "energy_first": ("energy in the first direction", "%"),
    "energy_rank_90": ("directions for 90% of the energy", ""),
    "cut_score": ("score with the first k directions", "%"),
    "overlap": ("overlap of the first directions", "%"),
    "overlap_chance": ("the same by chance", "%"),
    "inside": ("share of the energy inside the other's directions", "%"),
    "inside_chance": ("the same by chance", "%"),
    "amplification": ("amplification", "×"),
    "amplification_random": ("amplification of random directions", "×"),
    "intruders": ("intruder directions", "count"),
    "error": ("aggregation error", "%"),
    "bytes_up": ("sent up", "bytes"),
    "bytes_down": ("sent down", "bytes"),
    "global_rank": ("rank of the global update", ""),
}
"""{name: (label, unit)}. Values with unit '%' are shares from 0 to 1, those with 'points' differences of such
shares."""

DETAILED = {"cut_score": "k", "overlap": "run", "overlap_chance": "run", "inside": "run", "inside_chance": "run"}
"""{name of a quantity that is written with @: what follows the @}, a number k of directions or the key of a second
run."""

_QUANTITY = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*)(?:@([a-z0-9_]+))?")
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b if b else math.nan,
    ast.Gt: operator.gt, ast.Lt: operator.lt, ast.GtE: operator.ge, ast.LtE: operator.le,
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Quantity:
    """A number that can be taken from a run.

    Attributes:
        run: the run's key in the lesson. value: a name in `VALUES`. detail: what follows the @ (see `DETAILED`), or ''.
    """

    run: str
    value: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.run}.{self.value}" + (f"@{self.detail}" if self.detail else "")

    @property
    def unit(self) -> str:
        return VALUES[self.value][1]

    @property
    def label(self) -> str:
        """The quantity in words."""
        label = VALUES[self.value][0]
        if self.value != "cut_score":
            return label
        return (
            label.replace("first k", f"first {self.detail}") if self.detail != "1" else "score with the first direction"
        )

    @classmethod
    def parse(cls, text: str) -> Quantity:
        """Reads `run.value` or `run.value@detail`. Raises ValueError for anything else."""
        match = _QUANTITY.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no quantity; write run.value, such as r16.score")
        run, value, detail = match[1], match[2], match[3] or ""
        if value not in VALUES:
            raise ValueError(f"{text!r}: there is no value {value!r}; known are {', '.join(VALUES)}")
        wanted = DETAILED.get(value)
        if bool(wanted) != bool(detail) or (wanted == "k" and not detail.isdecimal()):
            needs = {None: "no @", "k": "@ and a number of directions", "run": "@ and another run"}[wanted]
            raise ValueError(f"{text!r}: {value} takes {needs}")
        return cls(run, value, detail)


def quantities_in(comparison: str) -> list[Quantity]:
    """The quantities in a comparison. Raises ValueError if it is not made of quantities, numbers, + - * /, comparison
    signs, `and` and `or`."""
    found = [Quantity.parse(match[0]) for match in _QUANTITY.finditer(comparison)]
    if comparison:
        holds(comparison, dict.fromkeys(found, 1.0))
    return found


def holds(comparison: str, measured: Mapping[Quantity, float]) -> bool:
    """Whether a comparison holds; one that divides by zero does not. Raises KeyError if a value is missing, ValueError
    for a text that is no comparison."""
    plain = _QUANTITY.sub(lambda match: repr(float(measured[Quantity.parse(match[0])])), comparison)
    try:
        tree = ast.parse(plain.strip(), mode="eval").body
        if not isinstance(found := _value(tree), bool):
            raise TypeError("a number")
        return found
    except (SyntaxError, TypeError, KeyError) as error:
        raise ValueError(f"{comparison!r} is no comparison of quantities and numbers") from error


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.BoolOp):
        return (all if isinstance(node.op, ast.And) else any)(_value(one) for one in node.values)
    if isinstance(node, ast.Compare):
        terms = [_value(one) for one in (node.left, *node.comparators)]
        return all(_OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, terms, terms[1:]))
    raise TypeError(type(node).__name__)


def written(value: float, unit: str) -> str:
    """A number with its unit, such as 92%, 12 points, 1.2M, 81 kB, 3.40."""
    if unit == "%":
        return f"{100 * value:.1f}%" if 0.0005 <= abs(value) < 0.01 else f"{100 * value:.0f}%"
    if unit == "points":
        return counted(100 * value, "point", f"{100 * value:.0f}")
    if unit == "bytes":
        return next((f"{value / size:.3g} {name}" for size, name in ((1e6, "MB"), (1e3, "kB")) if value >= size),
                    f"{value:.0f} bytes")  # fmt: skip
    if unit == "count":
        return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value:,.0f}"
    text = f"{value:#.3g}".rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return text + ("×" if unit == "×" else f" {unit}" if unit else "")

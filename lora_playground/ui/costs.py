"""The estimates of a run's time and memory as HTML. `estimates` computes them, without loading a model. It knows no
form."""

from __future__ import annotations

from collections.abc import Sequence

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.estimates.memory import Conditions, advice, estimate_memory
from lora_playground.estimates.parameters import modules_of
from lora_playground.estimates.time import TimeEstimate
from lora_playground.machine.device import Device
from lora_playground.ui.cards import error
from lora_playground.ui.words import count, escape, expected, significant, size
from lora_playground.variants import get_variant

NAMES = {
    "weights": "frozen weights",
    "adapter": "trained numbers",
    "gradients": "their gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "logits": "scores of the words",
    "runtime": "Python, libraries",
}

GROUNDS = {
    "runs": "going by {runs} of this model and method here",
    "method": "going by {runs} of this model with another method here",
    "model": "going by {runs} of another model here",
    "processor": "going by this processor's speed; after the first run here it is known better",
}
"""{source of an estimate: the same in words}, the most reliable first."""


def check(config: RunConfig) -> None:
    """Raises ConfigError if a variant's options do not fit the base model, as far as its sizes are known."""
    modules = modules_of(config.model.source)
    get_variant(config.variant.name).check(config.variant, modules.linear if modules else {}, config.model.bits)


def time_line(estimates: Sequence[TimeEstimate | None], timed: bool = False) -> str:
    """How long runs will take, one after another, as HTML.

    Args:
        estimates: one for each run. timed: whether the budget is a time, so that the number of steps is estimated too.
    """
    known = [one for one in estimates if one is not None]
    if not known or len(known) < len(estimates):
        note = "Training stops when the time is up. " if timed else ""
        return f'<p class="lp-note">{note}How long it takes in all is known after the first run on this machine.</p>'
    seconds = expected(sum(one.seconds[0] for one in known), sum(one.seconds[1] for one in known))
    worst = max(known, key=lambda one: list(GROUNDS).index(one.source))
    runs = "the last run" if worst.runs == 1 else f"the last {worst.runs} runs"
    each = f"{len(known)} runs, one after another: " if len(known) > 1 else ""
    steps = f", for {_steps(*worst.steps)}{' each' if each else ''}" if timed else ""
    sentence = f"{each}{seconds} from start to result{steps}, {GROUNDS[worst.source].format(runs=runs)}."
    return f'<p class="lp-note">{escape(sentence[0].upper() + sentence[1:])}</p>'


def budget_line(config: RunConfig, passes: float | None, flops: float | None) -> str:
    """What the steps amount to, as HTML: epochs, and arithmetic operations of one step; '' if neither is known."""
    parts = []
    if passes is not None:
        parts.append(f"about {significant(passes, 2)} passes (epochs) over the training rows")
    if flops is not None:
        parts.append(
            f"about {count(flops)} floating-point operations a step with {get_variant(config.variant.name).label}"
        )
    joined = "; ".join(parts)
    return f'<p class="lp-note">{escape(joined[:1].upper() + joined[1:])}.</p>' if parts else ""


def refused(failure: PlaygroundError, told: bool = True) -> str:
    """An error of the form as HTML: which option is wrong, and what is allowed.

    `told`: whether another place of the form says what is wrong with its base model.
    """
    if not isinstance(failure, ConfigError) or not failure.field:
        return error(str(failure))
    if failure.field == "model.source" and told:
        return error("Choose another base model.")
    name = failure.field.rpartition(".")[2].replace("_", " ").capitalize()
    given = "" if failure.value is None else f" {failure.value} is not possible;"
    return error(f"{name}:{given} {failure.allowed}.")


def _steps(least: int, most: int) -> str:
    number = f"about {count(most)}" if most <= 1.1 * least else f"{count(least)} to {count(most)}"
    return f"{number} step{'s' if most > 1 else ''}"


def panel(config: RunConfig, machine: Device, overhead: tuple[int, int] | None = None) -> tuple[str, str]:
    """(a line that says whether a run fits into memory, a table of memory by cause), both HTML, '' if the form is
    wrong.

    Args:
        overhead: (least, most) bytes that earlier runs of this model used on this machine beside their tensors.
    """
    gpu = machine.kind == "cuda"
    conditions = Conditions(machine.kind, "bfloat16" if gpu else "float32")
    try:
        found = estimate_memory(config, conditions, None if gpu else overhead)
    except PlaygroundError:
        return "", ""  # the error is shown at its field
    if found is None:
        return '<p class="lp-note">How much memory it needs is known after the model was fetched.</p>', ""
    fits = not machine.total or found.most <= machine.total
    needs = between(found.least, found.most)
    free = f" of {size(machine.total)}" if machine.total else ""
    sentence = f"Needs about {needs}{free} of memory; the adapter will take {size(found.adapter_bytes)}."
    if not fits:
        help_ = "; ".join(advice(config, found, conditions))
        more = "more than" if found.least > machine.total else "which may be more than"
        sentence = f"Needs about {needs}, {more} the {size(machine.total)} here. What helps most: {help_}."
    widest = max(found.causes.values())
    rows = ""
    for cause, needed in found.causes.items():
        name = "CUDA context" if cause == "runtime" and gpu else NAMES[cause]
        rows += (
            f"<tr><td>{escape(name)}</td><td><span class='lp-bar'><i style='width:{100 * needed / widest:.1f}%'></i>"
            f"</span></td><td>{escape(between(*found.overhead) if cause == 'runtime' else size(needed))}</td></tr>"
        )
    tone = "good" if fits else "bad"
    if gpu:
        measured = "Nobody has measured yet what CUDA takes beside them."
    elif overhead:
        measured = "What is held beside them is what runs of this model took here."
    else:
        measured = "What is held beside them differs from machine to machine; after a run it is known for this one."
    return (
        f'<p class="lp-cost {tone}">{escape(sentence)}</p>',
        f'<div class="lp-cost"><table>{rows}</table><p class="lp-note">An estimate from sizes alone. Gradients and '
        "activations are not at their highest at the same time, so the sum is more than is needed. "
        f"{measured}</p></div>",
    )


def between(least: int, most: int) -> str:
    """Two sizes in bytes as a range such as '780 MB to 1.2 GB', or as one size if they look the same."""
    if most <= 1.05 * least:
        return size(most)
    low, high = size(least), size(most)
    return f"{low.split()[0] if low.split()[1] == high.split()[1] else low} to {high}"

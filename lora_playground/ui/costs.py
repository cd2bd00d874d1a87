"""What the chosen run will need of the memory, by cause, before it is started. Sizes only: nothing is loaded.

It draws what `lora_playground.cost` computes and knows no form.
"""

from __future__ import annotations

from lora_playground.config import RunConfig
from lora_playground.cost import advice, cost
from lora_playground.errors import PlaygroundError
from lora_playground.jobs.admission import BITS
from lora_playground.ui.cards import error
from lora_playground.ui.device import Device
from lora_playground.ui.words import escape, size
from lora_playground.variants import get_variant
from lora_playground.variants.base import Variant

NAMES = {
    "weights": "frozen weights",
    "adapter": "trained numbers",
    "gradients": "their gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "logits": "scores of the words",
    "runtime": "Python and libraries",
}


def panel(config: RunConfig, machine: Device) -> tuple[str, str]:
    """A line that says whether it fits, and a table of the causes, as HTML; '' twice where the form is not valid."""
    variant, bits = get_variant(config.variant.name), BITS[config.model.quantisation]
    try:
        Variant.check(variant, config.variant, {}, bits)
    except PlaygroundError as failure:
        return error(str(failure)), ""
    gpu = not machine.name.startswith("CPU")
    situation = {"device": "cuda" if gpu else "cpu", "precision": "bfloat16" if gpu else "float32"}
    try:
        found = cost(config, **situation)  # type: ignore[arg-type]
    except PlaygroundError:
        return "", ""  # the field that is wrong says so
    if found is None:
        return '<p class="lp-note">How much memory it needs is known after the model was fetched.</p>', ""
    fits = not machine.total or found.total <= machine.total
    free = f" of {size(machine.total)}" if machine.total else ""
    said = f"Needs about {size(found.total)}{free} of memory; the adapter will take {size(found.adapter_bytes)}."
    if not fits:
        help_ = "; or ".join(advice(config, found, **situation))
        said = f"Needs about {size(found.total)}, more than the {size(machine.total)} here. To fit: {help_}."
    widest = max(found.causes.values())
    rows = ""
    for cause, needed in found.causes.items():
        name = "CUDA context" if cause == "runtime" and gpu else NAMES[cause]
        rows += (
            f"<tr><td>{escape(name)}</td><td><span class='lp-bar'><i style='width:{100 * needed / widest:.1f}%'></i>"
            f"</span></td><td>{escape(size(needed))}</td></tr>"
        )
    tone = "good" if fits else "bad"
    return (
        f'<p class="lp-cost {tone}">{escape(said)}</p>',
        f'<div class="lp-cost"><table>{rows}</table><p class="lp-note">An estimate from sizes alone. Gradients and '
        "activations are not at their highest at the same time, so the sum is a little more than is needed.</p></div>",
    )

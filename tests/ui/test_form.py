"""Fine-tune's form: what sets its inputs, and when. What a person typed is never taken away by an event told late."""

import json
from types import SimpleNamespace

import gradio as gr
import pytest

from lora_playground.config import RunConfig
from lora_playground.errors import ConfigError
from lora_playground.runs import RunStore
from lora_playground.ui import finetune
from lora_playground.ui.form_memory import FormMemory
from lora_playground.ui.shell import SLOTS, Shell
from lora_playground.variants import VARIANTS


@pytest.fixture(scope="module")
def form(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with gr.Blocks() as page:
        shell = Shell(home, RunStore(home), None, gr.State([""] * SLOTS))  # type: ignore[arg-type]
        steps = finetune.build(shell, page)
    return SimpleNamespace(steps=steps, listeners=list(page.fns.values()))


def chooser(form, output):
    """The listeners that set a component."""
    return [listener for listener in form.listeners if output in listener.outputs]


def test_options_are_set_by_a_persons_choice_alone(form):
    fields = [form.steps.exact, form.steps.knob, *form.steps.variant_fields.components()]
    for field in fields:
        events = {event for listener in chooser(form, field) for _, event in listener.targets}
        assert events == {"input"}, f"{field.elem_id} is set at {events}"


def test_a_choice_told_twice_changes_nothing(form):
    by_family, by_variant = sorted(chooser(form, form.steps.exact), key=lambda one: form.steps.variant in one.inputs)
    assert by_family.trigger_mode == by_variant.trigger_mode == "always_last"
    skipped = gr.skip()
    for name, variant in VARIANTS.items():
        assert all(update == skipped for update in by_variant.fn(name, name))
        assert all(update == skipped for update in by_family.fn(variant.family, name))
        other = "lora" if name != "lora" else "dora"
        shown, card, *_ = by_variant.fn(name, other)
        assert shown == name and variant.card.sentence.split("<")[0][:20] in card


def test_a_family_shows_its_first_variant_with_that_ones_options(form):
    by_family, by_variant = sorted(chooser(form, form.steps.exact), key=lambda one: form.steps.variant in one.inputs)
    listed, shown, *fields = by_family.fn(VARIANTS["hra"].family, "lora")
    first = next(name for name, variant in VARIANTS.items() if variant.family == VARIANTS["hra"].family)
    assert listed["value"] == shown == first and first in dict(listed["choices"]).values()
    assert fields == by_variant.fn(first, "lora")[1:]


def test_between_two_families_there_is_no_method_and_the_form_says_so(form):
    given = {form.steps.file: None, form.steps.variant: None}
    with pytest.raises(ConfigError, match="Choose a method"):
        form.steps.config(given)


def test_the_form_is_filled_from_memory_a_link_and_a_run(form, tmp_path):
    store = RunStore(tmp_path)
    with gr.Blocks():
        memory = FormMemory(form.steps, store)
    steps = form.steps
    kept = [part.value for part in memory._kept]
    kept[memory._kept.index(steps.steps)], kept[memory._kept.index(steps.variant)] = 60, "dora"
    made = memory.recall(json.dumps({"values": kept, "query": {"rank": "5", "dataset": "no such"}}))
    assert made[steps.steps]["value"] == 60 and made[steps.variant]["value"] == made[steps.shown] == "dora"
    assert made[steps.family]["value"] == VARIANTS["dora"].family
    assert made[steps.exact]["value"] == "5", "a rank that the slider has not"
    assert steps.dataset not in made, "a dataset that is not there leaves the form alone"
    run = store.create(RunConfig.parse({"variant": {"name": "rslora", "rank": 16}, "training": {"seconds": 9}}))
    made = memory.take(SimpleNamespace(id=run.id))
    assert made[steps.variant]["value"] == "rslora" and finetune.RANKS[made[steps.rank]["value"]] == 16
    assert made[steps.unit]["value"] == "seconds" and made[steps.seconds]["value"] == 9
    assert memory.recall("") == memory.take(SimpleNamespace(id="gone")) == gr.skip()

"""Inputs whose bounds or choices change: what a page may still send is taken, on every tab."""

import ast
from pathlib import Path

import gradio as gr
import pytest

from lora_playground.ui import controls
from lora_playground.ui.serve import Server

STRICT = (gr.Slider, gr.Dropdown, gr.Radio, gr.CheckboxGroup)


@pytest.mark.parametrize(("sent", "taken"), [(1, 2), (2, 2), (40, 40), (60, 60), (61, 60)])
def test_a_slider_brings_a_value_within_its_bounds(sent, taken):
    assert controls.Slider(2, 60, value=60, step=1).preprocess(sent) == taken


@pytest.mark.parametrize("least, most", [(0, 1), (1, 1), (2, 2), (2, 12), (5, 5000)])
@pytest.mark.parametrize("value", [0, 1, 2, 60, -3, 10_000])
def test_what_is_set_with_bounds_lies_within_them(least, most, value):
    made = controls.bounds(least, most, value)
    gr.Slider(made["minimum"], made["maximum"]).preprocess(made["value"])
    assert made["minimum"] == least and made["maximum"] >= most


def test_what_is_chosen_is_on_offer():
    assert controls.offer([("One", "1"), ("Two", "2")], "2")["value"] == "2"
    assert controls.offer([("One", "1")], "2")["value"] is controls.offer([], "")["value"] is None


def test_bounds_and_choices_are_set_in_one_place():
    found = []
    for path in Path(controls.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "gr.update" and path.name != "controls.py":
                words = {word.arg for word in node.keywords}
                found += [f"{path.name}:{node.lineno}"] * bool(words & {"minimum", "maximum", "choices"})
    assert not found, "set them with controls.bounds or controls.offer, which give a value that fits"


@pytest.mark.parametrize("kind", [controls.Dropdown, controls.Radio])
def test_a_choice_that_is_not_offered_is_none(kind):
    part = kind([("One", "a"), ("Two", "b")])
    assert [part.preprocess(sent) for sent in ("a", "gone", None)] == ["a", None, None]


def test_boxes_that_are_not_offered_are_left_out():
    assert controls.CheckboxGroup(["a", "b"]).preprocess(["b", "gone"]) == ["b"]
    assert controls.Dropdown(["a", "b"], multiselect=True).preprocess(["gone", "a"]) == ["a"]


def test_the_schema_judges_its_own_options():
    assert controls.Judged(["a"]).preprocess("gone") == "gone"


def test_every_input_of_the_page_takes_what_a_page_may_send(tmp_path):
    server = Server(tmp_path)
    try:
        parts = [block for block in server.page.blocks.values() if isinstance(block, STRICT)]
        assert len(parts) > 30
        assert [part.elem_id or part.label for part in parts if not type(part).__module__.endswith("ui.controls")] == []
    finally:
        server.close()

"""Inputs whose bounds or choices change: what a page may still send is taken, on every tab."""

import gradio as gr
import pytest

from lora_playground.ui import controls
from lora_playground.ui.serve import Server

STRICT = (gr.Slider, gr.Dropdown, gr.Radio, gr.CheckboxGroup)


@pytest.mark.parametrize(("sent", "taken"), [(1, 2), (2, 2), (40, 40), (60, 60), (61, 60)])
def test_a_slider_brings_a_value_within_its_bounds(sent, taken):
    assert controls.Slider(2, 60, value=60, step=1).preprocess(sent) == taken


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

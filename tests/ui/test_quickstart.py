"""Gradio comes without its developers' work: no stub files, no web application before the one that answers."""

import sys

import lora_playground.ui  # noqa: F401  (imports Gradio)
from lora_playground.ui.quickstart import import_gradio, unserved


def test_no_stub_file_is_written():
    meta = sys.modules["gradio.component_meta"]
    assert meta.create_or_modify_pyi("no class at all", "", []) is None
    import_gradio()
    assert sys.modules["gradio.component_meta"] is meta


def test_a_page_is_built_without_an_application_and_launched_with_one():
    import gradio as gr
    from gradio.routes import App

    usual = App.create_app
    with unserved():
        with gr.Blocks() as page:
            gr.Button("b")
        page.queue()
        assert page.app is None
    assert App.create_app is usual
    with gr.Blocks() as page:
        gr.Button("b")
    assert isinstance(page.app, App)

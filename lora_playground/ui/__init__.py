"""The Gradio interface, the only importer of Gradio: one file a tab."""

from lora_playground.ui.quickstart import import_gradio

# Before any tab imports it, since `quickstart` imports it faster; that takes most of the time until the server listens.
import_gradio()

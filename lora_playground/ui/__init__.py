"""The Gradio interface, the only importer of Gradio: one file a tab."""

from lora_playground.ui.quickstart import import_gradio

# `quickstart` imports Gradio faster than a tab would, and the import takes most of the time until the server listens.
import_gradio()

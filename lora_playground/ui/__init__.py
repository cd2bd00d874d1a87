"""The Gradio interface, the only importer of Gradio: one file a tab."""

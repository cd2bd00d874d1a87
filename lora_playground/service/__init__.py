"""What a program may ask: the operations behind API, MCP and notebook, as plain Python. It knows no Gradio, no page."""

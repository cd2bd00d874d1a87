"""What programs can ask of a server: the operations behind API, MCP and notebook, as plain Python without Gradio."""

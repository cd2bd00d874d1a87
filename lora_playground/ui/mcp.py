"""The endpoints as MCP tools: Gradio's MCP server, with results as JSON and this app's own error messages.

Gradio's server writes dicts as Python literals, and answers a value of the wrong type with a validator's message. A
class derived from it changes both. It knows no operation.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lora_playground.errors import ConfigError


def require() -> None:
    """Raises ConfigError if the package `mcp` is not installed."""
    if importlib.util.find_spec("mcp") is None:
        raise ConfigError("", None, "--mcp needs the package mcp; install it: pip install -r requirements-mcp.txt")


@contextmanager
def served() -> Iterator[None]:
    """Within the block Gradio creates our MCP server instead of its own."""
    import gradio.mcp

    usual = gradio.mcp.GradioMCPServer
    vars(gradio.mcp)["GradioMCPServer"] = _derived(usual)
    try:
        yield
    finally:
        vars(gradio.mcp)["GradioMCPServer"] = usual


def _derived(usual: Any) -> Any:
    class Unvalidated(usual.Server):  # type: ignore[misc]
        """An MCP server that does not validate values, since the operations do, with the same messages everywhere."""

        def call_tool(self, *, validate_input: bool = True) -> Any:
            return super().call_tool(validate_input=False)

    class PlaygroundMCP(usual):  # type: ignore[misc]
        """Gradio's MCP server with JSON results, and without repeated descriptions in its schemas."""

        Server = Unvalidated

        def get_input_schema(self, tool_name: str, parameters: Any = None) -> Any:
            schema, positions = super().get_input_schema(tool_name, parameters)
            for described in schema["properties"].values():
                described.pop("additional_description", None)
            return schema, positions

        def postprocess_output_data(self, data: Any, root_url: str) -> Any:
            return super().postprocess_output_data([_as_json(one) for one in data], root_url)

    return PlaygroundMCP


def _as_json(value: Any) -> Any:
    """Plain data as JSON text. Files are left unchanged, so that pictures are sent as pictures."""
    is_file = isinstance(value, dict) and (value.get("meta") or {}).get("_type") == "gradio.FileData"
    return value if is_file or not isinstance(value, dict | list) else json.dumps(value, ensure_ascii=False)

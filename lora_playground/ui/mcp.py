"""The endpoints as MCP tools: Gradio's own MCP server, with answers as JSON and errors in the house's words.

Gradio writes dicts as Python does, and lets a validator speak where a value has the wrong type; both are changed here,
by deriving from its server. It knows no operation.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lora_playground.errors import ConfigError


def require() -> None:
    """Raises ConfigError where the package `mcp` is not installed."""
    if importlib.util.find_spec("mcp") is None:
        raise ConfigError("", None, "--mcp needs the package mcp; install it: pip install -r requirements-mcp.txt")


@contextmanager
def served() -> Iterator[None]:
    """While it lasts, Gradio makes our MCP server where it would make its own."""
    import gradio.mcp

    usual = gradio.mcp.GradioMCPServer
    vars(gradio.mcp)["GradioMCPServer"] = _derived(usual)
    try:
        yield
    finally:
        vars(gradio.mcp)["GradioMCPServer"] = usual


def _derived(usual: Any) -> Any:
    class Unvalidated(usual.Server):  # type: ignore[misc]
        """An MCP server that hands values on as they are: the operations check them, with the same words everywhere."""

        def call_tool(self, *, validate_input: bool = True) -> Any:
            return super().call_tool(validate_input=False)

    class PlaygroundMCP(usual):  # type: ignore[misc]
        """Gradio's MCP server with JSON in its answers, and no description twice in its schemas."""

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
    """Plain data as JSON text; files stay as they are, so that pictures are sent as pictures."""
    is_file = isinstance(value, dict) and (value.get("meta") or {}).get("_type") == "gradio.FileData"
    return value if is_file or not isinstance(value, dict | list) else json.dumps(value, ensure_ascii=False)

"""Writes docs/api.md from the endpoints themselves: names, types, defaults and descriptions.

python -m tools.api_docs            # writes it
python -m tools.api_docs --check    # fails where it is not what would be written
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"

HEAD = """# For programs

*Made by `python -m tools.api_docs`.* What people do on the page, a program does by named endpoints: with Gradio's own
client, over plain HTTP, as MCP tools, or as functions in a notebook. Limits, queue and fairness are those of people; an
error is the sentence that form and command line give.

## Who may ask
Programs on the same machine may ask at once. For others the server needs a token, which they send with every request:

```sh
LORA_PLAYGROUND_TOKEN=$(openssl rand -hex 16) lora-playground serve --host 0.0.0.0
```

With the token set, programs on the same machine send it too. A token reads and uses everything that people on the page
could; send it over HTTPS alone. All programs with the token are one: any of them may stop what another has started, and
what nobody on the server has started, such as runs of the command line.

## Python, with Gradio's client
```python
from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860", headers={"Authorization": "Bearer TOKEN"})  # the header where there is a token
data = client.predict(file=handle_file("rows.jsonl"), api_name="/upload_dataset")["dataset"]
run = client.predict(dataset=data, variant="lora", rank=8, steps=100, api_name="/train")["run"]
while not (status := client.predict(run, wait=50, until="end", api_name="/status"))["ended"]:
    print(status["state"], status["step"], "of", status["steps"])
for answer in client.submit("Where does Mia live?", runs=[run], api_name="/chat"):
    print(answer["base"], "|", answer["adapted"][run])
print(client.predict(run, "lora", api_name="/export"))  # a zip on this machine
```

The same list, with code to copy, is on the page `/programs` of every server.

## MCP
`pip install -r requirements-mcp.txt`, then `lora-playground serve --mcp`. The tools have the names below, at
`http://127.0.0.1:7860/gradio_api/mcp/` (streamable HTTP); the token goes into the same header. What takes long is
started and then asked after: `train` and `status`, `sweep` and `sweep_status`; `evaluate`, `direction`, `dial`,
`forecast` and `merge_scores` are asked again, with the same values, while their `state` is running. Answers are JSON,
`spectrum_picture` is an image.

## In a notebook
[examples/notebook.ipynb](../examples/notebook.ipynb) shows them; they work in the process itself and need no server.

"""


def text() -> str:
    """The whole page."""
    from lora_playground import notebook
    from lora_playground.ui.api import endpoints

    parts = [HEAD, "| function | what it does |\n|---|---|\n"]
    for name in notebook.__all__:
        function = getattr(notebook, name)
        given = [str(one).split(":")[0] for one in inspect.signature(function).parameters.values()]
        first = (inspect.getdoc(function) or "").split("\n")[0]
        parts.append(f"| `{name}({', '.join(given)})` | {first} |\n")
    parts.append("\n## Endpoints\n")
    shared = {argument.name: argument for argument in _named("estimate", endpoints()).arguments}
    for endpoint in endpoints():
        parts.append(f"\n### {endpoint.name}\n{endpoint.summary}\n")
        own = [one for one in endpoint.arguments if endpoint.name == "estimate" or shared.get(one.name) != one]
        if own:
            parts.append("\n| parameter | type | default | |\n|---|---|---|---|\n")
        for one in own:
            default = "required" if one.required else "–" if one.default in (None, "") else f"`{one.default!r}`"
            parts.append(f"| `{one.name}` | {type_name(one.type)} | {default} | {_cell(one.description)} |\n")
        if len(own) < len(endpoint.arguments):
            parts.append("\nAnd all parameters of `estimate`.\n")
        parts.append(f"\nGives {type_name(endpoint.returns)}.\n")
    return "".join(parts)


def type_name(kind: Any) -> str:
    """A type in words: 'whole number', 'text, or nothing'."""
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "a file"}
    if kind in words:
        return words[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " \\| ".join(f"`{one}`" for one in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(one) for one in inner if one is not type(None))
    if origin is list:
        return "a list of objects" if typing.get_origin(inner[0]) is dict else f"list of {type_name(inner[0])}"
    if origin is dict:
        return "an object"
    return "objects, one after another"


def _cell(words: str) -> str:
    return words.replace("|", "\\|")


def _named(name: str, known: list[Any]) -> Any:
    return next(one for one in known if one.name == name)


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is another")
    if not parser.parse_args().check:
        PAGE.write_text(text(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text():
        print(f"{PAGE.name} is not what the endpoints say; run: python -m tools.api_docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

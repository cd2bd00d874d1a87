"""Named endpoints for programs: makes an endpoint of every operation of `service.operations`, typed and documented.

They serve Gradio's client, plain HTTP and MCP. This module finds out who asks, receives and sends files, and turns
errors into messages; the operations do the work.
"""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.utils import get_upload_folder
from typing_extensions import TypedDict

from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.service.operation_options import SECTIONS
from lora_playground.service.operations import Operations
from lora_playground.service.run_options import of_section, parameters
from lora_playground.ui.access import Access

log = logging.getLogger(__name__)

LIGHT: dict[str, Any] = {"queue": False}
"""For endpoints that answer at once: they do not wait in Gradio's queue."""
STREAMS, ONE_AT_A_TIME = ("chat",), ("export", "reproduce", "reproduce_bundle", "import_adapter", "cut", "merge")


class FileMark(TypedDict):
    _type: Literal["gradio.FileData"]


class UploadedFile(TypedDict):
    """A file as `gradio_client.handle_file` gives it."""

    path: str
    meta: FileMark


class Refused(gr.Error):  # type: ignore[misc]
    """An error whose text is the message for the program. Gradio prints no traceback for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, print_exception=False)

    def __str__(self) -> str:
        return str(self.message)


@dataclass(frozen=True)
class Argument:
    """One parameter of an endpoint.

    Attributes:
        required: whether it has no default. schema: its bounds as JSON schema.
    """

    name: str
    type: Any
    default: Any
    required: bool
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """An operation in the form of an endpoint."""

    name: str
    summary: str
    arguments: tuple[Argument, ...]
    returns: Any


def endpoints() -> list[Endpoint]:
    """All endpoints, in the order of the methods of `Operations` and its base classes."""
    declared = {name: value for part in Operations.__mro__ for name, value in vars(part).items()}
    public = [(name, value) for name, value in declared.items() if not name.startswith("_")]
    return [_endpoint(name, value) for name, value in public if inspect.isfunction(value)]


def _endpoint(name: str, operation: Callable[..., Any]) -> Endpoint:
    hints = typing.get_type_hints(operation)
    summary, descriptions = _document(operation)
    arguments: list[Argument] = []
    for parameter in list(inspect.signature(operation).parameters.values())[2:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            listed = of_section(SECTIONS[name]) if name in SECTIONS else parameters()
            arguments += [_of_option(one) for one in listed]
            continue
        required = parameter.default is inspect.Parameter.empty
        kind, default = hints[parameter.name], None if required else parameter.default
        arguments.append(Argument(parameter.name, kind, default, required, descriptions[parameter.name], {}))
    return Endpoint(name, summary, tuple(arguments), hints["return"])


def _of_option(one: Any) -> Argument:
    option, schema = one.option, {}
    if option is not None and option.kind in ("int", "float"):
        low = {"exclusiveMinimum" if option.low_open else "minimum": option.low}
        schema = {key: value for key, value in {**low, "maximum": option.high}.items() if value is not None}
    return Argument(one.name, one.type | None, None, False, one.description, schema)


def _document(operation: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """(the sentences of a docstring, {argument: its description})."""
    summary, _, rest = (inspect.getdoc(operation) or "").partition("\nArgs:\n")
    pairs = (line.strip().partition(": ") for line in rest.splitlines() if line.strip())
    return " ".join(summary.split()), {name: text for name, _, text in pairs}


def register(page: gr.Blocks, operations: Operations, access: Access) -> None:
    """Adds the endpoints to a separate Gradio page, so that the page that people load does not get larger."""
    for event in page.fns.values():
        event.api_name = f"page_{event._id}"  # Gradio names events after their functions, like some of the endpoints
    with page.route("For programs", "programs", show_in_navbar=False):
        gr.HTML(_WELCOME, js_on_load="lp.endpoints();", apply_default_css=False)
        for endpoint in endpoints():
            how = {} if endpoint.name in STREAMS else LIGHT
            if endpoint.name in ONE_AT_A_TIME:
                how = {"concurrency_limit": 1, "concurrency_id": endpoint.name}
            made = gr.api(_callable(endpoint, operations, access), api_name=endpoint.name, **how)
            for component, argument in zip(page.fns[made["id"]].inputs, endpoint.arguments):
                component.label = argument.name
                vars(component)["_api_info"] |= {"additional_description": argument.description, **argument.schema}


def _callable(endpoint: Endpoint, operations: Operations, access: Access) -> Callable[..., Any]:
    """The function that Gradio calls with positional values, the request last."""
    operation = getattr(operations, endpoint.name)

    def prepared(values: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
        *given, request = values
        who = access.who(request)
        taken = {}
        for argument, value in zip(endpoint.arguments, given):
            if Path in (argument.type, *typing.get_args(argument.type)):
                value = None if value is None else _received(argument.name, value)
            taken[argument.name] = value
        return who, taken

    async def streaming(*values: Any) -> AsyncIterator[Any]:
        with _refusing():
            who, taken = prepared(values)
            async for value in operation(who, **taken):
                yield value

    async def waiting(*values: Any) -> Any:
        with _refusing():
            who, taken = prepared(values)
            return _given(await operation(who, **taken))

    def plain(*values: Any) -> Any:
        with _refusing():
            who, taken = prepared(values)
            return _given(operation(who, **taken))

    if endpoint.name in STREAMS:
        return _described(streaming, endpoint)
    return _described(waiting if inspect.iscoroutinefunction(operation) else plain, endpoint)


def _described(call: Callable[..., Any], endpoint: Endpoint) -> Callable[..., Any]:
    """Gives a function the signature and docstring of which Gradio makes schema and documentation."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    declared = []
    for one in endpoint.arguments:
        default = inspect.Parameter.empty if one.required else one.default
        declared.append(inspect.Parameter(one.name, kind, default=default, annotation=_outside(one.type)))
    declared.append(inspect.Parameter("request", kind, default=None, annotation=gr.Request))
    returns = dict[str, Any] if endpoint.name in STREAMS else _outside(endpoint.returns)
    call.__name__ = call.__qualname__ = endpoint.name
    lines = [endpoint.summary, "", "Args:", *(f"    {one.name}: {one.description}" for one in endpoint.arguments)]
    call.__doc__ = "\n".join(lines)
    call.__annotations__ = {one.name: one.annotation for one in declared} | {"return": returns}
    vars(call)["__signature__"] = inspect.Signature(_required_first(declared), return_annotation=returns)
    return call


def _required_first(declared: list[inspect.Parameter]) -> list[inspect.Parameter]:
    return sorted(declared, key=lambda one: one.default is not inspect.Parameter.empty)


def _outside(kind: Any) -> Any:
    """A type in the schema for programs: a Path becomes an uploaded file, without 'or None', which would hide it in
    MCP."""
    return UploadedFile if Path in (kind, *typing.get_args(kind)) else kind


class _refusing:
    """Turns errors into messages. Those of `errors` keep their text; all others become one that refers to the log."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, gr.Error):
            return
        if isinstance(error, PlaygroundError):
            raise Refused(str(error)) from None
        if isinstance(error, OSError) and error.filename:
            name = Path(str(error.filename)).name
            raise Refused(f"{name}: {error.strerror}; the server's disk or folder does not allow it.") from None
        log.error("An endpoint failed", exc_info=error)
        raise Refused(f"Something went wrong inside the server ({type(error).__name__}); its log says what.") from None


def _received(name: str, value: Any) -> Path:
    """The path of a file that a program has uploaded. Raises ConfigError for a path outside the folder of uploads."""
    allowed = "send the file with gradio_client.handle_file, or post it to /gradio_api/upload first"
    given = value.get("path") if isinstance(value, dict) else None
    if not isinstance(given, str) or "\0" in given:
        raise ConfigError(name, value, allowed)
    path = Path(given).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise ConfigError(name, Path(given).name, allowed)
    return path


def _given(value: Any) -> Any:
    """A result in the form that Gradio sends: a path becomes a file to download."""
    if not isinstance(value, Path):
        return value
    return {"path": str(value), "orig_name": value.name, "meta": {"_type": "gradio.FileData"}}


_WELCOME = (
    '<p class="lp-note">These endpoints are for programs: <code>gradio_client</code>, plain HTTP, or MCP. '
    'They are listed here in a moment; <a href="./">back to the app</a>.</p>'
)

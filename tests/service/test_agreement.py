"""Schema, form, flags, endpoints, MCP and documents name the same options, and none is missing anywhere."""

import argparse
import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from lora_playground.cli import _parser, build_config, main
from lora_playground.config import RunConfig, options
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.reproduce.command import command_line, flag
from lora_playground.runs import RunStore
from lora_playground.service.operations import Operations
from lora_playground.service.run_options import COMMON, FEDERATED, build
from lora_playground.sweeps import SweepScheduler
from lora_playground.ui import finetune
from lora_playground.ui.api import endpoints
from lora_playground.ui.shell import SLOTS, Shell
from lora_playground.variants import VARIANTS
from tests.jobs.support import FakeRunner
from tools.api_docs import PAGE, text

ENDPOINTS = {endpoint.name: endpoint for endpoint in endpoints()}
SCHEMA = {option.path: option for option in options(RunConfig)}
COMMANDS = {
    "train": "train", "resume": "resume", "evaluate": "evaluate", "runs": "list_runs", "show": "get_run",
    "delete": "delete", "spectra": "spectra", "import": "import_adapter", "chat": "chat", "export": "export",
    "estimate": "estimate", "variants": "list_variants", "upload": "upload_dataset", "datasets": "list_datasets",
    "models": "list_models", "sweep": "sweep", "sweeps": "list_sweeps", "delete-sweep": "delete_sweep",
    "merge": "merge", "direction": "direction", "dial": "dial", "forecast": "forecast", "reproduce": "reproduce",
    "lessons": "list_lessons", "claims": "list_claims",
}  # fmt: skip
"""{command: the endpoint that does the same}. None may be missing."""
BESIDE = {
    "get_model", "get_dataset", "get_variant", "status", "stop", "spectrum_picture", "cut", "sweep_status",
    "change_sweep", "merge_scores", "reproduce_bundle", "lesson_sheet",
}  # fmt: skip
"""Endpoints without a command of their own: parts of one (`merge --scores`, `lessons --sheet`, `reproduce --format
bundle`, a row of `models`), what Ctrl+C does on a terminal, and pictures."""
EVERYWHERE = {"help", "home", "json"}
ELSEWHERE = {
    "train": {"track"},  # where this process's curves go; a server has --track
    "resume": {"track"},
    "sweep": {"resume", "slots"},  # change_sweep; a server has --slots
    "chat": {"run"},  # runs
    "export": {"out"},  # the answer is the file
    "reproduce": {"out"},
    "import": {"source"},  # file or hub
    "upload": {"source"},
    "merge": {"scores", "rows", "prompt", "max_new_tokens", "save"},  # merge_scores; chat with what was saved; title
    "lessons": {"sheet", "answers"},  # lesson_sheet
}
"""{command: flags that have no parameter of that name, and why}."""
RENAMED = {"column": "columns", "variant.rank": "rank"}


def commands() -> dict[str, argparse.ArgumentParser]:
    listed = next(one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(listed.choices)


def test_every_option_of_a_run_is_in_form_flags_and_endpoints(tmp_path):
    with gr.Blocks() as page:
        shell = Shell(tmp_path, RunStore(tmp_path), None, gr.State([""] * SLOTS))  # type: ignore[arg-type]
        steps = finetune.build(shell, page)
    in_form = set(steps.advanced.inputs) | set(finetune.PLACED) - {"variant.rank"}
    in_flags = {action.dest for action in commands()["train"]._actions}
    of_variants = {option.path for variant in VARIANTS.values() for option in options(variant.config, "variant.")}
    assert in_form == set(SCHEMA)
    assert set(SCHEMA) | of_variants | {"variant", "preset", "config"} <= in_flags
    for name in ("train", "estimate", "sweep"):
        given = {argument.name for argument in ENDPOINTS[name].arguments}
        wanted = {flag(path).replace("-", "_") for path in SCHEMA}
        assert wanted | {"variant", "preset", "config", *COMMON, "variant_options"} <= given, name


def test_bounds_choices_and_defaults_are_the_schemas():
    listed = {argument.name: argument for argument in ENDPOINTS["train"].arguments}
    for path, option in SCHEMA.items():
        argument = listed[flag(path).replace("-", "_")]
        low = argument.schema.get("exclusiveMinimum" if option.low_open else "minimum")
        assert (low, argument.schema.get("maximum")) == (option.low, option.high), path
        assert argument.description.startswith(option.description) and not argument.required
        if option.kind == "choice":
            assert argument.type == gr_literal(option.choices)


def gr_literal(choices):
    from typing import Literal

    return Literal[choices] | None


def test_every_command_has_an_endpoint_and_every_endpoint_a_command():
    assert set(commands()) == set(COMMANDS), "a command has no endpoint, or is gone"
    assert set(ENDPOINTS) == set(COMMANDS.values()) | BESIDE, "an endpoint has no command, and nobody says why"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_is_a_parameter_of_its_endpoint(command):
    flags = {action.dest for action in commands()[command]._actions} - EVERYWHERE - ELSEWHERE.get(command, set())
    trains = command in ("train", "estimate", "sweep")
    if trains:  # a dataset is brought by upload_dataset, and options of one variant come in variant_options
        own = {f"variant.{name}" for name in COMMON}
        flags = {one for one in flags if not one.startswith("variant.") or one in own} - {"column", "metric"}
    given = {argument.name for argument in ENDPOINTS[COMMANDS[command]].arguments}
    wanted = {RENAMED.get(one, flag(one).replace("-", "_") if trains else one) for one in flags}
    assert wanted <= given


def test_options_of_a_federated_run_are_typed_flags_and_parameters_and_stand_in_its_form():
    from lora_playground.ui import federated_form

    in_flags = {action.dest for action in commands()["train"]._actions}
    for option in FEDERATED:
        assert option.path in in_flags
        argument = next(one for one in ENDPOINTS["train"].arguments if one.name == option.path.replace(".", "_"))
        low = argument.schema.get("exclusiveMinimum" if option.low_open else "minimum")
        assert (low, argument.schema.get("maximum")) == (option.low, option.high), option.path
        assert argument.type != dict[str, Any] and argument.description.startswith(option.description)
    main = {f"federated.{name}" for name in federated_form.MAIN}
    assert main | set(federated_form.PLACED) <= {option.path for option in FEDERATED}
    words = "--federated-strategy fedex --federated-clients 3 --federated-ranks 2,4,8 --federated-partition dirichlet"
    asked = {"federated_strategy": "fedex", "federated_clients": 3, "federated_ranks": [2, 4, 8],
             "federated_partition": "dirichlet"}  # fmt: skip
    config = build(asked)
    assert config.federated is not None and config.federated.ranks == [2, 4, 8]
    assert config == build_config(_parser().parse_args(["train", *words.split()]))
    again = command_line(config).split()
    assert build_config(_parser().parse_args(again[again.index("train") :])) == config
    assert build({}).federated is None


def test_every_argument_is_typed_and_described_and_the_documents_say_the_same():
    for endpoint in ENDPOINTS.values():
        assert endpoint.summary.endswith("."), endpoint.name
        for argument in endpoint.arguments:
            assert argument.type is not inspect.Parameter.empty and len(argument.description) > 4, argument.name
    assert PAGE.read_text(encoding="utf-8") == text(), "run: python -m tools.api_docs"


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"rank": 0}, ["--rank", "0"]),
        ({"rank": "x"}, ["--rank", "x"]),
        ({"variant": "nonesuch"}, ["--variant", "nonesuch"]),
        ({"variant": "full", "rank": 8}, ["--variant", "full", "--rank", "8"]),
        ({"steps": -1}, ["--steps", "-1"]),
        ({"schedule": "zigzag"}, ["--schedule", "zigzag"]),
        ({"preset": "worst"}, ["--preset", "worst"]),
        ({"variant": "pissa", "variant_options": {"alpha": 0.0}}, ["--variant", "pissa", "--alpha", "0.0"]),
        ({"federated_clients": 0}, ["--federated-clients", "0"]),
        ({"federated_ranks": ["two"]}, ["--federated-ranks", "two"]),
        ({"federated_partition": "some"}, ["--federated-partition", "some"]),
    ],
)
def test_a_program_and_a_flag_are_refused_with_the_same_sentence(given, flags):
    with pytest.raises(ConfigError) as by_program:
        build(given)
    with pytest.raises(ConfigError) as by_flag:
        build_config(_parser().parse_args(["train", *flags]))
    assert str(by_program.value) == str(by_flag.value)


@pytest.mark.parametrize(
    ("operation", "given", "command"),
    [
        ("dial", {"run": "x", "of": "volume"}, "dial x --of volume"),
        ("dial", {"run": "x", "rows": 3}, "dial x --rows 3"),
        ("dial", {"run": "x", "values": ["a"]}, "dial x --values a"),
        ("direction", {"run": "x", "module": "m", "index": 0}, "direction x --module m --index 0"),
        ("direction", {"run": "x", "module": "m", "strength": 3.0}, "direction x --module m --strength 3.0"),
        ("direction", {"run": "../x", "module": "m"}, "direction ../x --module m"),
        ("forecast", {"run": "nonesuch"}, "forecast nonesuch"),
        ("merge", {"runs": ["x", "y"], "density": 0.0}, "merge x y --density 0.0"),
        ("merge", {"runs": ["x", "y"], "method": "stir"}, "merge x y --method stir"),
        ("merge", {"runs": ["x"]}, "merge x"),
        ("merge_scores", {"runs": ["x", "y"], "rows": 1}, "merge x y --scores --rows 1"),
        ("merge_scores", {"runs": ["x", "y"], "weights": [3, 1]}, "merge x=3 y"),
        ("evaluate", {"run": "x", "rows": 0}, "evaluate x --rows 0"),
        ("export", {"run": "x", "rank": 0}, "export x --out y --rank 0"),
        ("export", {"run": "x", "format": "zip"}, "export x --out y --format zip"),
        ("reproduce", {"run": "x", "format": "tarot"}, "reproduce x --format tarot"),
        ("chat", {"prompt": "Hi", "runs": ["x"], "temperature": 9.0}, "chat x --prompt Hi --temperature 9.0"),
        ("chat", {"prompt": "Hi", "runs": ["x"], "keep": -1}, "chat x --prompt Hi --keep -1"),
        ("lesson_sheet", {"name": "none"}, "lessons --sheet none"),
        ("delete_sweep", {"sweep": "../x"}, "delete-sweep ../x"),
        ("delete_sweep", {"sweep": "x"}, "delete-sweep x"),
        ("get_run", {"run": "x"}, "show x"),
        ("delete", {"run": "x"}, "delete x"),
    ],
)
def test_an_operation_and_its_command_refuse_with_the_same_sentence(operation, given, command, tmp_path, capsys):
    assert main([*command.split(), "--home", str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip().removeprefix("error: ")
    with Supervisor(tmp_path, FakeRunner(), slots=1) as supervisor:
        operations = Operations(supervisor, None, SweepScheduler(supervisor))  # type: ignore[arg-type]

        async def ask():
            answer = getattr(operations, operation)("program", **given)
            if inspect.isasyncgen(answer):
                return [told async for told in answer]
            return await answer if inspect.isawaitable(answer) else answer

        with pytest.raises(PlaygroundError) as refused:
            asyncio.run(ask())
    assert str(refused.value) == said


def test_a_program_and_flags_ask_for_the_same_run():
    given = {"variant": "pissa", "rank": 4, "steps": 30, "preset": "quick", "target_modules": ["q_proj"], "seed": 3}
    words = "--variant pissa --rank 4 --steps 30 --preset quick --target-modules q_proj --seed 3"
    assert build(given) == build_config(_parser().parse_args(["train", *words.split()]))
    assert build({"config": build(given).model_dump(mode="json"), "seed": 4}).training.seed == 4
    for wrong in ({"variant": 5}, {"preset": []}, {"config": "x"}, {"federated_clients": 3.5}, {"variant_options": [1]},
                  {"dataset": ["a"]}, {"dataset": ["a"], "preset": "quick"}, {"nonesuch": 1}):  # fmt: skip
        with pytest.raises(ConfigError):
            build(wrong)


def test_names_of_endpoints_are_those_asked_for_and_the_pages_own_events_have_none(tmp_path):
    from lora_playground.ui import api

    with gr.Blocks() as page:
        gr.Button().click(lambda: None, api_name="chat", api_visibility="private")
    api.register(page, SimpleNamespace(**dict.fromkeys(ENDPOINTS, len)), None)  # type: ignore[arg-type]
    public = [event.api_name for event in page.fns.values() if event.api_visibility == "public"]
    assert public == list(ENDPOINTS)

"""Schema, form, flags, endpoints, MCP and documents name the same options, and none is missing anywhere."""

import argparse
import inspect
from types import SimpleNamespace

import gradio as gr
import pytest

from lora_playground.cli import _parser
from lora_playground.config import RunConfig, options
from lora_playground.errors import ConfigError
from lora_playground.reproduce.command import flag
from lora_playground.runs import RunStore
from lora_playground.service.run_options import COMMON, build
from lora_playground.ui import finetune
from lora_playground.ui.api import endpoints
from lora_playground.ui.shell import SLOTS, Shell
from lora_playground.variants import VARIANTS
from tools.api_docs import PAGE, text

ENDPOINTS = {endpoint.name: endpoint for endpoint in endpoints()}
SCHEMA = {option.path: option for option in options(RunConfig)}
COMMANDS = {
    "train": "train", "resume": "resume", "evaluate": "evaluate", "runs": "list_runs", "show": "get_run",
    "delete": "delete", "spectra": "spectra", "import": "import_adapter", "chat": "chat", "export": "export",
    "estimate": "estimate", "variants": "list_variants", "upload": "upload_dataset", "datasets": "list_datasets",
    "models": "list_models", "sweep": "sweep", "merge": "merge",
}  # fmt: skip
"""{command: the endpoint that does the same}."""
PEOPLE_ALONE = {"reproduce", "lessons", "lesson", "direction", "dial", "forecast", "claims", "class"}
"""Commands that have no endpoint: files to keep, readings of the laboratory (not yet), what somebody looks on at."""


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
        assert wanted | {"variant", "preset", "config", *COMMON, "variant_options", "federated"} <= given, name


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


def test_every_command_has_an_endpoint_with_its_flags():
    known = set(commands())
    assert set(COMMANDS) <= known, "a command is gone"
    assert known - set(COMMANDS) <= PEOPLE_ALONE, "a command has no endpoint, and nobody says why"
    other = {"help", "home", "json", "out", "run", "runs", "source", "prompt", "column", "scores", "rows", "save"}
    for command in ("chat", "evaluate", "export", "merge"):
        flags = {action.dest for action in commands()[command]._actions} - other
        given = {argument.name for argument in ENDPOINTS[COMMANDS[command]].arguments}
        missing = flags - given - ({"max_new_tokens"} if command == "merge" else set())
        assert not missing, f"{command}: {missing}"


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
    ],
)
def test_a_program_and_a_flag_are_refused_with_the_same_sentence(given, flags):
    from lora_playground.cli import build_config

    with pytest.raises(ConfigError) as by_program:
        build(given)
    with pytest.raises(ConfigError) as by_flag:
        build_config(_parser().parse_args(["train", *flags]))
    assert str(by_program.value) == str(by_flag.value)


def test_a_program_and_flags_ask_for_the_same_run():
    from lora_playground.cli import build_config

    given = {"variant": "pissa", "rank": 4, "steps": 30, "preset": "quick", "target_modules": ["q_proj"], "seed": 3}
    words = "--variant pissa --rank 4 --steps 30 --preset quick --target-modules q_proj --seed 3"
    assert build(given) == build_config(_parser().parse_args(["train", *words.split()]))
    assert build({"config": build(given).model_dump(mode="json"), "seed": 4}).training.seed == 4
    for wrong in ({"variant": 5}, {"preset": []}, {"config": "x"}, {"federated": 3}, {"variant_options": [1]},
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

"""Flags of the commands. Those of `train` are derived from the RunConfig schema and the variants' own options.

No option and no variant is named here, and no command is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lora_playground.config import Option, RunConfig, Section, checked, options
from lora_playground.data.columns import ROLES
from lora_playground.errors import ConfigError
from lora_playground.presets import PURPOSES
from lora_playground.reproduce.command import flag
from lora_playground.service.operation_options import ChatOptions
from lora_playground.service.run_options import FEDERATED, assemble
from lora_playground.variants import VARIANTS, get_variant

S = TypeVar("S", bound=Section)


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every option of RunConfig and of the variants."""
    parser.add_argument("--config", metavar="FILE", help="a RunConfig as JSON; flags override it")
    parser.add_argument("--variant", metavar="NAME", help=f"one of {', '.join(VARIANTS)}")
    purposes = "; ".join(f"{name}: {purpose.lower()}" for name, purpose in PURPOSES.items())
    parser.add_argument("--preset", metavar="NAME", help=f"training options for the dataset ({purposes})")
    add_file_flags(parser)
    for option in options(RunConfig):
        _one_flag(parser, option, flag(option.path))
    several = parser.add_argument_group("options of a run among several parties (one of them makes it such a run)")
    for option in FEDERATED:
        _one_flag(several, option, flag(option.path))
    by_flag: dict[str, list[tuple[str, Option]]] = {}
    for variant in VARIANTS.values():
        for option in options(variant.config, "variant."):
            by_flag.setdefault(flag(option.path), []).append((variant.name, option))
    group = parser.add_argument_group("options of the variant")
    for name, owners in by_flag.items():
        taken_by = "" if len(owners) > 8 else f" ({', '.join(owner for owner, _ in owners)})"
        _one_flag(group, owners[0][1], name, taken_by)


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """How a file becomes a dataset."""
    parser.add_argument(
        "--column", action="append", default=[], metavar="ROLE=NAME",
        help=f"what a file's column is, such as prompt=Frage; may be repeated; roles: {', '.join(ROLES)}",
    )  # fmt: skip
    parser.add_argument("--metric", metavar="NAME", help="how answers are scored: label, exact, contains, ..., or none")


def _one_flag(parser: Any, option: Option, name: str, note: str = "") -> None:
    text = (option.description + note).replace("%", "%%")
    kind = "|".join(option.choices) if option.kind == "choice" else option.kind
    # Without a default, so that an absent flag does not override a configuration file. The schema checks the values.
    parser.add_argument(f"--{name}", dest=option.path, metavar=kind.upper(), help=text, default=argparse.SUPPRESS)


def add_section_flags(parser: argparse.ArgumentParser, section: type[Section]) -> None:
    """A flag for every option of a schema."""
    for option in options(section):
        _one_flag(parser, option, flag(option.path))


def section_given(section: type[S], args: argparse.Namespace) -> S:
    """The options of a schema from the flags of `add_section_flags`; raises ConfigError."""
    texts = {option: getattr(args, option.path) for option in options(section) if hasattr(args, option.path)}
    return checked(section, {option.path: _value(option, text) for option, text in texts.items()})


def add_chat_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `chat`."""
    parser.add_argument("run")
    parser.add_argument("--prompt", required=True)
    add_section_flags(parser, ChatOptions)


def within(low: float, high: float, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """A converter for argparse that refuses numbers outside [low, high]."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            word = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a {word} from {low} to {high}")
        return value

    return convert


def build_config(args: argparse.Namespace) -> RunConfig:
    """The RunConfig of `train`'s flags. Flags take precedence over the configuration file, and that over the preset.
    Raises ConfigError."""
    data: dict[str, Any] = {}
    if args.config:
        try:
            text = Path(args.config).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("--config", args.config, f"it must be a readable JSON file ({error})") from error
        data = RunConfig.parse_json(text).model_dump(exclude_unset=True)
    chosen = get_variant(args.variant or data.get("variant", {}).get("name", "lora"))
    of_variants = [option for variant in VARIANTS.values() for option in options(variant.config, "variant.")]
    listed = [*of_variants, *options(RunConfig), *FEDERATED, *options(chosen.config, "variant.")]
    known = {option.path: option for option in listed}
    flags = {path: text for path, text in vars(args).items() if "." in path or path == "title"}
    values = {path: _value(known[path], text) for path, text in flags.items()}
    if source := values.get("model.source", data.get("model", {}).get("source")):
        values["model.source"] = absolute(str(source))
    return assemble(data, args.variant, values, args.preset)


def absolute(source: str) -> str:
    """A model's source. The path of a folder or file is made absolute, since runs are also opened from other
    folders."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if source != "embedded" and "\0" not in source and folder.exists() else source


def _value(option: Option, text: str) -> Any:
    """Converts text to the option's type. Text that cannot be converted is returned unchanged, and the schema refuses
    it."""
    if option.optional and text.lower() in ("", "none"):
        return None
    if option.kind == "bool" and text.lower() in ("true", "false", "yes", "no", "1", "0"):
        return text.lower() in ("true", "yes", "1")
    if option.kind == "list":
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return text if text in option.choices else [_number(option.item, part) for part in parts]
    return _number(option.kind, text)


def _number(kind: str, text: str) -> Any:
    """Converts text to 'int' or 'float'; text that is no such number is returned unchanged."""
    convert = {"int": int, "float": float}.get(kind)
    try:
        return convert(text) if convert else text
    except ValueError:
        return text

"""The command line: all that the interface does, without it. Results go to standard output, messages to standard error.

The flags of `train` are derived from the RunConfig schema and the variants' own options; it knows neither by heart.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_playground.config import Option, RunConfig, options
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.variants import VARIANTS, get_variant

# Short names for what people type most; every other flag is the option's own last name.
ALIASES = {"model.source": "model", "data.dataset": "dataset"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error in plain words, 130 when interrupted."""
    options_given = _parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        value = options_given.command(options_given)
    except PlaygroundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    if options_given.json:
        print(json.dumps(value, ensure_ascii=False))
    else:
        options_given.show(value)
    return 0


# --- parser -------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--home", metavar="DIR", help="where runs live (default: $LORA_PLAYGROUND_HOME)")
    shared.add_argument("--json", action="store_true", help="print one JSON value on standard output")
    parser = argparse.ArgumentParser(prog="python -m lora_playground", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, show: Callable, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[shared], help=summary, description=summary)
        sub.set_defaults(command=run, show=show)
        return sub

    _add_train_flags(command("train", _train, _show_train, "fine-tune: start a run and wait for it"))
    resume = command("resume", _resume, _show_train, "go on with an interrupted run from its last checkpoint")
    resume.add_argument("run")
    evaluate = command("evaluate", _evaluate, _show_pairs, "score base and adapted model on the dataset's test part")
    evaluate.add_argument("run")
    evaluate.add_argument("--rows", type=int, default=None, help="at most so many test rows (default: all)")
    command("runs", _runs, _show_table, "list the runs")
    command("show", _show_run, _show_pairs, "one run: its configuration, state and result").add_argument("run")
    command("delete", _delete, _show_pairs, "delete a run and all its files").add_argument("run")
    command("spectra", _spectra, _show_spectra, "singular values of what a run learned").add_argument("run")
    _add_chat_flags(command("chat", _chat, _show_chat, "one prompt to base and adapted model, same noise"))
    export = command("export", _export, _show_pairs, "write a run's adapter for other tools")
    export.add_argument("run")
    export.add_argument("--format", default="peft", choices=["peft", "lora", "merged"])
    export.add_argument("--out", required=True, metavar="DIR")
    export.add_argument("--rank", type=int, help="with --format lora: keep so many directions a module")
    command("variants", _variants, _show_variants, "list the variants and their options")
    command("datasets", _datasets, _show_table, "list the datasets")
    command("models", _models, _show_table, "list the base models at hand")
    return parser


def _add_train_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="a RunConfig as JSON; flags override it")
    parser.add_argument("--variant", metavar="NAME", help=f"one of {', '.join(VARIANTS)}")
    for option in options(RunConfig):
        _add_flag(parser, option, _flag(option.path))
    by_flag: dict[str, list[tuple[str, Option]]] = {}
    for variant in VARIANTS.values():
        for option in options(variant.config, "variant."):
            by_flag.setdefault(_flag(option.path), []).append((variant.name, option))
    group = parser.add_argument_group("options of the variant")
    for flag, owners in by_flag.items():
        taken_by = "" if len(owners) > 8 else f" ({', '.join(name for name, _ in owners)})"
        _add_flag(group, owners[0][1], flag, taken_by)


def _add_flag(parser: Any, option: Option, flag: str, note: str = "") -> None:
    text = (option.description + note).replace("%", "%%")
    kind = "|".join(option.choices) if option.kind == "choice" else option.kind
    # No default: an absent flag must not override a configuration file. Values are checked by the schema, not here.
    parser.add_argument(f"--{flag}", dest=option.path, metavar=kind.upper(), help=text, default=argparse.SUPPRESS)


def _flag(path: str) -> str:
    return ALIASES.get(path, path.rsplit(".", 1)[-1]).replace("_", "-")


def _add_chat_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--system", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=_within(0.0, 10.0), default=0.0)
    parser.add_argument("--top-p", type=_within(0.001, 1.0), default=1.0)
    parser.add_argument("--max-new-tokens", type=_within(1, 4096, int), default=128)
    parser.add_argument("--strength", type=_within(0.0, 2.0), default=1.0, help="the update's strength, 0 to 2")
    parser.add_argument(
        "--keep", type=_within(0, 4096, int), help="keep only the k strongest directions of each module"
    )


def _within(low: float, high: float, kind: Callable[[str], float] = float) -> Callable[[str], float]:
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


# --- commands -----------------------------------------------------------------------------------------------------


def build_config(given: argparse.Namespace) -> RunConfig:
    """The RunConfig of `train`'s flags: file first, then flags; raises ConfigError."""
    data: dict[str, Any] = {}
    if given.config:
        try:
            text = Path(given.config).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("--config", given.config, f"it must be a readable JSON file ({error})") from error
        data = RunConfig.parse_json(text).model_dump()
    if given.variant and given.variant != data.get("variant", {}).get("name"):
        data["variant"] = {"name": get_variant(given.variant).name}
    variant = get_variant(data.setdefault("variant", {"name": "lora"})["name"])
    known = {option.path: option for option in options(RunConfig)}
    known |= {option.path: option for option in options(variant.config, "variant.")}
    for path, text in vars(given).items():
        if "." not in path and path != "title":
            continue
        if path not in known:
            names = ", ".join(option.path.split(".")[-1] for option in options(variant.config, "variant."))
            raise ConfigError(path, text, f"the variant {variant.name} has no such option; it has {names or 'none'}")
        *parents, leaf = path.split(".")
        section = data
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = _value(known[path], text)
    return RunConfig.parse(data)


def _value(option: Option, text: str) -> Any:
    """Text to the option's type; what does not parse stays text, for the schema to refuse in its own words."""
    if option.optional and text.lower() in ("", "none"):
        return None
    if option.kind == "bool" and text.lower() in ("true", "false", "yes", "no", "1", "0"):
        return text.lower() in ("true", "yes", "1")
    if option.kind == "list":
        return text if text in option.choices else [part.strip() for part in text.split(",") if part.strip()]
    for kind, convert in (("int", int), ("float", float)):
        if option.kind == kind:
            try:
                return convert(text)
            except ValueError:
                return text
    return text


def _store(given: argparse.Namespace) -> Any:
    from lora_playground.runs import RunStore

    return RunStore(given.home)


def _train(given: argparse.Namespace) -> dict[str, Any]:
    from lora_playground.jobs.admission import check

    config, store = build_config(given), _store(given)
    for warning in check(config, store.home):
        print(f"warning: {warning}", file=sys.stderr)
    return _execute(store.create(config))


def _resume(given: argparse.Namespace) -> dict[str, Any]:
    from lora_playground.errors import RunError

    run = _store(given).get(given.run)
    if run.state() == "done":
        raise RunError(f"Run {run.id} is done; there is nothing to resume. To train on, start a new run.")
    return _execute(run)


def _execute(run: Any) -> dict[str, Any]:
    """Runs it here, in this process, with progress on standard error; Ctrl+C stops it after the current step."""
    from lora_playground.jobs.pipeline import execute

    stop = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    print(f"run {run.id}: {run.config().label}", file=sys.stderr)
    try:
        result = execute(run, stop.is_set, emit=_progress)
    finally:
        signal.signal(signal.SIGINT, previous)
    losses = [loss for event in run.events()[0] if event["type"] == "loss" for loss in event["losses"]]
    return {
        "run": run.id,
        "folder": str(run.folder),
        "state": result["state"],
        "trainable_parameters": result["trainable_parameters"],
        "train_seconds": result["seconds"]["training"],
        "tokens_per_second": result["tokens_per_second"],
        "losses": losses,
        "score": result.get("score"),
        "forgetting": result.get("forgetting"),
    }


def _progress(event: dict[str, Any]) -> None:
    kind = event["type"]
    if kind == "phase":
        print(f"  {event['phase']} ...", file=sys.stderr)
    elif kind == "validation":
        print(f"  step {event['step']}: validation loss {event['loss']:.3f}", file=sys.stderr)
    elif kind == "message":
        print(f"  {event['level']}: {event['text']}", file=sys.stderr)


def _evaluate(given: argparse.Namespace) -> dict[str, Any]:
    from lora_playground.jobs.pipeline import evaluate_run

    outcome = evaluate_run(_store(given).get(given.run), rows=given.rows)
    score, forgetting = outcome["score"], outcome["forgetting"]
    if score is None:
        raise ConfigError("run", given.run, "its dataset has no test part with a metric to score")
    return {
        "run": given.run,
        "metric": score["metric"],
        "base": score["base"],
        "adapted": score["adapted"],
        "rows": score["n"],
        "forgetting": forgetting["drop"] if forgetting else None,
    }


def _runs(given: argparse.Namespace) -> list[dict[str, Any]]:
    return [_row(run) for run in _store(given).list()]


def _row(run: Any) -> dict[str, Any]:
    config, result = run.config(), run.result() or {}
    score = result.get("score") or {}
    return {
        "run": run.id,
        "label": config.label,
        "state": run.state(),
        "model": config.model.source,
        "dataset": config.data.dataset,
        "variant": config.variant.name,
        "rank": getattr(config.variant, "rank", None),
        "score": score.get("adapted"),
        "base_score": score.get("base"),
        "trainable_parameters": result.get("trainable_parameters"),
    }


def _show_run(given: argparse.Namespace) -> dict[str, Any]:
    run = _store(given).get(given.run)
    result = run.result()
    return {
        "run": run.id,
        "folder": str(run.folder),
        "state": run.state(),
        "config": json.loads(run.config().model_dump_json()),
        "result": result,
        "error": run.error(),
    }


def _delete(given: argparse.Namespace) -> dict[str, Any]:
    _store(given).delete(given.run)
    return {"run": given.run, "deleted": True}


def _spectra(given: argparse.Namespace) -> dict[str, Any]:
    from lora_playground.analysis.spectra import effective_rank, spectra, stable_rank

    updates = _updates(_store(given).get(given.run))
    values = spectra(updates)
    modules = [
        {
            "name": update.name,
            "shape": list(update.shape),
            "factored": update.factored,
            "singular_values": [float(value) for value in values[update.name]],
            "effective_rank": float(effective_rank(values[update.name])),
            "stable_rank": float(stable_rank(values[update.name])),
        }
        for update in updates
        if update.name in values
    ]
    return {"run": given.run, "modules": modules}


def _updates(run: Any) -> list[Any]:
    from lora_playground.analysis.update import load_updates
    from lora_playground.errors import RunError

    path = run.folder / "update.safetensors"
    if not path.is_file():
        raise RunError(f"Run {run.id} has no saved update; it is {run.state()}. Train it to the end first.")
    return load_updates(path)


def _chat(given: argparse.Namespace) -> dict[str, Any]:
    from lora_playground.models.decoding import Decoder, Row, RowUpdate, Sampling
    from lora_playground.models.loading import load_base

    run = _store(given).get(given.run)
    updates = _updates(run)
    base = load_base(run.config().model)
    decoder = Decoder(base.model, base.tokenizer)
    messages = [{"role": "user", "content": given.prompt}]
    if given.system:
        messages.insert(0, {"role": "system", "content": given.system})
    prompt = decoder.encode(messages)
    cut = None if given.keep is None else (0, given.keep)
    sampling = Sampling(given.temperature, given.top_p, given.seed)  # one for both rows: the same noise
    pair = [
        Row(prompt, update, sampling, given.max_new_tokens, decoder.stop)
        for update in (None, RowUpdate(decoder.adapter(updates), given.strength, cut))
    ]
    with decoder.evaluating():
        batch = decoder.batch()
        batch.add(pair)
        while batch.rows:
            batch.step()
    base_text, adapted_text = (decoder.text(row.tokens) for row in pair)
    return {"run": given.run, "prompt": given.prompt, "base": base_text, "adapted": adapted_text}


def _export(given: argparse.Namespace) -> dict[str, Any]:
    from lora_playground.export import export

    run = _store(given).get(given.run)
    return export(run.folder, given.format, Path(given.out), rank=given.rank)


def _variants(given: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        {
            "name": variant.name,
            "label": variant.label,
            "family": variant.family,
            "paper": variant.card.paper,
            "url": variant.card.url,
            "sentence": variant.card.sentence,
            "learning_rate": {"embedded": variant.learning_rate, "other": variant.real_rate},
            "bits": list(variant.bits),
            "options": [
                {
                    "name": option.path,
                    "kind": option.kind,
                    "default": option.default,
                    "low": option.low,
                    "high": option.high,
                    "choices": list(option.choices),
                    "description": option.description,
                }
                for option in options(variant.config)
            ],
        }
        for variant in VARIANTS.values()
    ]


def _datasets(given: argparse.Namespace) -> list[dict[str, Any]]:
    from lora_playground.data.catalogue import list_datasets

    return [
        {
            "name": card.name,
            "label": card.label,
            "metric": card.metric,
            "train": card.train,
            "validation": card.validation,
            "test": card.test,
        }
        for card in list_datasets(_store(given).home)
    ]


def _models(given: argparse.Namespace) -> list[dict[str, Any]]:
    from lora_playground.models.catalogue import list_models

    return [asdict(model) for model in list_models()]


# --- for people ---------------------------------------------------------------------------------------------------


def _show_train(value: dict[str, Any]) -> None:
    first, last = (f"{value['losses'][i]:.3f}" if value["losses"] else "–" for i in (0, -1))
    print(f"run {value['run']} {value['state']}: loss {first} → {last} in {value['train_seconds']:.1f} s")
    print(f"  {value['trainable_parameters']:,} trained parameters, {value['tokens_per_second']:,.0f} tokens/s")
    if value["score"]:
        score = value["score"]
        print(f"  {score['metric']}: base {score['base']:.1%} → adapted {score['adapted']:.1%} ({score['n']} rows)")
    if value["forgetting"]:
        print(f"  base skills: {value['forgetting']['base']:.1%} → {value['forgetting']['adapted']:.1%}")
    print(f"  {value['folder']}")


def _show_chat(value: dict[str, Any]) -> None:
    print(f"base:    {value['base']}\nadapted: {value['adapted']}")


def _show_spectra(value: dict[str, Any]) -> None:
    for module in value["modules"]:
        shape = "×".join(str(size) for size in module["shape"])
        leading = " ".join(f"{sigma:.3g}" for sigma in module["singular_values"][:8])
        print(f"{module['name']:48} {shape:>12}  effective rank {module['effective_rank']:5.2f}  σ {leading}")


def _show_variants(value: list[dict[str, Any]]) -> None:
    for variant in value:
        print(f"{variant['name']:12} {variant['sentence']}\n{'':12} {variant['paper']}")


def _show_pairs(value: dict[str, Any], indent: str = "") -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{indent}{key}:")
            _show_pairs(item, indent + "  ")
        else:
            print(f"{indent}{key}: {item}")


def _show_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("(none yet)", file=sys.stderr)
        return
    cells = [[_cell(row[key]) for key in rows[0]] for row in rows]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(rows[0])]
    for line in [list(rows[0]), *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""The commands: each takes parsed flags and returns one JSON value. Torch is imported by those that need it."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from lora_playground.cli.flags import absolute, build_config, section_given
from lora_playground.cli.progress import Progress
from lora_playground.errors import ConfigError, PlaygroundError
from lora_playground.service import catalogue
from lora_playground.service.operation_options import ChatOptions, EvaluateOptions, ExportOptions
from lora_playground.wording import counted


def _store(args: argparse.Namespace) -> Any:
    from lora_playground.runs import RunStore

    return RunStore(args.home)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """`train`: checks, then trains here."""
    from lora_playground.jobs import tracking
    from lora_playground.jobs.admission import check

    tracking.choose(args.track)
    store = _store(args)
    _take_file(args, store.home)
    config = build_config(args)
    for warning in check(config, store.home):
        print(f"warning: {warning}", file=sys.stderr)
    return _execute(store.create(config))


def _take_file(args: argparse.Namespace, home: Path) -> None:
    """If `--dataset` names a file, makes a dataset of it and puts the dataset's id in its place."""
    from lora_playground.data.catalogue import list_datasets
    from lora_playground.data.readers import read_file
    from lora_playground.data.uploads import store_once

    name = str(getattr(args, "data.dataset", ""))
    path = Path(name).expanduser()
    if not name or name in {card.name for card in list_datasets(home)} or not path.is_file():
        if args.metric or args.column:
            raise ConfigError("--metric or --column", name or "no file", "they belong to a file given with --dataset")
        return
    reading = read_file(path, mapping=_columns(args))
    card = store_once(reading, home, path.name, metric=args.metric)
    _tell_reading(card, reading)
    setattr(args, "data.dataset", card.name)


def _columns(args: argparse.Namespace) -> dict[str, str] | None:
    return dict(pair.partition("=")[::2] for pair in args.column) or None


def _tell_reading(card: Any, reading: Any) -> None:
    """Prints what was found in a file, which parts of it are not used, and which rows were left out."""
    parts = f"{card.train} to learn from, {card.validation} to watch, {card.test} kept back as a test"
    print(f"dataset {card.name}: {counted(len(reading.rows), 'row')} read: {parts}", file=sys.stderr)
    for text in [*reading.notes, *(problem.text for problem in reading.problems[:20])]:
        print(f"note: {text}", file=sys.stderr)


def resume(args: argparse.Namespace) -> dict[str, Any]:
    """`resume`: continues a run from its last checkpoint."""
    from lora_playground.errors import RunError
    from lora_playground.jobs import tracking

    tracking.choose(args.track)
    run = _store(args).get(args.run)
    if run.state() == "done":
        raise RunError(f"Run {run.id} is done; there is nothing to resume. To train on, start a new run.")
    return _execute(run)


def _execute(run: Any) -> dict[str, Any]:
    """Trains a run in this process, with progress on standard error. Ctrl+C stops it after the current step."""
    from lora_playground.jobs.pipeline import execute

    stop = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    print(f"run {run.id}: {run.label}", file=sys.stderr)
    try:
        with Progress() as progress:
            result = execute(run, stop.is_set, emit=progress.event)
    finally:
        signal.signal(signal.SIGINT, previous)
    return {
        "run": run.id,
        "folder": str(run.folder),
        "state": result["state"],
        "trainable_parameters": result["trainable_parameters"],
        "train_seconds": result["seconds"]["training"],
        "seconds_total": round(sum(result["seconds"].values()), 3),
        "tokens_per_second": result["tokens_per_second"],
        "losses": run.progress().losses,
        "score": result.get("score"),
        "forgetting": result.get("forgetting"),
        "changed": result.get("changed"),
    }


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """`evaluate`: scores of base and adapted model on the dataset's test part."""
    from lora_playground.jobs.pipeline import evaluate_run

    most = section_given(EvaluateOptions, args).rows
    with Progress() as progress:
        outcome = evaluate_run(
            _store(args).get(args.run), most, lambda done, of, left: progress.count(done, of, "rows", left)
        )
    score, forgetting = outcome["score"], outcome["forgetting"]
    if score is None:
        raise ConfigError("run", args.run, "its dataset has no test part with a metric to score")
    return {
        "run": args.run,
        **{name: value for name, value in score.items() if name != "n"},
        "rows": score["n"],
        "forgetting": forgetting["drop"] if forgetting else None,
    }


def runs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`runs`: one row for each run."""
    rows = []
    for run in _store(args).list():
        try:
            rows.append(catalogue.run_row(run, run.state()))
        except PlaygroundError as error:  # a damaged folder is reported, and the others are listed
            print(f"warning: run {run.id} is left out: {error}", file=sys.stderr)
    return rows


def show_run(args: argparse.Namespace) -> dict[str, Any]:
    """`show`: config, state, result, error."""
    run = _store(args).get(args.run)
    return {"folder": str(run.folder), **catalogue.run_record(run, run.state())}


def delete(args: argparse.Namespace) -> dict[str, Any]:
    """`delete`: the run and its files."""
    _store(args).delete(args.run)
    return {"run": args.run, "deleted": True}


def spectra(args: argparse.Namespace) -> dict[str, Any]:
    """`spectra`: singular values of each module's update."""
    from lora_playground.service.spectra import numbers

    return numbers(_store(args).get(args.run))


def import_run(args: argparse.Namespace) -> dict[str, Any]:
    """`import`: a PEFT adapter from a folder, a zip or the hub."""
    from lora_playground.exchange.importing import import_adapter, import_from_hub

    store, source = _store(args), Path(args.source).expanduser()
    title, base = args.title or "", args.base and absolute(args.base)
    with Progress() as progress:
        tell = partial(progress.count, unit="modules")
        if source.exists():
            done = import_adapter(store, source, title, base, progress=tell)
        elif source.suffix == "" and args.source.count("/") == 1 and not args.source.startswith((".", "~", "/")):
            done = import_from_hub(store, args.source, title, base, progress=tell)
        else:
            raise ConfigError(
                "SOURCE", args.source, "give an adapter's folder, its zip, or a hub id like somebody/adapter"
            )
    for words in done.notes:
        print(f"note: {words}", file=sys.stderr)
    return {"run": done.run.id, "folder": str(done.run.folder), "base": done.base or None, "notes": done.notes}


def chat(args: argparse.Namespace) -> dict[str, Any]:
    """`chat`: one prompt to base and adapted model."""
    from lora_playground.analysis.truncation import Truncation
    from lora_playground.models.decoding import Decoder, Row, RowUpdate, Sampling
    from lora_playground.models.loading import load_base
    from lora_playground.service.spectra import updates_of

    ways = section_given(ChatOptions, args)
    run = _store(args).get(args.run)
    updates = updates_of(run)
    base = load_base(run.config().model)
    decoder = Decoder(base.model, base.tokenizer)
    messages = [{"role": "user", "content": args.prompt}]
    if ways.system:
        messages.insert(0, {"role": "system", "content": ways.system})
    prompt = decoder.encode(messages)
    truncation = None if ways.keep is None else Truncation("top", k=ways.keep)
    sampling = Sampling(ways.temperature, ways.top_p, ways.seed)  # the same random numbers for both rows
    pair = [
        Row(prompt, update, sampling, ways.max_new_tokens, decoder.stop)
        for update in (None, RowUpdate(decoder.adapter(updates), ways.strength, truncation))
    ]
    with decoder.evaluating():
        batch = decoder.batch()
        batch.add(pair)
        while batch.rows:
            batch.step()
    base_text, adapted_text = (decoder.text(row.tokens) for row in pair)
    return {"run": args.run, "prompt": args.prompt, "base": base_text, "adapted": adapted_text}


def export_run(args: argparse.Namespace) -> dict[str, Any]:
    """`export`: a run's adapter in a format that other tools read."""
    from lora_playground.exchange.exporting import check, export

    rank = section_given(ExportOptions, args).rank
    check(args.format, rank)
    run = _store(args).get(args.run)
    return export(run.folder, args.format, Path(args.out), rank=rank)


def reproduce_run(args: argparse.Namespace) -> dict[str, Any]:
    """`reproduce`: config, command, script, notebook or all of them as a zip."""
    from lora_playground.reproduce import check, reproduce

    check(args.format)
    run = _store(args).get(args.run)
    try:
        return reproduce(run, args.format, Path(args.out) if args.out else None)
    except OSError as error:
        raise ConfigError("--out", args.out, f"it cannot be written ({error.strerror})") from error


def estimate(args: argparse.Namespace) -> dict[str, Any]:
    """`estimate`: time, memory by cause, trained parameters and size of the adapter. No model is loaded."""
    from lora_playground.models.precision import probe

    config, machine = build_config(args), probe()
    return catalogue.estimated(_store(args), config, machine.device, machine.dtype)


def variants(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`variants`: all of them, with their options."""
    return catalogue.variants()


def datasets(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`datasets`: those that come with the app, and uploads."""
    return catalogue.datasets(_store(args).home)


def upload(args: argparse.Namespace) -> dict[str, Any]:
    """`upload`: a file or a part of a hub dataset becomes a dataset for `--dataset`."""
    from lora_playground.data.from_hub import read_hub
    from lora_playground.data.readers import read_file
    from lora_playground.data.uploads import store_once

    path, home = Path(args.source), _store(args).home
    if path.exists() or "/" not in args.source:
        reading, label = read_file(path, mapping=_columns(args)), path.name
    else:
        with Progress() as progress:
            reading = read_hub(args.source, args.split, _columns(args), progress.download)
        label = f"{args.source} {args.split}"
    card = store_once(reading, home, label, args.seed, args.metric)
    _tell_reading(card, reading)
    return catalogue.upload_record(card, reading)


def models(args: argparse.Namespace) -> list[dict[str, Any]]:
    """`models`: the base models of the catalogue."""
    return catalogue.models()

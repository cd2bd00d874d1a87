"""The command line: everything that the web interface can do. Results go to standard output, messages to standard
error.

This module defines the commands and their flags. `commands`, `sweeps`, `lab`, `lessons` and `claims` do the work and
return a JSON value; `show` prints it for people.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence

from lora_playground import __version__
from lora_playground.cli import claims as of_claims
from lora_playground.cli import commands, lab, show
from lora_playground.cli import lessons as of_lessons
from lora_playground.cli import sweeps as of_sweeps
from lora_playground.cli.flags import add_chat_flags, add_file_flags, add_section_flags, add_train_flags, build_config
from lora_playground.errors import PlaygroundError
from lora_playground.reproduce import FORMATS
from lora_playground.runs import home_at
from lora_playground.service.operation_options import EvaluateOptions, ExportOptions

__all__ = ["build_config", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for an error in plain words, 130 when interrupted."""
    options_given = _parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would mix with the bars of `progress`
    try:
        with home_at(options_given.home):
            value = options_given.command(options_given)
    except PlaygroundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = f"{error.filename}: {error.strerror}; give a place that can be read and written"
        print(f"error: {place if error.filename else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    try:
        if options_given.json:
            print(json.dumps(value, ensure_ascii=False))
        else:
            options_given.show(value)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe (`... | head`). Discards what Python flushes at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--home", metavar="DIR", help="where runs live (default: $LORA_PLAYGROUND_HOME)")
    shared.add_argument("--json", action="store_true", help="print one JSON value on standard output")
    parser = argparse.ArgumentParser(
        prog="lora-playground",
        description=__doc__.splitlines()[0],
        epilog="serve: open the app in a browser (serve --help)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    listed = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, tell: Callable, summary: str) -> argparse.ArgumentParser:
        sub = listed.add_parser(name, parents=[shared], help=summary, description=summary)
        sub.set_defaults(command=run, show=tell)
        sub._negative_number_matcher = re.compile(r"-\.?\d")  # a list such as -1,0 is a value, too
        return sub

    for add in (_training, _runs, lab.add, _data_and_lessons):
        add(command)
    return parser


Command = Callable[[str, Callable, Callable, str], argparse.ArgumentParser]
"""Function that adds a command, given its name, the function that does it, the one that prints its value, a line of
help."""


def _training(command: Command) -> None:
    train = command("train", commands.train, show.show_train, "fine-tune: start a run and wait for it")
    add_train_flags(train)
    of_sweeps.add_flags(
        command("sweep", of_sweeps.sweep, of_sweeps.show_sweep, "up to 32 runs: ranks × variants × rates × seeds")
    )
    command("sweeps", of_sweeps.sweeps, show.show_table, "list the sweeps")
    command("delete-sweep", of_sweeps.delete_sweep, show.show_pairs, "delete a sweep with all its runs").add_argument(
        "sweep"
    )
    resume = command("resume", commands.resume, show.show_train, "go on with a run from its last checkpoint")
    resume.add_argument("run")
    for trains in (train, resume):
        trains.add_argument("--track", metavar="NAME", help="send its curves to tensorboard, trackio or wandb")
    add_train_flags(command("estimate", commands.estimate, show.show_estimate, "what a run would cost, by cause"))


def _runs(command: Command) -> None:
    evaluate = command("evaluate", commands.evaluate, show.show_pairs, "score both models on the dataset's test part")
    evaluate.add_argument("run")
    add_section_flags(evaluate, EvaluateOptions)
    command("runs", commands.runs, show.show_table, "list the runs")
    command("show", commands.show_run, show.show_pairs, "one run: configuration, state and result").add_argument("run")
    command("delete", commands.delete, show.show_pairs, "delete a run and all its files").add_argument("run")
    command("spectra", commands.spectra, show.show_spectra, "singular values of what a run learned").add_argument("run")
    bring = command(
        "import", commands.import_run, show.show_pairs, "look at a PEFT adapter: a folder, a zip, or the hub"
    )
    bring.add_argument("source", metavar="SOURCE")
    bring.add_argument("--base", metavar="MODEL", help="its base model (default: found by its shapes, or none)")
    bring.add_argument("--title", help="the run's name")
    add_chat_flags(command("chat", commands.chat, show.show_chat, "one prompt to base and adapted model, same noise"))
    export = command("export", commands.export_run, show.show_pairs, "write a run's adapter for other tools")
    export.add_argument("run")
    export.add_argument("--format", default="peft", help="peft (default), lora or merged")
    export.add_argument("--out", required=True, metavar="DIR")
    add_section_flags(export, ExportOptions)
    again = command("reproduce", commands.reproduce_run, show.show_reproduced, "a finished run to do again")
    again.add_argument("run")
    again.add_argument("--format", default="cli", help=f"{', '.join(FORMATS)} (default: cli, printed)")
    again.add_argument("--out", metavar="FILE", help="the file to write; batches go beside a script or notebook")
    command("variants", commands.variants, show.show_variants, "list the variants and their options")


def _data_and_lessons(command: Command) -> None:
    upload = command("upload", commands.upload, show.show_pairs, "make a dataset of a file, or of a hub dataset's part")
    upload.add_argument("source", help="a file, or a hub id such as openai/gsm8k")
    upload.add_argument("--split", default="train", help="of a hub dataset: train, or with its subset main/train")
    add_file_flags(upload)
    upload.add_argument("--seed", type=int, default=0, help="of the split into train, validation and test")
    command("datasets", commands.datasets, show.show_table, "list the datasets")
    command("claims", of_claims.claims, of_claims.show_claims, "what papers claim, and what came out here")
    taught = command(
        "lessons", of_lessons.lessons, of_lessons.show_lessons, "list the lessons, or print a sheet of one"
    )
    taught.add_argument("--sheet", metavar="NAME", help="a lesson's questions as Markdown to print")
    taught.add_argument("--answers", action="store_true", help="with --sheet: with what came out, for the teacher")
    command("models", commands.models, show.show_table, "list the base models at hand")

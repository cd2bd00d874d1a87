"""Federated strategies against each other on the embedded model: score, aggregation error, megabytes, seconds.

Two settings: facts about people, each of five clients holding other people's; a labelled set split by Dirichlet 0.3;
each with equal ranks and with ranks 2 to 16, beside all rows at one place trained for as many steps. The base is loaded
once, and only the last round is scored. Seconds are the processor's, on one thread, so that what else runs on the
machine counts little. `--json FILE` writes the figures and, where it holds some of the same options, goes on from them;
`--minutes` bounds the whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lora_playground.variants  # noqa: F401
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset
from lora_playground.federated.config import client_ranks, strategy_of
from lora_playground.federated.preparation import prepare_clients
from lora_playground.federated.simulation import begin, parties, simulate
from lora_playground.federated.strategies import STRATEGIES

MIXED = [2, 4, 8, 12, 16]
SETTINGS = {
    "facts": {"dataset": "facts-small", "partition": "topic", "learning_rate": 1.5e-2, "local_steps": 5},
    "labels": {
        "dataset": "sentiment",
        "partition": "dirichlet",
        "concentration": 0.3,
        "learning_rate": 4e-3,
        "local_steps": 10,
    },
}
"""What is trained on, how it is split, the clients' learning rate and steps a round."""
CENTRAL = "central"
"""Not a strategy: one party that holds all rows and trains as many steps as all clients together."""
CLIENTS = 5
COLUMNS = ("strategy", "ranks", "score", "loss", "error", "MB up", "MB down", "rank", "CPU s")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def config_of(given: argparse.Namespace, setting: str, strategy: str, mixed: bool, seed: int) -> RunConfig:
    """One cell of the table as a run's config."""
    options = SETTINGS[setting]
    central = strategy == CENTRAL
    steps = given.local_steps or options["local_steps"]
    federated = {
        "strategy": "fedit" if central else strategy,
        "clients": 1 if central else CLIENTS,
        "rounds": given.rounds,
        "local_steps": steps * (CLIENTS if central else 1),
        "ranks": MIXED if mixed else [given.rank],
        "partition": "iid" if central else options["partition"],
        "concentration": options.get("concentration", 0.3),
        "score_rows": given.score_rows,
    }
    # A mean over clients takes a rate at which one party alone diverges; that one gets the variant's own.
    rate = None if central else given.learning_rate or options["learning_rate"]
    training = {"batch_tokens": given.batch_tokens, "seed": seed, "learning_rate": rate}
    return RunConfig.parse(
        {
            "model": {"source": given.model},
            "data": {"dataset": options["dataset"], "rehearsal": given.rehearsal},
            "variant": {"name": "lora", "rank": given.rank, "alpha": 2.0 * given.rank},
            "training": training,
            "federated": federated,
        }
    )


def play(base: Any, config: RunConfig) -> dict[str, Any]:
    """One run on the loaded base; the base is pristine again afterwards."""
    from lora_playground.federated.local import LocalTrainer

    federated = config.federated
    assert federated is not None
    dataset = get_dataset(config.data.dataset)
    held = prepare_clients(base.tokenizer, dataset, config, embedded=True)
    shared = held.shared
    judged = shared.validation, dataset.test, dataset.card.metric
    trainer = LocalTrainer(base, config, held.examples, shared.rehearsal, shared.share, *judged, threads=1)
    strategy = strategy_of(config)
    who = parties(client_ranks(config), [len(mine) for mine in held.examples], trainer)
    state = begin(strategy, who, trainer, config.training.seed)
    rounds: list[dict[str, Any]] = []
    judging = [0.0]
    plain = trainer.judge

    def judge(server: Any) -> dict[str, float | None]:
        if server.round < federated.rounds:
            return {"loss": None, "score": None}
        start = time.process_time()
        found = plain(server)
        judging[0] += time.process_time() - start
        return found

    trainer.judge = judge  # type: ignore[method-assign]
    start = time.process_time()
    simulate(
        strategy,
        who,
        trainer,
        state,
        federated.rounds,
        federated.drop_out,
        lambda event: rounds.append(event) if event["type"] == "round" else None,
        lambda: False,
    )
    seconds = time.process_time() - start - judging[0]
    trainer.close()
    last = rounds[-1]
    return {
        "score": last["score"],
        "loss": last["loss"],
        "error": statistics.mean(event["error"] for event in rounds if event["error"] is not None),
        "up_megabytes": state.up / 1e6,
        "down_megabytes": state.down / 1e6,
        "seconds": seconds,
        "scoring_seconds": judging[0],
        "global_rank": last["rank"]["global"],
        "tokens": state.tokens,
    }


def mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over seeds of every number, and the spread of the score."""
    merged = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if rows[0][key] is not None}
    merged["score_spread"] = max(row["score"] for row in rows) - min(row["score"] for row in rows)
    return merged


def line(cell: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    error = "exact" if cell["error"] < 1e-5 else f"{100 * cell['error']:.1f}%"
    spread = f" ± {50 * cell['score_spread']:.0f}" if cell["seeds"] > 1 else ""
    name = cell["strategy"]
    label = "all rows at one place" if name == CENTRAL else STRATEGIES[name].label
    return (
        f"| {label} | {cell['ranks']} | {100 * cell['score']:.0f}%{spread} "
        f"| {cell['loss']:.2f} | {error} | {cell['up_megabytes']:.2f} | {cell['down_megabytes']:.2f} "
        f"| {cell['global_rank']:.0f} | {cell['seconds']:.0f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--doc", type=Path, help="put the tables into this Markdown file, between their marks")
    parser.add_argument("--minutes", type=float, default=30.0, help="start no further run after so long")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    names = [CENTRAL, *STRATEGIES]
    parser.add_argument("--strategies", nargs="+", choices=names, default=names)
    parser.add_argument("--ranks", nargs="+", choices=["equal", "mixed"], default=["equal", "mixed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", default="embedded", help="a base model's folder, instead of the embedded one")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--local-steps", type=int, help="of a client in a round; by default each setting's own")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch-tokens", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, help="of the clients; by default each setting's own")
    parser.add_argument("--rehearsal", type=float, default=0.0)
    parser.add_argument("--score-rows", type=int, default=128, help="test rows at most")
    given = parser.parse_args()

    import torch

    from lora_playground.config import ModelConfig
    from lora_playground.models.loading import load_base

    torch.set_num_threads(1)
    began = time.perf_counter()
    base = load_base(ModelConfig(source=given.model))
    cells = known(given, base)
    done = {(cell["setting"], cell["strategy"], cell["ranks"]) for cell in cells}
    print(HEAD)
    for setting in given.settings:
        print(f"| **{setting}** | | | | | | | | |")
        for kind in given.ranks:
            for name in given.strategies:
                if kind == "mixed" and (name == CENTRAL or not STRATEGIES[name].heterogeneous):
                    continue
                ranks = str(given.rank) if kind == "equal" else "2 to 16"
                if (setting, name, ranks) in done:
                    continue
                rows = []
                for seed in given.seeds:
                    if (time.perf_counter() - began) / 60 < given.minutes:
                        rows.append(play(base, config_of(given, setting, name, kind == "mixed", seed)))
                if not rows:
                    continue
                cells.append({"setting": setting, "strategy": name, "ranks": ranks, "seeds": len(rows)} | mean_of(rows))
                print(line(cells[-1]), flush=True)
                if given.json:
                    write(given, base, cells)
    for setting in dict.fromkeys(cell["setting"] for cell in cells):
        print(f"\n**{setting}**\n{HEAD}\n{table(cells, setting)}")
    if given.doc:
        into(given.doc, cells)
    spent = sum((cell["seconds"] + cell["scoring_seconds"]) * cell["seeds"] for cell in cells)
    clock = (time.perf_counter() - began) / 60
    print(f"\n{len(cells)} cells, {spent / 60:.1f} minutes of one core, {clock:.1f} by the clock")
    return 0


def table(cells: list[dict[str, Any]], setting: str) -> str:
    """A setting's cells, the lowest loss first, equal ranks before mixed ones."""
    mine = [cell for cell in cells if cell["setting"] == setting]
    return "\n".join(map(line, sorted(mine, key=lambda cell: (cell["ranks"] == "2 to 16", cell["loss"]))))


def into(doc: Path, cells: list[dict[str, Any]]) -> None:
    """Puts the tables between their marks in a Markdown file: <!-- facts --> and <!-- /facts -->."""
    text = doc.read_text(encoding="utf-8")
    for setting in dict.fromkeys(cell["setting"] for cell in cells):
        before, rest = text.split(f"<!-- {setting} -->\n")
        after = rest.split(f"<!-- /{setting} -->")[1]
        text = f"{before}<!-- {setting} -->\n{HEAD}\n{table(cells, setting)}\n<!-- /{setting} -->{after}"
    doc.write_text(text, encoding="utf-8")


FREE = ("json", "doc", "minutes", "settings", "strategies", "ranks")
"""Options that say which cells to make, not what is in them."""


def known(given: argparse.Namespace, base: Any) -> list[dict[str, Any]]:
    """The cells of an earlier sitting with the same options on the same base; none where there was none."""
    if not given.json or not given.json.is_file():
        return []
    kept = json.loads(given.json.read_text())
    same = all(kept["options"].get(key) == value for key, value in vars(given).items() if key not in FREE)
    same = same and kept.get("settings") == SETTINGS
    return kept["cells"] if same and kept["machine"]["base"] == base.fingerprint.identity[:12] else []


def write(given: argparse.Namespace, base: Any, cells: list[dict[str, Any]]) -> None:
    """The figures so far."""
    import torch

    about = {key: value for key, value in vars(given).items() if key not in FREE}
    machine = {"device": str(base.device), "dtype": str(base.dtype), "threads": torch.get_num_threads()}
    machine["base"] = base.fingerprint.identity[:12]
    given.json.write_text(
        json.dumps({"options": about, "settings": SETTINGS, "machine": machine, "cells": cells}, indent=1)
    )


if __name__ == "__main__":
    sys.exit(main())

"""Measures what papers claim, on the shipped base, both sides with several seeds, for the page Claims.

    python benchmarks/claims.py [NAME ...] [--minutes M] [--home DIR] [--list]

Writes assets/claims/measured.json, claim by claim. Runs that lie in --home are not trained again, and runs that two
claims share are trained once, so that it goes on where it was stopped. One thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_playground.claims import Claim, list_claims, verdict
from lora_playground.claims.measured import FILE, Measurement, digest, measurement
from lora_playground.claims.trials import value_of
from lora_playground.config import RunConfig
from lora_playground.lessons.figures import base_digest
from lora_playground.models.catalogue import EMBEDDED
from lora_playground.runs import RunStore
from lora_playground.runs.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (1024, 2048)
TIMES = (5, 10, 20, 40, 80, 160)
FEDERATED_SEEDS = 3


class Bench:
    """Trains what is missing. `until`: the time (monotonic) after which nothing new is begun."""

    def __init__(self, home: Path, until: float) -> None:
        self.store, self.until = RunStore(home), until
        self._known = {run.label: run for run in self.store.list() if run.result() is not None}

    def result(self, config: RunConfig) -> dict[str, Any] | None:
        """The result of a config; None where there is no time left to train it. Titles do not count."""
        from lora_playground.jobs.pipeline import execute

        plain = config.model_copy(update={"title": ""})
        label = hashlib.sha256(plain.model_dump_json().encode()).hexdigest()[:24]
        if label not in self._known:
            if time.monotonic() > self.until:
                return None
            run = self.store.create(config.model_copy(update={"title": label}))
            execute(run, lambda: False)
            self._known[label] = run
        return self._known[label].result()


def sides(claim: Claim, bench: Bench) -> Measurement | None:
    """Both sides of a comparison with every seed; None where time ran out."""
    values: dict[str, list[float]] = {key: [] for key in claim.sides}
    rows = 0
    for seed in range(claim.seeds):
        for key, side in claim.sides.items():
            result = bench.result(side.run_config(seed))
            if result is None:
                return None
            told = value_of(claim, result)
            values[key].append(round(told["value"], 6))
            rows = told.get("rows", rows)
            print(f"{claim.name}: {key} seed {seed}: {told['value']:.4f}", flush=True)
    return made(claim, seeds=list(range(claim.seeds)), rows=rows, values=values)


def made(claim: Claim, **parts: Any) -> Measurement:
    """A measurement with its stamps."""
    return Measurement(base=base_digest(EMBEDDED), config=digest(claim), **parts)


# --- figures that no run of the app gives -----------------------------------------------------------------------------


def celora_cheaper(claim: Claim) -> Measurement:
    """Arithmetic by the variants' own formulas, and time as celora_step.py measures it."""
    from lora_playground.estimates.arithmetic import step_flops
    from lora_playground.variants import VARIANTS

    figures = {}
    for width in WIDTHS:
        done = {
            name: VARIANTS[name].flops(
                "model.layers.0.mlp.up_proj", (width, width), VARIANTS[name].config(rank=16), 2048
            )
            for name in ("lora", "celora")
        }
        figures[f"flops_{width}"] = done["lora"] / done["celora"]
    steps = [step_flops(RunConfig.parse({"variant": {"name": name}})) for name in ("lora", "celora")]
    figures["flops_embedded"] = round(steps[0] / steps[1], 4)
    report = script("celora_step.py", "--skip-model", "--widths", *map(str, WIDTHS), "--threads", "1", "--clock", "cpu")
    for row in report["rows"]:
        if row["ratio"] == 0.55:
            figures[f"time_{row['width']}"] = row["speedup"]
    return made(claim, figures={key: round(value, 4) for key, value in figures.items()})


def double_lora(claim: Claim) -> Measurement:
    """Errors of the gradient as celora_gradient.py compares them, all without tilt."""
    rows = script("celora_gradient.py")
    find = lambda **wanted: next(  # noqa: E731
        row["error"] for row in rows if {key: row[key] for key in row if key in SETTINGS} == wanted
    )
    none = find(frozen_rank=7, tilt=0.0, double_lora=False)
    figures = {
        "error_none": none, "error_7": find(frozen_rank=7, tilt=0.0), "error_128": find(tilt=0.0),
    }  # fmt: skip
    figures |= {f"error_ratio_{q}": figures[f"error_{q}"] / none for q in (7, 128)}
    return made(claim, figures={key: round(value, 4) for key, value in figures.items()})


SETTINGS = {"frozen_rank", "tilt", "double_lora", "ratio_attention", "ratio_mlp", "ratio_other"}


def script(name: str, *arguments: str) -> Any:
    """What another benchmark prints as JSON."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def celora_convergence(claim: Claim) -> Measurement:
    """Slopes of the mean squared gradient norm of the first T steps over T, both in logarithms."""
    from variant_trials import Bench as Trials

    trials = Trials()
    means: dict[str, list[float]] = {}
    for name, options in (("lora", {}), ("celora", {"only_where_it_saves": False})):
        seeds = [squared_norms(trials, name, options, seed) for seed in range(claim.seeds)]
        means[name] = [statistics.fmean(statistics.fmean(norms[:t]) for norms in seeds) for t in TIMES]
    figures = {f"norm_{name}_{t}": value for name, line in means.items() for t, value in zip(TIMES, line)}
    slopes = {
        name: slope([math.log(t) for t in TIMES], [math.log(value) for value in line]) for name, line in means.items()
    }
    figures |= {f"slope_{name}": value for name, value in slopes.items()}
    figures["slope_difference"] = slopes["celora"] - slopes["lora"]
    return made(claim, seeds=list(range(claim.seeds)), figures={key: round(v, 4) for key, v in figures.items()})


def squared_norms(trials: Any, name: str, options: dict[str, Any], seed: int) -> list[float]:
    """‖g‖² of all trained parameters at each step of AdamW with a constant rate of 2e-3, clipped to a norm of 1."""
    import copy

    import torch

    from lora_playground.jobs.execution import start_batches
    from lora_playground.variants import VARIANTS
    from lora_playground.variants.base import Context

    variant = VARIANTS[name]
    torch.manual_seed(seed)
    model = variant.attach(copy.deepcopy(trials.base.model), variant.config(**options), Context(TIMES[-1], seed))
    model.train()
    batches = list(start_batches(trials.data("pirate", seed), trials.base.tokenizer.pad_token_id))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.0)
    norms = []
    for step in range(1, TIMES[-1] + 1):
        optimiser.zero_grad()
        model(**batches[step % len(batches)]).loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, 1.0)) ** 2)
        optimiser.step()
        variant.after_step(model, step)
    return norms


def slope(x: list[float], y: list[float]) -> float:
    """Of the least-squares line."""
    return statistics.linear_regression(x, y).slope


def fedit_error(claim: Claim, bench: Bench) -> Measurement | None:
    """The server's error in the last of three rounds, mean over seeds."""
    errors: dict[str, list[float]] = {"fedit": [], "fedex": []}
    for seed in range(FEDERATED_SEEDS):
        for strategy, found in errors.items():
            config = RunConfig.parse({
                "data": {"dataset": "facts-small", "rehearsal": 0.0}, "variant": {"name": "lora", "rank": 4},
                "training": {"seed": seed, "batch_tokens": 256},
                "federated": {"strategy": strategy, "clients": 4, "rounds": 3, "local_steps": 8, "partition": "topic",
                              "score_rows": 0},
            })  # fmt: skip
            if bench.result(config) is None:
                return None
            run = next(run for run in bench.store.list() if run.config().model_copy(update={"title": ""}) == config)
            told = [event["error"] for event in run.events()[0] if event.get("error") is not None]
            found.append(told[-1])
    figures = {f"{strategy}_error": round(statistics.fmean(found), 8) for strategy, found in errors.items()}
    return made(claim, seeds=list(range(FEDERATED_SEEDS)), figures=figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--home", default=tempfile.mkdtemp(prefix="claims-"))
    parser.add_argument("--list", action="store_true", help="only say which are measured")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    bench = Bench(Path(given.home), time.monotonic() + 60 * given.minutes)
    for claim in list_claims():
        if claim.test.kind == "not here" or (given.names and claim.name not in given.names):
            continue
        if not given.list:
            keep(claim, measure(claim, bench, given))
        print(f"{claim.name}: {verdict(claim, measurement(claim.name))}", flush=True)


def measure(claim: Claim, bench: Bench, given: Namespace) -> Measurement | None:
    """Measures one claim; None where time ran out."""
    known = measurement(claim.name)
    if known is not None and known.config == digest(claim) and not given.names:
        return known
    if claim.test.kind != "figures":
        return sides(claim, bench)
    if time.monotonic() > bench.until:
        return None
    alone = {"celora-cheaper": celora_cheaper, "double-lora": double_lora, "celora-convergence": celora_convergence}
    return alone[claim.name](claim) if claim.name in alone else fedit_error(claim, bench)


def keep(claim: Claim, found: Measurement | None) -> None:
    """Writes one claim's measurement beside the others."""
    if found is not None:
        write_json(FILE, (read_json(FILE) or {}) | {claim.name: found.model_dump()})


if __name__ == "__main__":
    main()

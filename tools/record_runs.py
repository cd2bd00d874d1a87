"""Records real runs for the empty page: `python -m tools.record_runs [DATASET ...] [--home DIR]`.

Each dataset is trained as the form proposes, by `python -m lora_playground train`, unless the home has such a run from
before. What a page needs to show the run in a few seconds goes to assets/recordings/DATASET.json: losses, the answers
to two prompts, the number of directions of every module and the singular values of one at a few steps, the result, and
how it was made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lora_playground.variants  # noqa: F401 - configs are read by the variants' own schemas
from lora_playground.config import RunConfig
from lora_playground.errors import PlaygroundError
from lora_playground.models.catalogue import ASSETS
from lora_playground.runs import Run, RunStore
from lora_playground.runs.history import RunProgress, read_events

OUT = ASSETS / "recordings"
DATASETS = ("pirate", "facts-small", "json", "translation", "sentiment")
PLAN = ("steps", "precision", "device", "modules", "trainable_parameters", "total_parameters")
PICTURES, PROBES = 14, 2
"""How many of the spectra, and how many of the prompts, are kept."""


def main() -> None:
    """Records the named datasets, or the usual ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("datasets", nargs="*", default=DATASETS)
    parser.add_argument("--home", type=Path, help="where the runs are made, and looked for; by default a fresh folder")
    given = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = given.home or Path(folder)
        for dataset in given.datasets:
            text = json.dumps(recorded(trained(home, dataset)), ensure_ascii=False, separators=(",", ":"))
            path = OUT / f"{dataset}.json"
            path.write_text(text + "\n", encoding="utf-8")
            print(f"{path} {path.stat().st_size / 1000:.0f} kB")


def trained(home: Path, dataset: str) -> Run:
    """A finished run of this dataset with the form's settings: the newest of this home, or a new one."""
    wanted = RunConfig.parse({"data": {"dataset": dataset}})
    store = RunStore(home)
    for run in store.list():
        if run.config() == wanted and run.state() == "done":
            return run
    command = [sys.executable, "-m", "lora_playground", "train", "--dataset", dataset, "--home", str(home), "--json"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return store.get(json.loads(told.stdout)["run"])


def recorded(run: Run) -> dict[str, Any]:
    """What is kept of a finished run, as plain data. Raises PlaygroundError where it has no result."""
    result, config = run.result(), run.config()
    if result is None:
        raise PlaygroundError(f"{run.id} has no result.")
    events, _ = read_events(run.events_path)
    told = RunProgress.of(events)
    names = [name for name, _, _ in told.plan["modules"]]
    shown = names[len(names) // 2]
    spectra = [event for event in events if event["type"] == "spectra"]
    every = max(1, round(len(spectra) / PICTURES))
    kept = {event["step"]: event for event in [*spectra[::every], spectra[-1]]}
    dataset = config.data.dataset
    return {
        "how": {
            "command": f"python -m lora_playground train --dataset {dataset}",
            "recorded_by": f"python -m tools.record_runs {dataset}",
            "base": base_digest(),
            "seconds": round(sum(result["seconds"].values()), 1),
            "device": told.plan["device"],
            "threads": told.plan["threads"],
        },
        "config": config.model_dump(mode="json"),
        "plan": {name: told.plan[name] for name in PLAN},
        "losses": [float(f"{loss:.4g}") for loss in told.losses],
        "validation": told.validation,
        "probes": [[step, answers[:PROBES]] for step, answers in told.probes],
        "module": shown,
        "pictures": [
            {
                "step": step,
                "effective_rank": [float(f"{event['effective_rank'][name]:.3g}") for name in names],
                "values": event["spectra"][shown],
            }
            for step, event in sorted(kept.items())
        ],
        "result": {name: value for name, value in result.items() if name != "samples"},
    }


def base_digest() -> str:
    """The hash of the embedded model's weights, as the manifest of the assets has it."""
    manifest = json.loads((ASSETS / "MANIFEST.json").read_text(encoding="utf-8"))
    return str(manifest["models/embedded/model.safetensors"]["sha256"])


if __name__ == "__main__":
    main()

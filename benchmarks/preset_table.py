"""What each preset reaches on every shipped dataset: the file that the form's presets show, assets/presets.json.

    python benchmarks/preset_table.py [--presets quick best] [--datasets pirate ...] [--seeds 0 1 2]
    python benchmarks/preset_table.py --markdown     # the file as a table, without a measurement

Test score and base skills kept, both of 96 rows, float32 on one thread; `cpu_seconds` are of the training alone. What
is in the file already stays there until it is measured again; a preset whose options have changed begins anew.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recipe_trials import trial
from variant_trials import Bench, in_child

from lora_playground.assets import ASSETS
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import list_datasets
from lora_playground.jobs import scoring
from lora_playground.presets import PURPOSES, recipe, with_preset

TABLE = ASSETS / "presets.json"
ROWS = 96


def config_of(preset: str, dataset: str, seed: int) -> RunConfig:
    """The run of a preset, in float32."""
    data = {"data": {"dataset": dataset}, "training": {"seed": seed, "precision": "float32"}}
    return RunConfig.parse(with_preset(data, preset))


def add(table: dict[str, Any], preset: str, dataset: str, row: dict[str, Any]) -> None:
    """Puts one measurement into the table, in place of an earlier one of the same seed."""
    now = recipe(config_of(preset, dataset, 0))
    entry = table["presets"].setdefault(preset, {})
    if entry.get("recipe") != now:
        entry.clear()
        entry |= {"recipe": now, "datasets": {}}
    others = [one for one in entry["datasets"].get(dataset, []) if one["seed"] != row["seed"]]
    entry["datasets"][dataset] = sorted([*others, row], key=lambda one: one["seed"])


def markdown(table: dict[str, Any]) -> str:
    """The table as Markdown: least and most of the seeds in percent, median of the processor time."""
    lines = [
        "| dataset | preset | seeds | score | base skills kept | steps | CPU time |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for dataset in sorted({name for entry in table["presets"].values() for name in entry["datasets"]}):
        for preset, entry in table["presets"].items():
            if rows := entry["datasets"].get(dataset):
                score, kept = (spread([100 * row[key] for row in rows]) + "%" for key in ("score", "kept"))
                steps, seconds = spread([row["steps"] for row in rows]), median(row["cpu_seconds"] for row in rows)
                lines.append(f"| {dataset} | {preset} | {len(rows)} | {score} | {kept} | {steps} | {seconds:.0f} s |")
    return "\n".join(lines)


def spread(numbers: list[float]) -> str:
    """Least and most of some numbers: '86 to 93'."""
    low, high = f"{min(numbers):.0f}", f"{max(numbers):.0f}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    """Prints a line of JSON for each run and writes the table after each."""
    names = [card.name for card in list_datasets()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(PURPOSES), default=list(PURPOSES))
    parser.add_argument("--datasets", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--markdown", action="store_true", help="only print the file as a table")
    parser.add_argument("--json", action="store_true", help="lines of JSON, which it prints anyway")
    given = parser.parse_args()
    if given.markdown:
        print(markdown(json.loads(given.out.read_text())))
        return
    bench = Bench()
    scoring.SKILL_ROWS = scoring.SHOWN = ROWS
    for seed in given.seeds:
        for preset in given.presets:
            for dataset in given.datasets:
                config = config_of(preset, dataset, seed)
                got = in_child(lambda config=config: trial(bench, config, ROWS))  # type: ignore[misc]
                row = {"seed": seed} | {key: round(got[key], 4) for key in ("score", "kept", "cpu_seconds", "steps")}
                print(json.dumps({"preset": preset, "dataset": dataset} | row), flush=True)
                table = json.loads(given.out.read_text()) if given.out.is_file() else {"presets": {}}
                add(table | {"base": bench.identity, "rows": ROWS}, preset, dataset, row)
                given.out.write_text(json.dumps(table | {"base": bench.identity, "rows": ROWS}, indent=1) + "\n")


if __name__ == "__main__":
    main()

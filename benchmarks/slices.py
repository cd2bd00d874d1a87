"""Score and forgetting over the slice of W that a start is made of: PiSSA's at position 0, MiLoRA's at 1.

python benchmarks/slices.py --out slices.json [--seeds 2] [--steps 200] [--home DIR]

Trains the variant `wslice` on the embedded base at five positions, and plain LoRA beside it, each variant at its own
default learning rate, and prints a table. Results are added to --out after every training, so that a run that was
cut short goes on where it was. With --home the runs stay, and the dial "slice" of the tab Lab draws them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_playground.cli import main as command

POSITIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


def trained(flags: list[str], home: str) -> dict[str, Any]:
    """What `train` prints with these flags."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if command(["train", *flags, "--home", home, "--json"]):
            raise SystemExit(1)
    value = json.loads(out.getvalue())
    return {"loss": value["losses"][-1], "score": value["score"], "forgetting": value["forgetting"]}


def main() -> None:
    """Trains what is not there yet, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default="pirate")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60, help="begin no training after so long")
    parser.add_argument("--home", help="where the runs stay")
    given = parser.parse_args()
    done = json.loads(given.out.read_text()) if given.out.is_file() else {}
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as temporary:
        home = given.home or temporary
        for seed in range(given.seeds):
            cases = {f"{p:g}": ["--variant", "wslice", "--position", f"{p:g}"] for p in POSITIONS}
            for name, flags in {**cases, "lora": ["--variant", "lora"]}.items():
                key = f"{given.dataset} {given.steps} {name} {seed}"
                if key in done or time.monotonic() > end:
                    continue
                more = ["--dataset", given.dataset, "--steps", str(given.steps), "--seed", str(seed)]
                more += [
                    "--batch-tokens",
                    "512",
                    "--title",
                    f"{given.dataset} · lora" if name == "lora" else f"{given.dataset} · slice at {name}",
                ]
                done[key] = trained([*flags, *more], home)
                given.out.write_text(json.dumps(done, indent=1) + "\n")
    print("| position | score | base skills kept | seeds |\n|---|---|---|---|")
    for name in [*(f"{p:g}" for p in POSITIONS), "lora"]:
        found = [done[k] for k in done if k.split()[2] == name and k.startswith(f"{given.dataset} {given.steps} ")]
        if found:
            scores = ", ".join(f"{one['score']['adapted']:.0%}" for one in found)
            kept = ", ".join(
                f"{f['adapted']:.0%} (−{100 * f['drop']:.0f} [{100 * f['low']:.0f}, {100 * f['high']:.0f}])"
                for f in (one["forgetting"] for one in found)
            )
            print(f"| {name} | {scores} | {kept} | {len(found)} |")


if __name__ == "__main__":
    main()

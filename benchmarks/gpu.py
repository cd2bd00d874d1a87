"""What a GPU has to show, in under eight minutes: the GPU tests, the memory estimate, and speed against the peers.

    python benchmarks/gpu.py [--out gpu.json] [--minutes 8] [--list] [--dry-run] [--only WORD]

Needs a CUDA device and the development requirements; no network. Each part runs in a process of its own and gets what
is left of the time, the most important first; a part that had no time left is listed as skipped, not as passed.
The result names the device, its driver and the libraries. `--list` prints the commands and runs nothing; `--dry-run`
runs them on a CPU with less work each, to see that they run: such a result says so and measures nothing of a GPU.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
THROUGHPUT = "benchmarks/training_throughput.py --json --rounds 2"
PARTS: list[tuple[str, float, str, str]] = [
    ("tests", 240, "-m pytest tests/gpu -m gpu -q -rs --durations=10", ""),
    ("memory", 30, "benchmarks/memory_estimate.py --json --quick", ""),
    ("memory, points never fitted", 90, "benchmarks/memory_estimate.py --json --unseen", "--only phi"),
    ("training, embedded", 90, f"{THROUGHPUT} --only tuned ours", "--rounds 1 --steps 2 --tokens 512"),
    (
        "training, 135M", 90, f"{THROUGHPUT} --tokens 8192 --model {{model}} --only default tuned ours",
        "--rounds 1 --steps 2 --tokens 256 --only tuned ours",
    ),
    ("side by side", 60, "benchmarks/side_by_side.py --json --rounds 5", "--rounds 1 --tokens 8"),
    ("click to loss", 60, "benchmarks/click_to_loss.py --json --repeats 1", "--steps 20"),
    (
        "CE-LoRA", 60, "benchmarks/celora_step.py --json --widths 2048 --repeats 5",
        "--widths 256 --tokens 256 --repeats 1 --warm 1",
    ),
]  # fmt: skip
"""Name, most seconds, what Python is called with, and what a dry run adds to be done on a CPU in time; {model} is a
checkpoint of SmolLM2-135M's shape, made here, for a dry run of two layers and few words."""
SLOWER = 2
"""A dry run gives every part so many times its seconds."""


def device(dry: bool) -> dict[str, Any]:
    """The card and the libraries; exits where there is no card, unless the run is a dry one."""
    import torch

    libraries = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    if dry:
        return {"device": "none: a dry run, which measures nothing of a GPU", **libraries}
    if not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; nothing was measured.")
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": torch.cuda.get_device_name(0),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        "cuda": torch.version.cuda,
        **libraries,
    }


def part(command: list[str], seconds: float) -> dict[str, Any]:
    """Runs one part in a process group of its own; what it printed as JSON, else the end of its text."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=output, stderr=errors, text=True, start_new_session=True
        )
        try:
            state = "failed" if child.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            state = "out of time"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # servers and workers that it started, too
        child.wait()
        said, grumbled = (file.seek(0) or file.read() for file in (output, errors))
    found: dict[str, Any] = {"state": state, "seconds": round(time.monotonic() - begun, 1)}
    for text in (said, said.strip().rpartition("\n")[2]):
        with contextlib.suppress(ValueError):
            return found | {"result": json.loads(text)}
    return found | {"text": (said + grumbled)[-3000:]}


def main() -> None:
    """Runs the parts while there is time, and writes what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="gpu.json", help="the file to write")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--list", action="store_true", help="print the commands")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU and smaller, to see that the parts run")
    parser.add_argument("--only", default="", help="parts whose name has this word")
    given = parser.parse_args()
    parts = [
        (name, seconds * SLOWER, f"{command} {small}".rstrip()) if given.dry_run else (name, seconds, command)
        for name, seconds, command, small in PARTS
        if given.only in name
    ]
    if given.list:
        for name, seconds, command in parts:
            print(f"{name} ({seconds:.0f} s at most): python {command}")
        return
    if given.dry_run:
        os.environ["LORA_PLAYGROUND_GPU_DRY_RUN"] = "1"
    end = time.monotonic() + 60 * given.minutes - 10
    found: dict[str, Any] = device(given.dry_run)
    with tempfile.TemporaryDirectory() as place:
        if any("{model}" in command for _, _, command in parts):
            maker = "import sys; sys.path.insert(0, 'benchmarks'); import small_machine; from pathlib import Path; "
            maker += f"small_machine.make(Path(sys.argv[1]){', layers=2, vocabulary=2048' if given.dry_run else ''})"
            subprocess.run([sys.executable, "-c", maker, place], cwd=ROOT, check=True)
        for name, seconds, command in parts:
            left = min(seconds, end - time.monotonic())
            if left < 10:
                found[name] = {"state": "skipped: no time left"}
                continue
            found[name] = part([place if word == "{model}" else word for word in command.split()], left)
            print(f"{name}: {found[name]['state']} after {found[name]['seconds']} s", file=sys.stderr)
            Path(given.out).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    raise SystemExit(any(found[name]["state"] != "done" for name, _, _ in parts))


if __name__ == "__main__":
    main()

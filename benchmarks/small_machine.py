"""Ten training steps of a SmolLM2-135M-shaped checkpoint on two cores: the process's largest resident set.

    python benchmarks/small_machine.py --json

The checkpoint has random weights and is made on the spot. It is trained by the path that any local folder takes, in a
process of its own, with evaluation and saving. Memory does not depend on how busy the machine is.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 4 * 2**30
SHAPE = {
    "kind": "smollm", "hidden": 576, "layers": 30, "vocabulary": 49152, "intermediate_size": 1536,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048,
}  # fmt: skip


def make(folder: Path, **smaller: int) -> None:
    """Writes the checkpoint; the tokenizer is small, the embeddings have SmolLM2's size. `smaller`: sizes instead of
    its own, for a trial."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import checkpoints

    original = checkpoints.make_tokenizer

    def small(where: Path, template: Any, vocabulary: int) -> Any:
        return original(where, template, 512)

    checkpoints.make_tokenizer = small
    checkpoints.make_checkpoint(folder, **SHAPE | smaller)


def train(folder: Path, steps: int, batch: int) -> dict[str, Any]:
    """One run by the command line on two cores; returns what it printed."""
    command = [
        sys.executable, "-m", "lora_playground", "train", "--json", "--home", str(folder / "home"),
        "--model", str(folder / "model"), "--dataset", "pirate", "--variant", "lora", "--rank", "8",
        "--steps", str(steps), "--batch-tokens", str(batch), "--train-rows", "200", "--precision", "float32",
    ]  # fmt: skip
    cores = set(sorted(os.sched_getaffinity(0))[:2]) if hasattr(os, "sched_getaffinity") else None
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
    )  # fmt: skip
    printed, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"training ended with status {child.returncode}")
    return dict(json.loads(printed))


def measure(steps: int = 10, batch: int = 512) -> dict[str, Any]:
    """Peak bytes of the training process, and what the run said of itself."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        maker = "import sys; sys.path.insert(0, sys.argv[1]); import small_machine; from pathlib import Path; "
        maker += "small_machine.make(Path(sys.argv[2]))"
        subprocess.run([sys.executable, "-c", maker, str(ROOT / "benchmarks"), str(folder / "model")], check=True)
        made = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        said = train(folder, steps, batch)
        result = json.loads((Path(said["folder"]) / "result.json").read_text())
        return {
            "parameters": result["total_parameters"],
            "steps": result["steps"],
            "batch_tokens": batch,
            "peak_bytes": result["peak_memory_bytes"],
            "tensor_bytes": result["tensor_memory_bytes"],
            "estimated_tensor_bytes": result["estimated_memory_bytes"],
            "limit_bytes": LIMIT,
            "within": result["peak_memory_bytes"] < LIMIT,
            "making_the_checkpoint_bytes": made,
        }


def main() -> None:
    """Prints the measure; status 1 where it is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=512, help="tokens a step")
    given = parser.parse_args()
    found = measure(given.steps, given.batch)
    print(json.dumps(found) if given.json else f"{found['peak_bytes'] / 2**30:.2f} GiB at most, 4 allowed")
    raise SystemExit(0 if found["within"] else 1)


if __name__ == "__main__":
    main()

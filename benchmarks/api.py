"""How long the endpoints take: 100 calls of each light one, and a run by the endpoint against the same by the command.

    python benchmarks/api.py [--calls 100] [--steps 20] [--pairs 3] [--json]

A real server on a home of its own is asked by Gradio's client, one call after another, in milliseconds: p50 and p95.
Runs of the embedded model by `train` and `status` and by `python -m lora_playground train` take turns, so that both
meet the same machine, and the command yields to others as a worker does. `more` is the median of their differences in
seconds, from the call to the result; `phases` are the medians of what the runs themselves took, and `overhead` is what
the endpoint adds to the queue: until the run is queued, and from its result until it is told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from click_to_loss import wait_warm
from gradio_client import Client

from lora_playground.runs import RunStore
from lora_playground.ui.serve import Server

OPTIONS = {"dataset": "facts-small", "variant": "lora", "rank": 8, "train_rows": 64, "seed": 0}


def light(client: Client, run: str, calls: int) -> dict[str, dict[str, float]]:
    """{endpoint: p50 and p95 in milliseconds}."""
    asked: dict[str, dict[str, Any]] = {
        "list_models": {}, "get_model": {"source": "embedded"}, "list_datasets": {}, "get_dataset": {"name": "pirate"},
        "list_variants": {}, "get_variant": {"name": "lora"}, "list_runs": {}, "get_run": {"run": run},
        "status": {"run": run}, "spectra": {"run": run}, "spectrum_picture": {"run": run}, "estimate": OPTIONS,
    }  # fmt: skip
    found = {}
    for name, given in asked.items():
        seconds = []
        for _ in range(calls):
            began = time.perf_counter()
            client.predict(api_name=f"/{name}", **given)
            seconds.append(time.perf_counter() - began)
        cuts = statistics.quantiles(seconds, n=20)
        found[name] = {"p50": round(1000 * statistics.median(seconds), 1), "p95": round(1000 * cuts[-1], 1)}
    return found


PHASES = ("starting", "loading", "training", "saving", "evaluating")
YIELDING = (
    "import sys; from lora_playground.machine.processes import yield_to_others; yield_to_others(); "
    "from lora_playground.cli import main; sys.exit(main(sys.argv[1:]))"
)


def phases(results: list[dict[str, Any]]) -> dict[str, float]:
    """{phase: median of its seconds}."""
    return {name: round(statistics.median(one["seconds"].get(name, 0.0) for one in results), 2) for name in PHASES}


def by_endpoint(client: Client, server: Server, options: dict[str, Any]) -> dict[str, Any]:
    """One run: seconds from the call to the answer that it is done, and how much of it is the endpoint's own."""
    began, wall = time.perf_counter(), time.time()
    run = client.predict(api_name="/train", fresh=True, **options)["run"]
    queued = time.perf_counter() - began
    while not (status := client.predict(run, wait=50, until="end", types=["message"], api_name="/status"))["ended"]:
        pass
    ended = time.time()
    if status["state"] != "done":
        raise SystemExit(f"the run failed: {status['error']}")
    job, result = server.supervisor.job(run), server.supervisor.runs.get(run).result()
    return {
        "run": run,
        "result": result,
        "seconds": ended - wall,
        "queued": queued,
        "told": ended - (job.finished or ended),
    }


def by_command(home: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The same by the command line; seconds from its start to its end, and the run's result."""
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    began = time.perf_counter()
    command = [sys.executable, "-c", YIELDING, "train", "--json", "--home", str(home), *flags]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "result": RunStore(home).get(json.loads(done.stdout)["run"]).result()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    options = OPTIONS | {"steps": given.steps}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "home")
        try:
            _, url, _ = server.launch("127.0.0.1", None, quiet=True)
            client = Client(url, verbose=False)
            server.supervisor.make_ready()
            wait_warm(server.supervisor.dispatcher.runner)  # type: ignore[arg-type]
            pairs = []
            for _ in range(given.pairs):
                mine = by_endpoint(client, server, options)
                pairs.append(mine | {"command": by_command(Path(folder) / "other", options)})
                time.sleep(15)  # the next worker is made ready
            calls = light(client, pairs[0]["run"], given.calls)
        finally:
            server.close()
    value = {
        "calls": given.calls,
        "milliseconds": calls,
        "train": {
            "endpoint": [round(one["seconds"], 2) for one in pairs],
            "command": [round(one["command"]["seconds"], 2) for one in pairs],
            "more": round(statistics.median(one["seconds"] - one["command"]["seconds"] for one in pairs), 2),
            "phases": {
                "endpoint": phases([one["result"] for one in pairs]),
                "command": phases([one["command"]["result"] for one in pairs]),
            },
            "overhead": {name: round(statistics.median(one[name] for one in pairs), 3) for name in ("queued", "told")},
        },
    }
    if given.json:
        print(json.dumps(value))
        return
    for name, one in calls.items():
        print(f"{name:18} p50 {one['p50']:7.1f} ms   p95 {one['p95']:7.1f} ms")
    print(f"train: {value['train']}")


if __name__ == "__main__":
    main()

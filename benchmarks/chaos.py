"""Kills the worker, the server, or both with SIGKILL at random moments, again and again, and counts what was lost.

The trainer is the tests' stub (loss, checkpoint, save), so that a cycle takes about a second; queue, processes, table
and run folders are the real ones. With `--real N` the real worker trains the embedded model, and N blows fall while it
trains, saves or scores. Afterwards the queue is drained and everything that must hold is checked: every accepted job is
done, no process and no half-written file is left, the table is sound, every curve is whole, every adapter loads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from lora_playground.analysis.update import load_updates  # noqa: E402
from lora_playground.config import RunConfig  # noqa: E402
from lora_playground.jobs.runner import TOKEN_VARIABLE, Handle, LocalRunner, same_process  # noqa: E402
from lora_playground.jobs.supervisor import Supervisor  # noqa: E402
from lora_playground.runs import Run, RunStore  # noqa: E402

STUB = [sys.executable, str(ROOT / "tests" / "jobs" / "stub_worker.py")]
SCRIPT = "loss 10; sleep 0.2; checkpoint 10; sleep 0.2; loss 20; save 0.05"
STEPS = 20
REAL = {"steps": STEPS, "batch_tokens": 256, "checkpoint_every": 5}
AIMED_AT = ("loading", "training", "training", "saving", "evaluating", "evaluating")
"""Phases from which a blow at the real worker is chosen; a short one may have passed when it falls."""


def serve(home: Path, drain: bool, real: bool) -> None:
    """The server: resumes what was cut short, and keeps two jobs waiting (or, draining, waits until all are done)."""
    runner = LocalRunner(home, None if real else STUB)
    config = RunConfig.parse({"training": REAL} if real else {"title": SCRIPT})
    with Supervisor(home, runner, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        acknowledged = os.open(home / "accepted.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        while True:
            jobs = supervisor.jobs()
            for job in jobs:
                if job.resumable:
                    supervisor.resume(job.id)
            if drain and all(job.state == "done" for job in jobs):
                return
            if not drain and sum(job.state == "queued" for job in jobs) < (1 if real else 2):
                job = supervisor.submit(config)
                os.write(acknowledged, f"{job.id}\n".encode())
                os.fsync(acknowledged)
            time.sleep(0.05)


def start(home: Path, *flags: str) -> subprocess.Popen[bytes]:
    log = open(home / "server.log", "ab")  # noqa: SIM115 (the process keeps it)
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(home), *flags], stdout=log, stderr=log)
    log.close()
    return process


def table(home: Path) -> list[dict[str, Any]]:
    """The jobs as any other process may read them."""
    try:
        db = sqlite3.connect(f"file:{home / 'jobs.db'}?mode=ro", uri=True)
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT id, state, attempt, handle FROM jobs")]
        db.close()
    except sqlite3.Error:
        return []
    return rows


def workers(home: Path) -> list[int]:
    """Recorded workers that live; a number that has become another process's is not taken for one."""
    handles = [Handle.from_dict(json.loads(row["handle"])) for row in table(home) if row["handle"]]
    return [handle.pid for handle in handles if same_process(handle)]


def processes(home: Path) -> list[int]:
    """Living processes that are workers of this home, or descend from one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                ours = TOKEN_VARIABLE.encode() in environment and f"LORA_CHAOS={home}".encode() in environment
                if ours and (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_for_a_moment(home: Path, chance: random.Random, real: bool) -> None:
    """Returns when the next blow shall fall: most while a job runs, a few while the server still starts."""
    if real:
        phase, deadline = chance.choice(AIMED_AT), time.monotonic() + 300
        while not any(row["state"] == phase for row in table(home)) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, {"training": 3.0, "saving": 0.1}.get(phase, 1.5)))
        return
    deadline = time.monotonic() + 30
    while not workers(home) and chance.random() > 0.002 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(chance.uniform(0.0, 0.9))


def cycles(home: Path, count: int, chance: random.Random, real: bool) -> dict[str, Any]:
    """Kills `count` times; returns what was hit and how long workers outlived their server, in seconds."""
    hits, outlived = {"worker": 0, "server": 0, "both": 0}, []
    flags = ["--real", "1"] if real else []
    server = start(home, *flags)
    for number in range(count):
        wait_for_a_moment(home, chance, real)
        target = chance.choice(("worker", "server", "both"))
        if target != "server" and not sum(kill(pid) for pid in workers(home)):
            target = "server"  # nothing runs just now
        if target != "worker":
            server.kill()
            server.wait()
            began = time.monotonic()
            while processes(home):
                time.sleep(0.02)
            outlived.append(time.monotonic() - began)
            server = start(home, *flags)
        hits[target] += 1
        print(f"\r{number + 1}/{count} kills", end="", file=sys.stderr)
    server.kill()
    server.wait()
    print(file=sys.stderr)
    return {"kills": hits, "workers_outlived_server_seconds": round(max(outlived, default=0.0), 3)}


def loads(run: Run) -> bool:
    """Whether a run's update can be read and is finite."""
    updates = load_updates(run.update_path)
    return bool(updates) and all(np.isfinite(update.matrix()).all() for update in updates)


def check(home: Path, real: bool) -> dict[str, Any]:
    """What is left after everything was drained."""
    accepted = set((home / "accepted.txt").read_text().split())
    rows = {row["id"]: row for row in table(home)}
    store = RunStore(home)
    torn, broken, untold = list[str](), list[str](), 0
    for run in store.list():
        if run.id not in rows and run.id not in accepted:
            untold += 1  # the server died while it took this run, so nobody was told of it
            continue
        torn += [str(path.relative_to(store.folder)) for path in run.folder.rglob("*.tmp")]
        losses = [step for event in run.history() if event["type"] == "loss" for step in event["steps"]]
        missing = {
            "no result": run.result() is None,
            "losses of other steps": losses != list(range(1, STEPS + 1)),
            "no adapter": not (run.adapter / "adapter_model.safetensors").exists(),
            "no update": real and not loads(run),
        }
        broken += [f"{run.id}: {what}" for what, is_so in missing.items() if is_so]
    db = sqlite3.connect(home / "jobs.db")
    sound = db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()
    return {
        "accepted": len(accepted),
        "done": sum(row["state"] == "done" for row in rows.values()),
        "lost": len(accepted - set(rows)),
        "not_done": sum(row["state"] != "done" for row in rows.values()),
        "attempts": sum(row["attempt"] for row in rows.values()),
        "broken_runs": len(broken),
        "half_written": len(torn),
        "which": [*broken, *torn],
        "never_accepted": untold,
        "processes_left": len(processes(home)),
        "table_sound": sound,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--real", type=int, default=0, metavar="N", help="so many blows at the real worker instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", metavar="HOME", help=argparse.SUPPRESS)
    parser.add_argument("--drain", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(Path(given.serve), given.drain, bool(given.real))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        home, began = Path(folder), time.monotonic()
        os.environ["LORA_CHAOS"] = str(home)
        real, count = bool(given.real), given.real or given.cycles
        result = {"cycles": count, "seed": given.seed, **cycles(home, count, random.Random(given.seed), real)}
        start(home, "--drain", *(["--real", "1"] if real else [])).wait(3600)
        result |= check(home, real) | {"seconds": round(time.monotonic() - began, 1)}
    good = result["table_sound"] and not any(
        result[name] for name in ("lost", "not_done", "broken_runs", "half_written", "processes_left")
    )
    result["passed"] = bool(good)
    print(json.dumps(result) if given.json else "\n".join(f"{name}: {value}" for name, value in result.items()))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

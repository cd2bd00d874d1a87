"""Validation loss and task score of an adapter that is cut to its first k singular directions, over k.

`start` starts a process that measures them and writes the points into the run's folder, since the web process imports
no torch; `read` returns the points written so far.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora_playground.errors import JobError, PlaygroundError, RunError
from lora_playground.machine import processes
from lora_playground.runs import Run
from lora_playground.runs.files import read_json, write_json

FILE, ERROR, LOG, LOCK = "cut.json", "cut-error.json", "cut.log", ".cut.lock"
TASK_ROWS, VALIDATION_ROWS = 32, 32
_DENSE_RANKS = 64

_active: dict[str, subprocess.Popen[bytes]] = {}
_lock = threading.Lock()


def ladder(rank: int) -> list[int]:
    """The values of k to measure: 0 to 4, then each about 1.5 times the last one, and the rank."""
    found, k = [0, 1, 2, 3, 4], 4.0
    while k < rank:
        k *= 1.5
        found.append(round(k))
    return sorted({k for k in found if k < rank} | {rank})


# --- the web process's side ------------------------------------------------------------------------------------------


def read(run: Run) -> dict[str, Any] | None:
    """The points measured so far, see `measure`; None before the first."""
    found = read_json(run.folder / FILE)
    return found if isinstance(found, dict) and found.get("k") else None


def start(run: Run) -> None:
    """Starts to measure. Raises RunError if the run has no update, JobError while another curve is being measured."""
    if not run.update_path.is_file():
        raise RunError("Only a finished run with a saved update can be cut; wait for its end.")
    with _lock:
        for identity, popen in list(_active.items()):
            if popen.poll() is not None:
                del _active[identity]
        if _active:
            raise JobError("Another curve is being measured; wait for its end, about a minute.")
        for name in (FILE, ERROR):
            (run.folder / name).unlink(missing_ok=True)
        with open(run.folder / LOG, "wb") as log:
            _active[run.id] = processes.start(
                processes.python("lora_playground.jobs.truncation_curve", str(run.folder)), stdout=log
            )


def running(run: Run) -> bool:
    """Whether this server is measuring this run's curve."""
    with _lock:
        popen = _active.get(run.id)
        return popen is not None and popen.poll() is None


def failure(run: Run) -> str:
    """A sentence that says why the last measurement failed."""
    error = read_json(run.folder / ERROR)
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return f"The measurement ended early; its log is {run.folder / LOG}. Start it again."


# --- the process that measures ---------------------------------------------------------------------------------------


def measure(
    run: Run,
    ks: Sequence[int] | None = None,
    task_rows: int = TASK_ROWS,
    validation_rows: int = VALIDATION_ROWS,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measures loss and score at each k, and calls `report` with the points so far after each.

    k = 0 is the base. At k = rank the update is used unchanged, without an SVD.

    Args:
        ks: values of k; None takes `ladder` up to the update's rank, or up to 64 if that is less.
        task_rows, validation_rows: the most rows of the test and of the validation part.

    Returns:
        lists `k`, `loss` (nats per token, or None) and `score` (0 to 1, or None); `planned`: number of points; `done`:
        whether all are measured; `metric`; `rows`: {'validation', 'test'}, numbers of rows used.
    """
    from lora_playground.analysis.truncation import Decomposition, Truncation
    from lora_playground.analysis.update import load_updates
    from lora_playground.data.catalogue import get_dataset
    from lora_playground.data.encoding import encode
    from lora_playground.evaluation import METRICS
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.loading import load_base

    config = run.config()
    data = get_dataset(config.data.dataset, run.folder.parent.parent)
    updates = load_updates(run.update_path)
    rank = min(Decomposition(updates).rank, _DENSE_RANKS) or 1
    ks = sorted(set(ks)) if ks is not None else ladder(rank)
    base = load_base(config.model, dtype=config.training.precision)
    decoder = Decoder(base.model, base.tokenizer)
    adapter = decoder.adapter(updates)
    examples = []
    with contextlib.suppress(PlaygroundError):
        examples = encode(base.tokenizer, data.validation[:validation_rows], config.data.max_length).examples
    metric = data.card.metric if data.card.metric in METRICS else ""
    asked = [row for row in data.test if row.get("messages")][:task_rows] if metric else []
    found: dict[str, Any] = {"k": [], "loss": [], "score": [], "planned": len(ks), "done": False, "metric": metric}
    found["rows"] = {"validation": len(examples), "test": len(asked)}
    whole = max(Decomposition(updates).rank, 1)
    for k in ks:
        update = None if k == 0 else RowUpdate(adapter, truncation=None if k >= whole else Truncation("top", k=k))
        found["k"].append(k)
        found["loss"].append(loss_of(decoder, examples, update))
        found["score"].append(score_of(decoder, asked, metric, update))
        found["done"] = len(found["k"]) == len(ks)
        if report is not None:
            report(found)
    return found


def loss_of(decoder: Any, examples: Sequence[Any], update: Any) -> float | None:
    """Mean loss over all answer tokens, in nats per token; None without examples."""
    import torch

    total, count = 0.0, 0
    for example in examples:
        logits = decoder.logits(example.ids.tolist(), update)
        ids = torch.as_tensor(example.ids, dtype=torch.long, device=logits.device)
        learned = torch.as_tensor(example.learned, device=logits.device)[1:]
        losses = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        total += float(losses[learned].sum())
        count += int(learned.sum())
    return total / count if count else None


def score_of(decoder: Any, rows: Sequence[Any], metric: str, update: Any) -> float | None:
    """Score of greedy answers by `metric`, 0 to 1; None without rows."""
    from lora_playground import evaluation
    from lora_playground.data.catalogue import answer_of

    if not rows:
        return None
    references = decoder.tokenizer([answer_of(row) for row in rows], add_special_tokens=False)["input_ids"]
    longest = min(160, max(24, 3 * max(map(len, references)) // 2))

    def generate(conversations: Any) -> list[str]:
        return decoder.generate(conversations, updates=update, max_new_tokens=longest)

    return float(evaluation.evaluate(generate, rows, metric)["score"])


def main(folder: str) -> int:
    """The process that measures one run. It ends when the server that started it is gone."""
    run, parent = Run(Path(folder)), os.getppid()
    processes.yield_to_others()
    handle = os.open(run.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 1

    def report(found: dict[str, Any]) -> None:
        write_json(run.folder / FILE, found)
        if os.getppid() != parent:
            raise SystemExit(1)

    try:
        measure(run, report=report)
    except PlaygroundError as error:
        message = str(error)
        if run.config().data.dataset == "imported":
            message = "An imported adapter came without its dataset, so there is nothing to measure it on."
        write_json(run.folder / ERROR, {"message": message})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

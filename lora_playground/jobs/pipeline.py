"""Executes a run from config to result in this process; worker, command line and notebook call it.

It chooses the kind of execution by the run's config, and records how the run ended. It knows no queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lora_playground.analysis.update import load_updates
from lora_playground.jobs.execution import Event, Execution, home_of, load_pristine
from lora_playground.jobs.failures import record
from lora_playground.jobs.scoring import score_update
from lora_playground.jobs.tracking import tracked
from lora_playground.runs import Run
from lora_playground.runs.files import write_json


def execute(
    run: Run,
    should_stop: Callable[[], bool],
    emit: Callable[[Event], None] | None = None,
    attempt: int | None = None,
) -> dict[str, Any]:
    """Executes a run to its end, from its last checkpoint if it has one; returns the contents of `result.json`.

    Args:
        should_stop: called often; once it returns true the run ends as cancelled.
        emit: called with every event after it was written.
        attempt: number of this attempt; None takes the next one.

    Raises:
        RunError: another process executes the run. Stopped: a stop was requested. Any other error of its phases. All
            but the first are recorded in `error.json`.
    """
    with run.locked():
        run.begin(attempt if attempt is not None else run.progress().attempt + 1)
        run.sweep()
        tell = emit or (lambda event: None)
        tracker = tracked(run, run.append)

        def each(event: Event) -> None:
            tell(event)
            if tracker is not None:
                tracker.event(event)

        try:
            return execution_of(run)(run, should_stop, each).result()
        except BaseException as error:  # also a panic in the tokenizers library, which is no Exception
            run.sweep()
            if not run.finished(run.attempt):
                record(run, error)
            raise
        finally:
            if tracker is not None:
                tracker.finish(run.result())


def evaluate_run(
    run: Run, rows: int | None = None, report: Callable[[int, int, float], None] = lambda *_: None
) -> dict[str, Any]:
    """Scores a run's saved update. Answers that are stored with the run are not computed again.

    Args:
        rows: number of test rows, from the first; None for all.
        report: called now and then with (rows done, all rows, seconds left).

    Returns:
        {score, forgetting, changed, samples, scoring}. They are stored in the run's result, unless that has scores of
        more rows.
    """
    run.require_update()
    config = run.config()
    with run.locked():
        base, updates = load_pristine(config.model, config.training.precision), load_updates(run.update_path)
        scored = score_update(
            base,
            updates,
            config.data.dataset,
            home_of(run),
            rows,
            None,
            config.model.embedded,
            report=report,
            answers=run.answers_path,
        )
        result = run.result()
        if result is not None and scored["scoring"]["rows"] >= (result.get("score") or {}).get("n", 0):
            write_json(run.result_path, result | scored)
    return scored


def execution_of(run: Run) -> type[Execution]:
    """The class of execution for a run's config."""
    if run.config().federated is None:
        return Execution
    from lora_playground.jobs.federated import FederatedExecution

    return FederatedExecution

"""Scoring a trained run: whatever fails in it, the run is finished; it stops with what it has, and evaluate goes on."""

from pathlib import Path
from typing import Any

import pytest

from lora_playground.errors import RunError
from lora_playground.jobs.pipeline import evaluate_run, execute
from lora_playground.runs import Run
from tests.jobs.support import never, new_run


def test_scores_can_be_made_again_and_the_base_answers_once(
    finished: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_playground.models.decoding import Decoder

    asked: list[int] = []
    generate = Decoder.generate
    monkeypatch.setattr(
        Decoder,
        "generate",
        lambda self, conversations, *a, **k: (
            asked.append(len(conversations)),
            generate(self, conversations, *a, **k),
        )[1],
    )
    result = finished.result()
    assert result is not None
    assert evaluate_run(finished)["score"] == result["score"]
    assert asked == [], "both models' four answers are known"
    assert list((place / "home" / "cache").iterdir())
    with pytest.raises(RunError, match="no saved update"):
        evaluate_run(new_run(place))


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access"), MemoryError(), SystemExit(130)]
)
def test_a_trained_run_is_finished_whatever_fails_when_it_is_scored(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    from lora_playground.jobs import execution

    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(execution, "score_update", broken)
    run = new_run(place, steps=2)
    result = execute(run, never)
    assert result == run.result() and run.state() == "done" and result["score"] is None and result["samples"] == []
    assert result["scoring"]["note"] == run.progress().messages[-1][1] and "evaluate" in result["scoring"]["note"]
    monkeypatch.undo()
    assert evaluate_run(run)["scoring"]["note"] == ""
    scored = run.result()
    assert scored is not None and scored["score"]["n"] == 4 and scored["steps"] == 2 and scored["seconds"]


def test_a_worker_killed_while_it_scores_leaves_a_finished_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_playground.jobs import execution

    run, seen = new_run(place, steps=2), []

    def killed(*_: Any, **__: Any) -> dict[str, Any]:
        seen.append(run.result())
        return execution.unscored("")

    monkeypatch.setattr(execution, "score_update", killed)
    execute(run, never)
    (before,) = seen
    assert before["state"] == "done" and "cut short" in before["scoring"]["note"] and run.adapter.is_dir()


def test_scoring_stops_with_what_it_has_and_evaluate_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_playground.jobs import scoring
    from lora_playground.models.decoding import Decoder

    monkeypatch.setattr(scoring, "_CHUNK", 1)
    monkeypatch.setattr(scoring, "_FIRST_CHUNK", 1)
    run = new_run(place, steps=2)
    result = execute(run, lambda: run.progress().scoring.get("done", 0) >= 2)
    assert run.state() == "done" and result["score"]["n"] == 2 and len(result["samples"]) == 2
    assert "was stopped: 2 of 4" in result["scoring"]["note"]
    told = run.progress().scoring
    assert (told["done"], told["of"]) == (2, 4) and told["eta"] >= 0
    generate, asked = Decoder.generate, []
    monkeypatch.setattr(
        Decoder, "generate", lambda self, given, *a, **k: (asked.append(len(given)), generate(self, given, *a, **k))[1]
    )
    assert evaluate_run(run)["score"]["n"] == 4 and (run.result() or {})["scoring"]["rows"] == 4
    assert sum(asked) == 2, "two rows are left, and the base's answers are known from the runs before"


def test_scoring_takes_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_playground.jobs import scoring

    clock = [0.0]
    monkeypatch.setattr(scoring.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(scoring, "_length", lambda *_: 16)
    sizes = []

    class Slow:
        def generate(self, given: list[Any], **_: Any) -> list[str]:
            sizes.append(len(given) // 2)
            clock[0] += 0.5 * len(given)  # a second a row
            return ["yes"] * len(given)

    rows = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "yes"}]} for n in range(90)
    ]
    both = (scoring.Answers(None), scoring.Answers(None))
    asking = scoring.Asking(Slow(), "update", both, 20.0, never, lambda *_: None, 90)  # type: ignore[arg-type]
    assert len(asking.both(rows)) == 20 and clock[0] == 20.0 and sizes == [4, 16]


def test_what_the_files_own_answers_score_is_told_where_they_are_not_all_right() -> None:
    """E2E's people say 'cheap' for 'less than £20', which this measure does not know."""
    from lora_playground.jobs.scoring import _scored

    def row(fields: dict[str, str], said: str) -> dict[str, Any]:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
        return {"messages": turns, "meta": {"fields": fields}}

    rows = [row({"name": "Cocum", "price": "less than £20"}, "Cocum is cheap."), row({"name": "Aromi"}, "It is Aromi.")]
    score, _ = _scored([(one, "Aromi", "Cocum costs less than £20.") for one in rows], "slots")
    assert score is not None and (score["base"], score["adapted"], score["reference"]) == (0.5, 0.5, 0.5)
    score, _ = _scored([(rows[1], "no", "Aromi it is.")], "slots")
    assert score is not None and "reference" not in score

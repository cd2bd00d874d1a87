"""Leads a person through a lesson: says what the page shows at each step, and handles what the person does there.

Results are plain data for JSON; texts are Markdown with their figures filled in. It starts runs through the supervisor,
reads their results and stores progress; it knows nothing of web pages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora_playground.errors import LessonError, PlaygroundError
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.lessons import judging, progress
from lora_playground.lessons.catalogue import get_lesson, list_lessons
from lora_playground.lessons.figures import Figures, stored, usual
from lora_playground.lessons.lesson_runs import LessonRuns
from lora_playground.lessons.measuring import Measuring
from lora_playground.lessons.progress import Attempt, Learners
from lora_playground.lessons.quantities import Quantity, quantities_in, written
from lora_playground.lessons.schema import Ask, Lesson, Measure, Modify, Reveal, RunStep, Say, Show

View = dict[str, Any]
_MAKING = "These runs are still being trained; until then you see what came out when this lesson was written."
_UNMADE = (
    "These runs have not been made yet. Go back and start them; "
    "in brackets stands what came out when this lesson was written."
)


class Player:
    """The lessons of one home, for all its visitors. Thread-safe. In all methods `name` is the lesson's and `step` an
    index from 0.

    Args:
        supervisor: trains the runs. clock: returns Unix seconds.

    Attributes:
        limit: function of a visitor and a lesson's name that returns the last step they may open, None for any; set by
            classes.
    """

    def __init__(self, home: Path, supervisor: Supervisor, clock: Callable[[], float] = time.time) -> None:
        self.home, self.learners, self._clock = home, Learners(home), clock
        self.measuring = Measuring(supervisor.runs)
        self.limit: Callable[[str, str], int | None] = lambda visitor, lesson: None
        self.runs = LessonRuns(home, supervisor)

    # --- what is shown ------------------------------------------------------------------------------------------------

    def list(self, visitor: str) -> list[View]:
        """All lessons, with this visitor's progress in each."""
        learner = self.learners.get(visitor)
        return [_entry(lesson, learner.lessons.get(lesson.name)) for lesson in list_lessons(self.home)]

    def attempt(self, visitor: str, name: str) -> Attempt | None:
        """A copy of a visitor's progress in a lesson; None if they have not begun it."""
        return self.learners.get(visitor).lessons.get(name)

    def view(self, visitor: str, name: str, step: int | None = None) -> View:
        """What the page shows of a step: the given one, to which the person moves, or else the one where they are.

        If what the step waits for has happened meanwhile, such as the end of a run, the step is marked as done.

        Raises:
            LessonError: there is no such lesson or step, or the person's class is held before it.
        """
        lesson = get_lesson(name, self.home)
        now, last = self._clock(), self.limit(visitor, name)
        if last is not None and step is not None and step > last:
            raise LessonError(f"Your class is held at step {last + 1}; your teacher goes on when all are ready.")

        def go(learner: progress.Learner) -> Attempt:
            attempt = learner.lessons.setdefault(name, Attempt(started=now))
            place = min(attempt.step, len(lesson.steps) - 1) if step is None else step
            progress.enter(lesson, attempt, place, now)
            return attempt

        attempt = self.learners.change(visitor, go)
        return self._view(lesson, attempt, visitor)

    def _view(self, lesson: Lesson, attempt: Attempt, visitor: str) -> View:
        place, figures = attempt.step, stored(lesson.name)
        step = lesson.steps[place]
        shown: View = {"kind": step.kind, "title": step.title, "text": figures.fill(step.text)}
        makers: dict[str, Callable[..., tuple[View, bool]]] = {
            "show": self._show, "ask": self._ask, "run": self._run, "measure": self._measure,
            "reveal": self._reveal, "modify": self._modify,
        }  # fmt: skip
        make, done = makers.get(step.kind), isinstance(step, Say)
        if make is not None:
            more, done = make(lesson, attempt, step, figures, visitor)
            shown |= more
        if done and place not in attempt.done:
            attempt = self._complete(visitor, lesson.name, place)
        return {
            "lesson": _entry(lesson, attempt) | {"steps": _outline(lesson, attempt)},
            "step": place,
            "done": place in attempt.done,
            **shown,
        }

    def _show(self, lesson: Lesson, attempt: Attempt, step: Show, figures: Figures, visitor: str) -> tuple[View, bool]:
        ids = self.runs.visible(lesson, attempt, step.runs)
        missing = [lesson.runs[key].short_title for key in step.runs if key not in ids]
        return {
            "tab": step.tab, "runs": list(ids.values()), "control": step.control, "use": step.use,
            "missing": missing, "runs_at": _place_of_runs(lesson),
        }, False  # fmt: skip

    def _ask(self, lesson: Lesson, attempt: Attempt, step: Ask, figures: Figures, visitor: str) -> tuple[View, bool]:
        given = attempt.answers.get(step.name, [])
        shown = _question(step, figures) | {"answer": given[-1].value if given else None}
        return shown | {"locked": bool(given), "too_late": not given and step.name in attempt.revealed}, False

    def _run(
        self, lesson: Lesson, attempt: Attempt, step: RunStep, figures: Figures, visitor: str
    ) -> tuple[View, bool]:
        states = self.runs.states(lesson, attempt, step.runs)
        return {"states": states}, all(state["state"] == "done" for state in states)

    def _measure(
        self, lesson: Lesson, attempt: Attempt, step: Measure, figures: Figures, visitor: str
    ) -> tuple[View, bool]:
        quantities = {key: [Quantity.parse(f"{key}.{value}") for value in step.values] for key in step.runs}
        wanted = [quantity for row in quantities.values() for quantity in row]
        waiting = self._begin_cuts(attempt, wanted)
        measured = self.measuring.all(wanted, attempt.runs)
        titles = _told_apart([lesson.runs[key].short_title for key in step.runs])
        rows = [
            {"title": title,
             "cells": [_cell(quantity, measured.get(quantity), figures) for quantity in quantities[key]]}
            for title, key in zip(titles, step.runs)
        ]  # fmt: skip
        columns = [quantity.label for quantity in quantities[step.runs[0]]]
        ended = all(key in attempt.runs and self.runs.done(attempt.runs[key]) for key in step.runs)
        if not ended:
            waiting = self._under_way(lesson, attempt, step.runs) or _UNMADE
        shown = {"columns": columns, "rows": rows, "waiting": waiting, "runs_at": _place_of_runs(lesson)}
        return shown, ended and len(measured) == len(set(wanted))

    def _begin_cuts(self, attempt: Attempt, wanted: Sequence[Quantity]) -> str:
        """Starts to measure scores of truncated updates that are wanted and missing, for one run at a time. Returns a
        sentence that says what is being waited for, or ''."""
        missing = [one for one in wanted if one.value == "cut_score" and self.measuring.one(one, attempt.runs) is None]
        for key in dict.fromkeys(one.run for one in missing):
            if key in attempt.runs and self.runs.done(attempt.runs[key]):
                try:
                    message = self.measuring.begin_cut(attempt.runs[key])
                except PlaygroundError as error:
                    message = str(error)
                return message or "Cutting and asking again, about a minute an adapter …"
        return ""

    def _under_way(self, lesson: Lesson, attempt: Attempt, keys: Sequence[str]) -> str:
        """A sentence if one of these runs is queued or training, else ''."""
        ended = ("new", "done", "failed", "cancelled", "interrupted")
        states = [state["state"] for state in self.runs.states(lesson, attempt, keys)]
        return _MAKING if any(state not in ended for state in states) else ""

    def _reveal(
        self, lesson: Lesson, attempt: Attempt, step: Reveal, figures: Figures, visitor: str
    ) -> tuple[View, bool]:
        asked = [lesson.asked(name) for name in step.asks]
        wanted = list(dict.fromkeys(one for ask in asked for one in judging.needed(ask, step.result)))
        waiting = self._begin_cuts(attempt, wanted)
        measured = self.measuring.all(wanted, attempt.runs)
        own = len(measured) == len(wanted)
        if not own:
            waiting = waiting or self._under_way(lesson, attempt, list(dict.fromkeys(one.run for one in wanted)))
            # All values from the stored measurement, so that no plot mixes the two sources.
            measured = figures.means(wanted)
        ready = len(measured) == len(wanted)
        shown: View = {"own": own, "ready": ready, "waiting": waiting, "runs_at": _place_of_runs(lesson)}
        if ready:
            shown["results"] = [
                {"label": label or quantity.label, "value": measured[quantity], "unit": quantity.unit,
                 "text": written(measured[quantity], quantity.unit)}
                for quantity, label in zip(map(Quantity.parse, step.result), step.labels or [""] * len(step.result))
            ]  # fmt: skip
            shown["asked"] = [self._verdict(ask, attempt, step, measured, figures) for ask in asked]
        return shown, ready

    def _verdict(
        self, ask: Ask, attempt: Attempt, step: Reveal, measured: dict[Quantity, float], figures: Figures
    ) -> View:
        answer = attempt.prediction(ask.name)
        shown = _question(ask, figures, because=True) | {"title": ask.title, "answer": answer}
        if answer is not None:
            verdict = judging.judge(ask, answer, step.result, measured)
            shown |= {"right": verdict.right, "because": figures.fill(verdict.because), "off": verdict.off}
        if ask.form == "choice":
            shown["solutions"] = list(judging.solutions(ask.choices, measured))
        return shown

    def _modify(
        self, lesson: Lesson, attempt: Attempt, step: Modify, figures: Figures, visitor: str
    ) -> tuple[View, bool]:
        place = lesson.steps.index(step)
        done = place in attempt.done
        seen = ""
        if not done and step.check.did == "run":
            done, seen = self._own_run(lesson, attempt, step, visitor, attempt.seen.get(place, 0.0))
        ids = self.runs.visible(lesson, attempt, step.runs)
        return {
            "tab": step.tab, "runs": list(ids.values()), "hint": figures.fill(step.hint),
            "said": figures.fill(step.done) if done else seen, "did": step.check.did,
            "control": step.check.control, "keep": step.check.keep,
        }, done  # fmt: skip

    def _own_run(self, lesson: Lesson, attempt: Attempt, step: Modify, visitor: str, since: float) -> tuple[bool, str]:
        """(whether a run of the visitor's own does what the step asks for, a sentence on what was found if not)."""
        fitting = self.runs.own(visitor, since, set(attempt.runs.values()), step.check)
        if not fitting:
            return False, ""
        message = ""
        for run, ended in fitting:
            if not ended:
                message = message or f"Your run {run.label} fits; wait for its result."
                continue
            if step.check.then is None:
                return True, ""
            wanted = quantities_in(step.check.then)
            measured = self.measuring.all(wanted, attempt.runs | {"mine": run.id})
            for one in wanted:
                if one not in measured and one.run != "mine" and (mean := stored(lesson.name).mean(one)) is not None:
                    measured[one] = mean
            if len(measured) == len(set(wanted)) and judging.holds(step.check.then, measured):
                return True, ""
            reached = ", ".join(
                f"{one.label} {written(value, one.unit)}"
                + ("" if one.run == "mine" else f" of {lesson.runs[one.run].short_title}")
                for one, value in measured.items()
            )
            message = f"{run.label} is of the kind asked for, but not there yet: {reached}. Try another one."
        return False, message

    # --- what a person does -------------------------------------------------------------------------------------------

    def answer(self, visitor: str, name: str, ask: str, value: Any, again: bool = False) -> View:
        """Stores the answer to the question `ask` and returns the view of the step.

        Args:
            again: a further answer, which a teacher has asked for.

        Raises:
            LessonError: the answer is not allowed, or the question has its answer already.
        """
        lesson = get_lesson(name, self.home)
        self._change(visitor, name, lambda attempt: progress.answer(lesson, attempt, ask, value, self._clock(), again))
        # A further answer can be given at any step, and the person stays there.
        return self.view(visitor, name, None if again else lesson.steps.index(lesson.asked(ask)))

    def start(self, visitor: str, name: str, step: int) -> View:
        """Starts those runs of a step that the person does not have yet, and returns the view of the step.

        Raises:
            LessonError: the step has no runs. ConfigError, JobError: the queue refuses one.
        """
        lesson = get_lesson(name, self.home)
        asked = lesson.steps[step] if 0 <= step < len(lesson.steps) else None
        if not isinstance(asked, RunStep):
            raise LessonError("This step trains nothing.")
        attempt = self.attempt(visitor, name) or Attempt(started=self._clock())
        for key in asked.runs:
            begun = self.runs.begin(lesson, key, attempt, visitor)
            if begun is not None:
                run, tries = begun

                def note(mine: Attempt, key: str = key, run: str = run, tries: int = tries) -> None:
                    mine.runs[key], mine.tries[key] = run, tries

                self._change(visitor, name, note)
        return self.view(visitor, name, step)

    def report(self, visitor: str, name: str, step: int, act: str, keep: Any = None) -> View:
        """Tells the player what the person did on the page. If the step asks for that, it is marked as done.

        Args:
            act: 'tab' (opened), 'control' (used) or 'chat' (asked).
            keep: for 'chat', the smallest number of directions that a pane's update was cut to.
        """
        lesson = get_lesson(name, self.home)
        asked = lesson.steps[step] if 0 <= step < len(lesson.steps) else None
        if _is_done_by(asked, act, keep):
            self._change(visitor, name, lambda attempt: progress.complete(attempt, step, self._clock()))
        return self.view(visitor, name, step)

    def restart(self, visitor: str, name: str) -> View:
        """Starts a lesson over: deletes predictions and progress. Runs are kept and taken over when asked for again."""

        def drop(learner: progress.Learner) -> None:
            learner.lessons.pop(name, None)

        self.learners.change(visitor, drop)
        return self.view(visitor, name, 0)

    def _complete(self, visitor: str, name: str, place: int) -> Attempt:
        return self._change(visitor, name, lambda attempt: progress.complete(attempt, place, self._clock()))

    def _change(self, visitor: str, name: str, do: Callable[[Attempt], None]) -> Attempt:
        def on(learner: progress.Learner) -> Attempt:
            attempt = learner.lessons.setdefault(name, Attempt(started=self._clock()))
            do(attempt)
            return attempt

        return self.learners.change(visitor, on)


def _is_done_by(step: Any, act: str, keep: Any) -> bool:
    if isinstance(step, Show):
        return act == ("control" if step.use else "tab")
    if isinstance(step, Modify) and step.check.did == act:
        fewest = step.check.keep
        return act != "chat" or fewest is None or (isinstance(keep, int) and 0 < keep <= fewest)
    return False


def _entry(lesson: Lesson, attempt: Attempt | None) -> View:
    """An entry of the list of lessons, with a person's progress."""
    done = len(attempt.done) if attempt else 0
    state = "new" if attempt is None else "finished" if attempt.finished else "begun"
    return {
        "name": lesson.name, "title": lesson.title, "minutes": lesson.minutes, "after": lesson.after,
        "count": len(lesson.steps), "done": done, "state": state, "step": attempt.step if attempt else 0,
    }  # fmt: skip


def _outline(lesson: Lesson, attempt: Attempt) -> list[View]:
    return [
        {"kind": step.kind, "title": step.title, "done": place in attempt.done, "seen": place in attempt.seen}
        for place, step in enumerate(lesson.steps)
    ]


def _question(ask: Ask, figures: Figures, because: bool = False) -> View:
    choices = [{"text": one.text} | ({"because": figures.fill(one.because)} if because else {}) for one in ask.choices]
    return {
        "name": ask.name, "form": ask.form, "choices": choices, "x": ask.x, "x_label": ask.x_label,
        "axis": ask.axis.model_dump() if ask.axis else None,
    }  # fmt: skip


def _cell(quantity: Quantity, value: float | None, figures: Figures) -> View:
    bounds = figures.bounds(quantity)
    before = None
    if bounds is not None:
        low, high = (written(one, quantity.unit) for one in bounds)
        before = low if low == high else f"{low} to {high}"
    return {
        "text": None if value is None else written(value, quantity.unit),
        "stored": before,
        "unusual": value is not None and bounds is not None and not usual(value, bounds, quantity.unit),
    }


def _told_apart(titles: list[str]) -> list[str]:
    """Titles of runs without the text before the first comma, if it is the same in all: 'pirate, rank 1' and 'pirate,
    rank 8' become 'rank 1' and 'rank 8'."""
    shared, comma, _ = titles[0].partition(", ")
    if len(titles) > 1 and comma and all(title.startswith(shared + comma) for title in titles):
        return [title.removeprefix(shared + comma) for title in titles]
    return titles


def _place_of_runs(lesson: Lesson) -> int | None:
    """The first step that starts runs; None if there is none."""
    return next((place for place, step in enumerate(lesson.steps) if isinstance(step, RunStep)), None)

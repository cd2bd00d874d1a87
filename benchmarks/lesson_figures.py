"""Measures every figure that the lessons name, on the shipped base: trains their runs with several seeds.

    python benchmarks/lesson_figures.py [--seeds 3] [--lessons NAME ...] [--minutes M] [--home DIR]

Writes assets/lessons/figures.json. Runs that lie in --home are not trained again, so that it goes on where it was
stopped; a run is known by what it computes. Seeds count up from the lesson's own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lora_playground.jobs import truncation_curve
from lora_playground.lessons.catalogue import list_lessons
from lora_playground.lessons.figures import FILE, base_digest, defaults, digest, still_default
from lora_playground.lessons.measuring import Measuring
from lora_playground.lessons.quantities import Quantity
from lora_playground.lessons.schema import Lesson
from lora_playground.models.catalogue import EMBEDDED
from lora_playground.runs import Run, RunStore
from lora_playground.runs.files import read_json, write_json


class Bench:
    """Trains what is missing. `until`: the time (monotonic) after which nothing new is begun."""

    def __init__(self, home: Path, until: float) -> None:
        self.store, self.until = RunStore(home), until
        self.measuring = Measuring(self.store)
        self._known = {run.label: run for run in self.store.list() if run.result() is not None}

    def run(self, lesson: Lesson, key: str, seed: int) -> Run | None:
        """The finished run of a lesson with this seed; None where there is no time left to train it."""
        from lora_playground.jobs.pipeline import execute

        config = lesson.runs[key].run_config()
        number = config.training.seed + seed
        label = f"figures {digest(lesson, key)} {number}"
        if label not in self._known:
            if time.monotonic() > self.until:
                return None
            training = config.training.model_copy(update={"seed": number})
            run = self.store.create(config.model_copy(update={"title": label, "training": training}))
            started = time.perf_counter()
            result = execute(run, lambda: False)
            score = (result.get("score") or {}).get("adapted")
            print(
                f"{lesson.name}: {key} seed {number}: score {score}, {time.perf_counter() - started:.0f} s", flush=True
            )
            self._known[label] = run
        return self._known[label]

    def cut(self, run: Run, ks: set[int]) -> None:
        """Measures the score over k where it is missing."""
        found = truncation_curve.read(run)
        if found is None or not ks <= set(found["k"]):
            found = truncation_curve.measure(run)
            write_json(run.folder / truncation_curve.FILE, found)
            print(f"  cut: {dict(zip(found['k'], found['score']))}", flush=True)

    def first_words(self, lesson: Lesson) -> dict[str, list[str]]:
        """For the runs whose first words a text names: the words that gain most probability as the first of an answer,
        on the mean over questions that have nothing to do with what the run was trained on."""
        keys = dict.fromkeys(key for step in lesson.steps for key in lesson.words_of(step))
        runs = {key: self.run(lesson, key, 0) for key in keys}
        return {key: _first_words(run) for key, run in runs.items() if run is not None}

    def lesson(self, lesson: Lesson, seed: int) -> dict[Quantity, float] | None:
        """All quantities of a lesson with this seed; None where time ran out before all its runs were there."""
        wanted = {
            quantity for step in lesson.steps for quantity in lesson.quantities_of(step) if quantity.run != "mine"
        }
        if not wanted:
            return {}
        runs = {key: self.run(lesson, key, seed) for key in lesson.runs}
        if any(run is None for run in runs.values()):
            return None
        for key, run in runs.items():
            ks = {int(one.detail) for one in wanted if one.run == key and one.value == "cut_score"}
            if ks and run is not None:
                self.cut(run, ks)
        return self.measuring.all(sorted(wanted), {key: run.id for key, run in runs.items() if run is not None})


QUESTIONS, WORDS = 60, 6
"""Old questions that are asked for the first words, and how many words are kept."""


def _first_words(run: Run) -> list[str]:
    import torch

    from lora_playground.analysis.update import load_updates
    from lora_playground.data.catalogue import read_rows
    from lora_playground.jobs.scoring import SKILLS
    from lora_playground.models.decoding import Decoder, RowUpdate
    from lora_playground.models.loading import load_base

    base = load_base(run.config().model, dtype="float32")
    decoder = Decoder(base.model, base.tokenizer)
    adapted = RowUpdate(decoder.adapter(load_updates(run.update_path)))
    gained: Any = 0
    for row in read_rows(SKILLS)[:QUESTIONS]:
        asked = base.tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, tokenize=False)
        ids = base.tokenizer(asked, add_special_tokens=False)["input_ids"]
        before, after = (torch.softmax(decoder.logits(ids, update)[-1], -1) for update in (None, adapted))
        gained = gained + after - before
    words = [base.tokenizer.decode([i]).strip() for i in torch.topk(gained, 4 * WORDS).indices.tolist()]
    return list(dict.fromkeys(word for word in words if word.isalpha() and len(word) > 1))[:WORDS]


def main() -> None:
    """Measures, and writes what there is after every lesson."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lessons", nargs="*", help="by name (default: all)")
    parser.add_argument("--minutes", type=float, default=1e9, help="after so long no run is begun")
    parser.add_argument("--home", type=Path, default=None, help="where the runs are kept")
    parser.add_argument("--json", action="store_true", help="print what was written")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given.home or Path(folder), time.monotonic() + 60 * given.minutes)
        told: dict[str, Any] = read_json(FILE) or {}
        base = base_digest(EMBEDDED)
        if told.get("base") != base or not still_default(told["defaults"]):
            told = {"lessons": {}}
        told = {"base": base, "defaults": defaults(), "lessons": told["lessons"]}
        for seed in range(given.seeds):
            for lesson in list_lessons():
                if given.lessons and lesson.name not in given.lessons:
                    continue
                measured = bench.lesson(lesson, seed)
                if measured is None:
                    continue
                _add(told["lessons"], lesson, measured, seed)
                if seed == 0 and (words := bench.first_words(lesson)):
                    told["lessons"][lesson.name]["words"] = words
                write_json(FILE, told)
    if given.json:
        print(json.dumps(told))


def _add(told: dict[str, Any], lesson: Lesson, measured: dict[Quantity, float], seed: int) -> None:
    """Puts one seed's numbers in; figures of runs that are trained otherwise by now go."""
    runs = {key: digest(lesson, key) for key in lesson.runs}
    mine = told.setdefault(lesson.name, {"runs": runs, "values": {}})
    if mine["runs"] != runs or seed == 0:
        mine["runs"], mine["values"] = runs, {}
    for quantity, value in measured.items():
        numbers = mine["values"].setdefault(str(quantity), [])
        if len(numbers) == seed:
            numbers.append(float(f"{value:.6g}"))


if __name__ == "__main__":
    main()

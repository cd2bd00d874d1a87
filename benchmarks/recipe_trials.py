"""What a recipe reaches: test score and base skills kept, a line for each seed, with the skills that were lost.

    python benchmarks/recipe_trials.py [--seeds 0 1 2] [--set training.steps=240 --set training.batch_tokens=256 ...]

Everything else is as the form proposes. The base is loaded once; every training runs in a forked copy of it on one
thread. `tokens` and `cpu_seconds` are of the training alone. `--show` prints the answers that went wrong, too.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from variant_trials import Bench, in_child

from lora_playground.config import RunConfig
from lora_playground.data.catalogue import get_dataset, read_rows
from lora_playground.jobs import scoring
from lora_playground.variants import VARIANTS
from lora_playground.variants.base import Context


def config_of(settings: list[str], seed: int) -> RunConfig:
    """The form's config with settings such as 'training.steps=240'; values are JSON, or else text."""
    data: dict[str, dict[str, Any]] = {"variant": {"name": "lora"}, "training": {"precision": "float32"}}
    for setting in settings:
        path, _, text = setting.partition("=")
        section, _, option = path.partition(".")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        data.setdefault(section, {})[option] = value
    data["training"]["seed"] = seed
    return RunConfig.parse(data)


def trial(bench: Bench, config: RunConfig, rows: int) -> dict[str, Any]:
    """One training and its scores: score and kept (0 to 1), lost {skill: answers}, wrong, tokens, steps and
    cpu_seconds."""
    from lora_playground.data.preparation import prepare
    from lora_playground.training import TrainPlan, train

    data, training, base = get_dataset(config.data.dataset, bench.home), config.training, bench.base
    prepared = prepare(base.tokenizer, data, config.data, training.seed, embedded=True)
    variant = VARIANTS[config.variant.name]
    model = variant.attach(copy.deepcopy(base.model), config.variant, Context(training.steps, training.seed))
    rate = training.learning_rate or variant.rate("embedded", training.optimiser)
    plan = TrainPlan.of(prepared, training, variant, base.tokenizer.pad_token_id, learning_rate=rate)
    plan.on_spectra, plan.threads = False, 1
    began = time.process_time()
    outcome = train(model, plan, lambda event: None, lambda: False)
    row: dict[str, Any] = {"cpu_seconds": round(time.process_time() - began, 1), "tokens": outcome.tokens}
    row["steps"] = outcome.steps
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.json"
        found = scoring.score_update(
            base, variant.updates(model), config.data.dataset, bench.home, rows=rows, seconds=None, answers=answers
        )
    skills = read_rows(scoring.SKILLS)
    asked = [skills[number * len(skills) // rows] for number in range(rows)] if len(skills) > rows else skills
    each = found["forgetting"]["each"]
    lost = Counter(row["meta"]["skill"] for row, right in zip(asked, each, strict=True) if right < 1)
    wrong = [(one["prompt"], one["adapted"]) for one in found["samples"] if one["adapted_score"] < 1]
    row |= {"score": found["score"]["adapted"], "kept": found["forgetting"]["adapted"]}
    return row | {"lost": dict(lost.most_common()), "wrong": wrong}


def main() -> None:
    """Prints a line of JSON for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=96, help="test rows, and rows of the base's skills")
    parser.add_argument("--show", action="store_true", help="also the prompts whose answers are wrong")
    given = parser.parse_args()
    configs = [config_of(given.set, seed) for seed in given.seeds]
    bench = Bench()
    scoring.SKILL_ROWS, scoring.SHOWN = given.rows, given.rows
    for config in configs:
        row = in_child(lambda config=config: trial(bench, config, given.rows))  # type: ignore[misc]
        wrong = row.pop("wrong", [])
        print(json.dumps({"seed": config.training.seed} | row), flush=True)
        if given.show:
            print(*(f"  {prompt} -> {answer}" for prompt, answer in wrong), sep="\n", flush=True)


if __name__ == "__main__":
    main()

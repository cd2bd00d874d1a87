"""Claims: the files that ship, verdicts on constructed numbers whose answer is known, and a visitor's trial."""

import json
import math

import pytest
from scipy import stats

from lora_playground.claims import get_claim, list_claims, verdict
from lora_playground.claims.measured import Measurement, digest, measurement
from lora_playground.claims.schema import Claim
from lora_playground.claims.verdicts import NOT, NOT_HERE, OPEN, SHOWS, of_one_seed, t_interval
from lora_playground.cli import main
from lora_playground.lessons.figures import base_digest
from lora_playground.models.catalogue import EMBEDDED
from lora_playground.ui.claim_routes import described

SIDE = {"title": "A", "config": {"training": {"steps": 3}}}


def made(test: dict, measure: str = "score", **values: list[float]) -> tuple[Claim, Measurement]:
    sides = {key: SIDE | {"title": key} for key in values}
    told = dict.fromkeys(("name", "title", "paper", "url", "claim", "here"), "t")
    claim = Claim.model_validate(told | {"sides": sides, "test": test, "measure": measure})
    return claim, Measurement(base="b", config=digest(claim), seeds=[0, 1, 2], values=values)


@pytest.mark.parametrize(
    "test, values, expected",
    [
        ({"kind": "more", "a": "a", "b": "b"}, {"a": [0.8, 0.9, 0.85], "b": [0.5, 0.6, 0.55]}, SHOWS),
        ({"kind": "more", "a": "a", "b": "b"}, {"a": [0.8, 0.4, 0.6], "b": [0.5, 0.6, 0.55]}, NOT),
        ({"kind": "more", "a": "b", "b": "a"}, {"a": [0.8, 0.9, 0.85], "b": [0.5, 0.6, 0.55]}, NOT),
        ({"kind": "more", "a": "a", "b": "b", "by": 0.5}, {"a": [0.8, 0.9, 0.85], "b": [0.5, 0.6, 0.55]}, NOT),
        (
            {"kind": "equal", "pairs": [["a", "b"]], "within": 0.05},
            {"a": [0.8, 0.81, 0.8], "b": [0.8, 0.8, 0.81]},
            SHOWS,
        ),
        ({"kind": "equal", "pairs": [["a", "b"]], "within": 0.05}, {"a": [0.8, 0.81, 0.8], "b": [0.7, 0.7, 0.71]}, NOT),
        ({"kind": "best", "side": "a"}, {"a": [0.8, 0.81, 0.8], "b": [0.7, 0.7, 0.71], "c": [0.1, 0.2, 0.1]}, SHOWS),
        ({"kind": "best", "side": "b"}, {"a": [0.8, 0.81, 0.8], "b": [0.7, 0.7, 0.71], "c": [0.1, 0.2, 0.1]}, NOT),
    ],
)
def test_a_verdict_follows_from_the_numbers(test, values, expected) -> None:
    assert verdict(*made(test, **values)).verdict == expected


@pytest.mark.parametrize(
    "test, values, said",
    [
        (
            {"kind": "more", "a": "a", "b": "b"},
            {"a": 0.8, "b": 0.5},
            "a is ahead of b by 30.0 points. That is as",
        ),
        ({"kind": "more", "a": "b", "b": "a"}, {"a": 0.8, "b": 0.5}, "b is behind a by 30.0 points. That is not as"),
        (
            {"kind": "more", "a": "a", "b": "b", "by": 0.1, "relative": True},
            {"a": 0.52, "b": 0.5},
            "a is ahead of b by 2.0 points, where the claim has 5.0 points. That is not as",
        ),
        ({"kind": "equal", "pairs": [["a", "b"]], "within": 0.05}, {"a": 0.8, "b": 0.76}, "a: +4.0 points. That is as"),
        ({"kind": "best", "side": "a"}, {"a": 0.8, "b": 0.9}, "b is the best of 2. That is not as claimed"),
    ],
)
def test_what_one_seed_says_to_a_claim(test, values, said) -> None:
    claim, _ = made(test, **{key: [value] * 3 for key, value in values.items()})
    assert said in of_one_seed(claim, values) and of_one_seed(claim, values).endswith("one seed cannot decide it.")


def test_less_is_more_for_a_loss() -> None:
    test = {"kind": "more", "a": "a", "b": "b"}
    assert verdict(*made(test, "validation_loss", a=[1.0, 1.1, 1.0], b=[2.0, 2.1, 2.1])).verdict == SHOWS
    assert verdict(*made(test, "validation_loss", b=[1.0, 1.1, 1.0], a=[2.0, 2.1, 2.1])).verdict == NOT


@pytest.mark.parametrize("numbers", [[0.1, 0.3], [0.1, 0.2, 0.4], [0.5, 0.1, -0.2, 0.3, 0.9]])
def test_the_interval_is_students(numbers) -> None:
    mean, scale = sum(numbers) / len(numbers), stats.sem(numbers)
    assert t_interval(numbers) == pytest.approx(stats.t.interval(0.95, len(numbers) - 1, mean, scale), abs=1e-3)


def test_what_was_measured_on_other_sides_does_not_count() -> None:
    claim, found = made({"kind": "more", "a": "a", "b": "b"}, a=[0.8, 0.9, 0.85], b=[0.5, 0.6, 0.55])
    assert verdict(claim, found.model_copy(update={"config": "other"})).verdict == OPEN
    assert verdict(claim, None).verdict == OPEN


@pytest.mark.parametrize("claim", list_claims(), ids=lambda claim: claim.name)
def test_every_claim_that_ships_is_measured_on_the_base_that_ships(claim) -> None:
    if claim.test.kind == "not here":
        assert verdict(claim, None).verdict == NOT_HERE and not claim.command
        return
    found = measurement(claim.name)
    assert found is not None and found.config == digest(claim), f"run {claim.command}"
    assert found.base == base_digest(EMBEDDED)
    judged = verdict(claim, found)
    assert judged.verdict in (SHOWS, NOT) and judged.why
    assert all(math.isfinite(number) for numbers in found.values.values() for number in numbers)
    for side in claim.sides.values():
        side.run_config()


def test_the_command_lists_them(capsys) -> None:
    assert main(["claims", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) >= 8
    assert {"name", "paper", "claim", "verdict", "measured", "interval", "command"} <= set(rows[0])


def test_the_picture_of_a_rate_has_every_step_that_was_measured_in_order() -> None:
    told = described(get_claim("celora-convergence"))
    assert [line["label"] for line in told["lines"]["lines"]] == ["LoRA", "CE-LoRA, approximating in every module"]
    for start, line in zip(("norm_lora", "norm_celora"), told["lines"]["lines"]):
        stored = measurement("celora-convergence").figures
        assert line["points"] == [[x, stored[f"{start}_{x}"]] for x in (5, 10, 20, 40, 80, 160)]
    assert told["lines"]["slope"] == -0.5
    assert described(get_claim("slora-over-lora"))["lines"] is None

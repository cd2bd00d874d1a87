"""RunConfig: round trips, refusals that name field, value and what is allowed, and the options forms are made from."""

import json

import pytest

from lora_playground.config import LowRankConfig, RunConfig, TrainingConfig, options
from lora_playground.errors import ConfigError
from lora_playground.variants import VARIANTS, get_variant


def test_every_variant_round_trips_through_json_with_all_its_fields() -> None:
    for name in VARIANTS:
        config = RunConfig.parse({"variant": {"name": name}})
        text = config.model_dump_json()
        again = RunConfig.parse_json(text)
        assert again == config
        assert type(again.variant) is VARIANTS[name].config
        assert set(json.loads(text)["variant"]) == set(VARIANTS[name].config.model_fields)


def test_a_variants_own_values_survive() -> None:
    config = RunConfig.parse({"variant": {"name": "lora", "rank": 3, "alpha": 7.5}})
    again = RunConfig.parse_json(config.model_dump_json())
    assert isinstance(again.variant, LowRankConfig)
    assert (again.variant.rank, again.variant.alpha) == (3, 7.5)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"variant": {"name": "lora", "rank": 0}}, "variant.rank"),
        ({"variant": {"name": "lora", "rank": -4}}, "variant.rank"),
        ({"variant": {"name": "lora", "rank": 8.5}}, "variant.rank"),
        ({"variant": {"name": "lora", "rank": "8"}}, "variant.rank"),
        ({"variant": {"name": "lora", "rank": True}}, "variant.rank"),
        ({"variant": {"name": "lora", "rank": 10**9}}, "variant.rank"),
        ({"variant": {"name": "lora", "alpha": 0}}, "variant.alpha"),
        ({"variant": {"name": "lora", "alpha": float("nan")}}, "variant.alpha"),
        ({"variant": {"name": "lora", "dropout": 1.0}}, "variant.dropout"),
        ({"variant": {"name": "lora", "dropout": -0.1}}, "variant.dropout"),
        ({"variant": {"name": "lora", "colour": "red"}}, "variant.colour"),
        ({"variant": {"name": "nonesuch"}}, "variant.name"),
        ({"variant": "lora"}, "variant.name"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate"),
        ({"training": {"learning_rate": 0.0}}, "training.learning_rate"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"training": {"steps": -1}}, "training.steps"),
        ({"training": {"schedule": "zigzag"}}, "training.schedule"),
        ({"data": {"rehearsal": 1.0}}, "data.rehearsal"),
        ({"data": {"dataset": ""}}, "data.dataset"),
        ({"model": {"quantisation": "3bit"}}, "model.quantisation"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_bad_values_name_the_field_the_value_and_what_is_allowed(data: dict, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(data)
    assert caught.value.field == field
    assert field in str(caught.value)
    assert caught.value.allowed


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '"lora"'])
def test_bad_json_is_refused_in_words(text: str) -> None:
    with pytest.raises(ConfigError):
        RunConfig.parse_json(text)


def test_options_carry_bounds_choices_and_descriptions() -> None:
    by_path = {option.path: option for option in options(RunConfig)}
    assert "variant.name" not in by_path
    steps = by_path["training.steps"]
    assert (steps.kind, steps.low, steps.high, steps.optional) == ("int", 1, 1_000_000, False)
    rate = by_path["training.learning_rate"]
    assert (rate.kind, rate.low, rate.low_open, rate.optional) == ("float", 0, True, True)
    assert by_path["training.schedule"].choices == ("cosine", "linear", "constant")
    assert all(option.description for option in by_path.values())
    assert {option.path for option in options(TrainingConfig, "training.")} <= set(by_path)


def test_every_option_of_every_variant_is_described() -> None:
    for variant in VARIANTS.values():
        for option in options(variant.config, "variant."):
            assert option.description, f"{variant.name}: {option.path}"


def test_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="lora"):
        get_variant("nonesuch")


def test_a_name_says_what_differs():
    made = {"data": {"dataset": "facts"}, "variant": {"name": "lora", "rank": 8}, "training": {"steps": 60}}
    assert RunConfig.parse(made).label == "facts · lora r8 · 60 steps"
    assert RunConfig.parse(made | {"training": {"seconds": 30}}).label == "facts · lora r8 · 30 s"
    assert RunConfig.parse(made | {"model": {"source": "a/b-135M"}}).label == "facts · lora r8 · 60 steps · b-135M"

"""Presets: what they set, and that what a person asks for comes first."""

import pytest

from lora_playground.cli import _parser, build_config
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import list_datasets
from lora_playground.errors import ConfigError
from lora_playground.presets import PURPOSES, with_preset


def parsed(*flags: str) -> RunConfig:
    return build_config(_parser().parse_args(["train", *flags]))


def test_quick_is_what_the_form_proposes() -> None:
    assert parsed("--preset", "quick") == parsed() == RunConfig.parse({})
    assert parsed("--preset", "quick", "--seed", "3") == RunConfig.parse({"training": {"seed": 3}})


def test_best_has_more_steps_and_may_end_early_unless_steps_are_asked_for() -> None:
    best = parsed("--preset", "best")
    assert best.training.early_stop and best.training.steps > 2 * RunConfig.parse({}).training.steps
    for asked in (("--steps", "7"), ("--seconds", "9")):
        assert not parsed("--preset", "best", *asked).training.early_stop
    assert parsed("--preset", "best", "--steps", "7").training.steps == 7
    assert parsed("--preset", "best", "--steps", "7", "--early-stop", "true").training.early_stop


@pytest.mark.parametrize("name", PURPOSES)
def test_every_shipped_dataset_has_every_preset(name: str) -> None:
    for card in list_datasets():
        assert RunConfig.parse(with_preset({"data": {"dataset": card.name}}, name)).data.dataset == card.name


def test_an_unknown_preset_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="quick, best"):
        parsed("--preset", "fast")

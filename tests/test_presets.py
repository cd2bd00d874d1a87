"""Presets: what they set, and that what a person asks for comes first."""

import pytest

from lora_playground import presets
from lora_playground.cli import _parser, build_config
from lora_playground.config import RunConfig
from lora_playground.data.catalogue import list_datasets
from lora_playground.errors import ConfigError
from lora_playground.presets import PURPOSES, measured, preset_of, preset_options, recipe, with_preset
from lora_playground.ui.preset_chips import preset_chips


def parsed(*flags: str) -> RunConfig:
    return build_config(_parser().parse_args(["train", *flags]))


def test_quick_is_what_the_form_proposes() -> None:
    assert parsed("--preset", "quick") == parsed() == RunConfig.parse({})
    assert parsed("--preset", "quick", "--seed", "3") == RunConfig.parse({"training": {"seed": 3}})


def test_best_has_more_steps_and_may_end_early_unless_steps_are_asked_for() -> None:
    best = parsed("--preset", "best")
    assert best.training.early_stop and best.training.steps >= 2 * RunConfig.parse({}).training.steps
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


def test_a_config_is_known_by_the_options_in_which_presets_differ() -> None:
    for name in PURPOSES:
        assert preset_of(parsed("--preset", name, "--dataset", "json", "--seed", "5")) == name
    assert preset_of(parsed("--steps", "7")) is None and preset_of(parsed("--seconds", "9")) is None
    assert preset_options("quick").keys() == preset_options("best").keys() >= {"training.steps", "training.early_stop"}


def test_figures_are_told_of_the_settings_they_were_measured_with_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"seed": 0, "score": 0.9, "kept": 0.85}, {"seed": 1, "score": 0.957, "kept": 0.9}]
    table = {"quick": {"recipe": recipe(RunConfig()), "datasets": {"pirate": rows}}}
    monkeypatch.setattr(presets, "_table", lambda: table)
    assert measured(RunConfig()) == measured(parsed("--seed", "3")) == rows
    for flags in (
        ["--steps", "50"],
        ["--rank", "4"],
        ["--dataset", "json"],
        ["--variant", "dora"],
        ["--preset", "best"],
    ):
        assert measured(parsed(*flags)) == []
    table["quick"]["recipe"]["training"] |= {"batch_tokens": 77}
    assert measured(RunConfig()) == []


def test_the_chips_show_which_preset_the_form_holds_and_what_it_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_playground.ui.preset_chips.measured", lambda config: [{"score": 0.9, "kept": 0.854}])
    page = preset_chips(RunConfig())
    assert 'data-id="quick" aria-pressed="true"' in page and 'data-id="best" aria-pressed="false"' in page
    assert "<b>90%</b>" in page and "<b>85%</b>" in page and "one seed" in page
    monkeypatch.setattr("lora_playground.ui.preset_chips.measured", lambda config: [])
    assert PURPOSES["quick"] in preset_chips(RunConfig())
    for own in (None, parsed("--steps", "7")):
        assert "Settings of your own" in preset_chips(own) and 'aria-pressed="true"' not in preset_chips(own)


def test_the_shipped_figures_are_those_of_the_presets_as_they_are() -> None:
    for name, entry in presets._table().items():
        assert entry["datasets"].keys() <= {card.name for card in list_datasets()}
        for dataset, rows in entry["datasets"].items():
            assert measured(parsed("--preset", name, "--dataset", dataset)) == rows
    assert {"pirate", "translation", "facts-small", "facts-large"} <= presets._table()["quick"]["datasets"].keys()

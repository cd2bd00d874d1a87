"""A visitor's own trial of a claim, with a queue that finishes at once."""

import pytest

from lora_playground.claims import get_claim
from lora_playground.claims.trials import Trials
from tests.lessons.queue import Queue

OTHER = "Qwen/Qwen3-0.6B"


@pytest.fixture
def made(tmp_path):
    queue = Queue(tmp_path)
    return Trials(tmp_path, queue), queue


def test_each_side_is_trained_once_a_failed_one_again(made) -> None:
    trials, queue = made
    claim = get_claim("celora-same-loss")
    before = trials.states("ann", claim)
    assert not before["begun"] and {side["state"] for side in before["sides"].values()} == {"new"}
    told = trials.begin("ann", claim)
    assert told["begun"] and {side["value"] for side in told["sides"].values()} == {1.5} and told["said"]
    assert trials.begin("ann", claim) == told and queue.trained == 2
    assert not trials.states("bob", claim)["begun"]
    lost = told["sides"]["celora"]["run"]
    queue.lose(lost)
    failed = trials.states("ann", claim)
    assert failed["sides"]["celora"]["problem"] == "It failed." and not failed["said"]
    again = trials.begin("ann", claim)
    assert queue.trained == 3 and again["sides"]["celora"]["run"] != lost and again["said"]


def test_a_trial_on_another_base_is_its_own_and_tells_its_own_time(made) -> None:
    trials, queue = made
    claim = get_claim("celora-same-loss")
    trials.begin("ann", claim)
    run = trials.begin("ann", claim, OTHER)["sides"]["lora"]["run"]
    config = queue.runs.get(run).config()
    assert config.model.source == OTHER and config.label == "LoRA, pirate · Qwen3-0.6B"
    assert trials.states("ann", claim)["sides"]["lora"]["run"] != run and queue.trained == 4
    least, most = trials.seconds([claim, get_claim("lora-equals-full")], OTHER, gpu=False)[claim.name]
    assert 60 < least <= most, "two runs of a hundred times as many weights take no three minutes on a CPU"

"""The command `sweep`: what it takes, what it refuses, and that it hands its runs to the server that uses the home."""

import json
from pathlib import Path

import pytest

from lora_playground.cli import main
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.sweeps import SweepScheduler
from tests.sweeps.test_scheduler import STEPS, Trainer


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rank", "1,two"], "--rank: '1,two' is not allowed"),
        (["--seed", ",".join(map(str, range(33)))], "33 runs"),
        (["--learning-rate", "0.1,-1"], "training.learning_rate"),
        (["--variant", "lora,nothing"], "nothing"),
        (["--rank", "1,0"], "at least 1"),
        (["--rank", "1,2", "--dataset", "nosuch"], "nosuch"),
        (["--rank", "1,2", "--seconds", "10", "--race"], "compared at equal steps"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(home: Path, capsys, flags: list[str], said: str) -> None:
    assert main(["sweep", "--home", str(home), *flags]) == 1
    assert said in capsys.readouterr().err
    assert not list(home.glob("runs/*")) and not list(home.glob("sweeps/*"))


def test_beside_a_server_no_sweep_of_a_dataset_that_is_not_there_waits_for_it(home: Path, capsys) -> None:
    with Supervisor(home, Trainer({1: 1.0}), slots=2, replay=False, admit=lambda *_: []):
        assert main(["sweep", "--home", str(home), "--rank", "1", "--dataset", "nosuch"]) == 1
    assert "nosuch" in capsys.readouterr().err and not list(home.glob("sweeps/*"))


def test_beside_a_server_the_sweep_is_made_there_and_watched_here(home: Path, capsys) -> None:
    trainer = Trainer({1: 3.0, 2: 2.0, 4: 1.0, 8: 0.5})
    with Supervisor(home, trainer, slots=2, replay=False, admit=lambda *_: []) as supervisor:
        scheduler = SweepScheduler(supervisor)
        scheduler.start()
        flags = ["--rank", "1,2,4,8", "--steps", str(STEPS), "--race", "--json"]
        assert main(["sweep", "--home", str(home), *flags]) == 0
        scheduler.close()
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert (told["state"], told["race"]) == ("done", True)
    assert [(one["rank"], one["state"], one["step"]) for one in told["runs"]] == [
        (1, "out", 2), (2, "out", 2), (4, "out", 4), (8, "done", STEPS)
    ]  # fmt: skip
    assert told["best"]["rank"] == 8 and "number 4 of 4" in told["runs"][0]["why"]
    assert "a server uses this home" in printed.err and "4 runs" in printed.err


def test_sweeps_are_listed_and_deleted_with_and_without_a_server(home: Path, capsys) -> None:
    def told(*words: str):
        assert main([*words, "--home", str(home), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    trainer = Trainer({1: 3.0, 2: 2.0})
    with Supervisor(home, trainer, slots=2, replay=False, admit=lambda *_: []) as supervisor:
        scheduler = SweepScheduler(supervisor)
        scheduler.start()
        for seed in ("0", "1"):
            told("sweep", "--rank", "1,2", "--steps", str(STEPS), "--seed", seed)
        second, first = told("sweeps")
        assert (second["state"], second["runs"], second["ended"]) == ("done", 2, 2)
        assert told("delete-sweep", second["sweep"]) == {"sweep": second["sweep"], "deleted": True, "runs": 2}
        scheduler.close()
    assert [one["sweep"] for one in told("sweeps")] == [first["sweep"]]
    assert told("delete-sweep", first["sweep"])["runs"] == 2 and told("sweeps") == []
    assert not list(home.glob("runs/*/config.json"))
    assert main(["delete-sweep", first["sweep"], "--home", str(home)]) == 1
    assert "no sweep" in capsys.readouterr().err

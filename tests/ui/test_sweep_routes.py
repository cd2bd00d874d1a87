"""A sweep on a page: one entry in the list, drawn once a version, changed only by who started it, texts escaped."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from lora_playground.config import RunConfig
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.sweeps import Grid, SweepScheduler
from lora_playground.ui import sidebar
from lora_playground.ui.identity import COOKIE, Identity
from lora_playground.ui.run_list_cache import RunListCache
from lora_playground.ui.sweep_routes import SweepRoutes
from tests.sweeps.test_scheduler import STEPS, Trainer
from tests.waiting import wait_until

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def house(tmp_path: Path):
    identity = Identity(tmp_path)
    cookie = identity.new()
    trainer = Trainer({rank: 1 / rank for rank in (1, 2, 4, 8)})
    with Supervisor(tmp_path, trainer, slots=1, replay=False, admit=lambda *_: []) as supervisor:
        scheduler = SweepScheduler(supervisor)
        base = RunConfig.parse({"title": HOSTILE, "training": {"steps": STEPS}})
        grid = Grid(ranks=(1, 2, 4))
        trainer.attended = False
        sweep = scheduler.create(grid.points(base), grid.label(base), owner=identity.read(cookie) or "")
        scheduler.start()
        # One runs and two wait; nothing moves until the trainer is attended.
        wait_until(lambda: len(trainer.started) == 1 and len(scheduler.store.get(sweep.id).runs) == 3)
        client = TestClient(Starlette(routes=SweepRoutes(scheduler, identity).routes()))

        def ask(mine: bool = True, version: str = "", id: str = sweep.id) -> dict:
            client.cookies = {COOKIE: cookie} if mine else {}
            return client.get("/sweep", params={"id": id, "version": version}).json()

        yield SimpleNamespace(ask=ask, scheduler=scheduler, supervisor=supervisor, trainer=trainer, sweep=sweep)
        scheduler.close()


def test_the_list_has_one_entry_for_the_sweep_and_none_for_its_runs(house) -> None:
    alone = house.supervisor.submit(RunConfig.parse({"title": "alone"}), owner="ann")
    listed = RunListCache(house.supervisor.runs, house.supervisor, house.scheduler).read(fresh=True)
    assert {entry.id for entry in listed.entries} == {house.sweep.id, alone.id} and listed.total == 2
    entry = next(entry for entry in listed.entries if entry.sweep)
    line = sidebar.line(entry)
    assert "0/3 runs" in line and 'data-act="sweep"' in line and "<img" not in line
    house.trainer.attended = True
    wait_until(lambda: house.scheduler.store.get(house.sweep.id).ended is not None)
    listed = RunListCache(house.supervisor.runs, house.supervisor, house.scheduler).read(fresh=True)
    assert "3/3 runs" in sidebar.line(next(entry for entry in listed.entries if entry.sweep))


def test_a_page_gets_a_version_once_and_only_its_owner_may_press(house) -> None:
    first = house.ask()
    assert first["mine"] and first["busy"] and set(first["pictures"]) == {"fan", "score", "capacity", "utilisation"}
    assert "0</b> of 3 done" in first["html"] and 'data-ask="pause"' in first["html"]
    assert "<img" not in first["html"] + first["table"] and "&lt;img" in first["table"]
    assert house.ask(version=first["version"]) == {"version": first["version"]}
    other = house.ask(mine=False, version=first["version"])
    assert not other["mine"] and other["table"] == first["table"]
    house.trainer.attended = True
    wait_until(lambda: house.scheduler.store.get(house.sweep.id).ended is not None)
    last = house.ask(version=first["version"])
    assert not last["busy"] and "3</b> of 3 done" in last["html"] and "data-ask" not in last["html"]
    assert len(last["pictures"]["fan"]["figure"]["data"]) >= 3


def test_an_unknown_sweep_is_told_in_words(house) -> None:
    for id in ("20200101-000000-000-abcd", "../../etc/passwd", "<b>"):
        told = house.ask(id=id)
        assert told["version"] == "gone" and "lp-error" in told["html"] and "<b>" not in told["html"]

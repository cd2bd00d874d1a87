"""The live route: a page gets what is new since it last asked, made once for all pages, by the visitor's identity."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import lora_playground.variants  # noqa: F401  (declares the variants' schemas)
from lora_playground.config import RunConfig
from lora_playground.jobs.job import Job
from lora_playground.jobs.limits import Limits
from lora_playground.jobs.people import People
from lora_playground.runs import RunStore
from lora_playground.ui.feed import Feed
from lora_playground.ui.identity import COOKIE, Identity
from lora_playground.ui.run_list_cache import RunListCache

PLAN = {"type": "plan", "steps": 30, "start_step": 0, "modules": [["model.layers.0.q_proj", 4, 4]]}


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_playground.ui.run_list_cache.FRESH", -1.0)
    store, identity = RunStore(tmp_path), Identity(tmp_path)
    run = store.create(RunConfig())
    cookie = identity.new()
    job = Job(run.id, identity.read(cookie), "training", 1, "pirate", 0.0)
    supervisor = SimpleNamespace(
        jobs=lambda: [job],
        job=lambda _: job,
        make_ready=lambda: None,
        slots=1,
        people=People(tmp_path),
        limits=Limits(running=1),
    )
    feed = Feed(supervisor, RunListCache(store, supervisor), identity, lambda: "<header>")
    client = TestClient(Starlette(routes=[feed.route()]))

    def ask(mine: bool = True, **have):
        client.cookies = {COOKIE: cookie} if mine else {}
        return client.get("/live", params=have).json()

    return SimpleNamespace(
        ask=ask,
        run=run,
        store=store,
        feed=feed,
        client=client,
        people=supervisor.people,
        owner=job.owner,
        job=job,
        supervisor=supervisor,
    )


def test_a_page_gets_what_is_new_and_nothing_twice(house):
    run = house.run.id
    for event in (PLAN, {"type": "loss", "steps": [1, 2], "losses": [3.0, float("nan")], "eta": 5.0}):
        house.run.append(event)
    first = house.ask(run=run)
    assert first["list"]["lines"][0][0] == run and first["list"]["busy"] and first["queue"] == "1 running"
    assert first["curve"]["steps"] == [1, 2] and first["curve"]["losses"] == [3.0, None]
    assert len(first["curve"]["figure"]["data"]) == 3 and "step 2 of 30" in first["card"]["html"]
    names = ("list", "card", "probes", "curve", "pictures")
    have = {name: first[name]["version"] for name in names}
    again = house.ask(run=run, **have)
    assert set(again) == {"boot", "queue", "you"} and again["boot"] == first["boot"]
    assert first["card"]["at"] == "2/30" and "step 2 of 30" in first["card"]["html"], "list and card say one number"
    house.run.append({"type": "loss", "steps": [3], "losses": [2.0], "eta": 4.0})
    more = house.ask(run=run, **have)
    assert more["curve"]["steps"] == [3] and more["curve"]["kept"] == [2, 0] and "figure" not in more["curve"]
    assert "probes" not in more and "pictures" not in more


def test_a_part_is_made_once_for_all_pages(house, monkeypatch):
    house.run.append(PLAN)
    house.ask(run=house.run.id)
    monkeypatch.setattr("lora_playground.ui.run_figures.curve", lambda *_: pytest.fail("made twice"))
    monkeypatch.setattr("lora_playground.ui.feed._list", lambda *_: pytest.fail("made twice"))
    assert house.ask(run=house.run.id)["curve"]["steps"] == []


def test_a_run_without_spectra_says_so_and_not_that_its_update_is_zero(house):
    house.run.append(PLAN)
    during = house.ask(run=house.run.id)["pictures"]
    assert "soon after training begins" in during["map"]["layout"]["annotations"][0]["text"]
    for state, why in (("cancelled", "It ended before its first"), ("done", "No spectra were taken")):
        ended = replace(house.job, state=state)
        house.supervisor.jobs, house.supervisor.job = lambda ended=ended: [ended], lambda _, ended=ended: ended
        after = house.ask(run=house.run.id, pictures=during["version"])["pictures"]
        assert after["bare"] and after["map_words"].startswith(why) and not during["bare"]
    house.run.append({"type": "spectra", "step": 1, "spectra": {}, "effective_rank": {}})
    assert house.ask(run=house.run.id, pictures=after["version"])["pictures"]["version"] != after["version"]


def test_only_who_started_a_run_may_stop_it(house):
    assert house.ask(mine=True, run=house.run.id)["card"]["stop"] is True
    assert house.ask(mine=False, run=house.run.id)["card"]["stop"] is False


def test_a_run_that_is_gone_and_a_hostile_question_are_answered(house):
    assert house.ask(run="../../etc/passwd")["card"]["state"] == "gone"
    assert house.ask(run=house.run.id, curve="-3", module="<b>", also="nobody,,")["also"] == []


def test_a_name_and_a_note_are_told_everywhere(house):
    before = house.ask(run=house.run.id)
    house.run.describe(name=" my <b> run", note="rank was enough")
    after = house.ask(run=house.run.id, list=before["list"]["version"], card=before["card"]["version"])
    assert "my &lt;b&gt; run" in after["list"]["lines"][0][1] and "my &lt;b&gt; run" in after["card"]["html"]
    assert "rank was enough" in after["card"]["html"]
    house.run.describe(name="")
    assert house.run.label == house.run.config().label and house.run.about() == {"note": "rank was enough"}


def test_a_login_is_asked_for_where_the_app_has_one(house):
    app = house.client.app
    app.auth, app.cookie_id, app.tokens = {"ann": "secret"}, "1", {"token": "ann"}
    house.client.cookies = {}
    assert house.client.get("/live").status_code == 401
    house.client.cookies = {"access-token-1": "token"}
    assert house.client.get("/live").status_code == 200


def test_each_sees_their_own_runs_and_everyone_s_with_names_when_asked(house):
    assert [line[0] for line in house.ask()["list"]["lines"]] == [house.run.id]
    stranger = house.ask(mine=False)
    assert stranger["list"]["lines"] == [] and stranger["list"]["total"] == 0 and not stranger["list"]["busy"]
    assert stranger["you"]["others"] and stranger["queue"] == "1 running"
    house.people.rename(house.owner, " Ada\n <i> ")
    everyone = house.ask(mine=False, all="1", run=house.run.id)
    (line,) = everyone["list"]["lines"]
    assert line[0] == house.run.id and "Ada &lt;i&gt;" in line[1] and "Ada &lt;i&gt;" in everyone["card"]["html"]
    own = house.ask(run=house.run.id)
    assert own["you"]["name"] == "Ada <i>" and "Ada" not in own["list"]["lines"][0][1] + own["card"]["html"]
    assert not own["you"]["others"], "who is alone is not asked whose runs to show"


def test_who_waits_for_their_own_limit_is_told_so(house, monkeypatch):
    waiting = house.store.create(RunConfig())
    jobs = [house.job, Job(waiting.id, house.owner, "queued", 1, "next", 0.0, position=1, eta=30.0)]
    monkeypatch.setattr(house.supervisor, "jobs", lambda: jobs)
    monkeypatch.setattr(house.supervisor, "job", lambda id: jobs[1])
    assert "1 of one person run at once" in house.ask(run=waiting.id)["card"]["html"]
    house.supervisor.limits = Limits()
    assert "It starts in" in house.ask(run=waiting.id)["card"]["html"]

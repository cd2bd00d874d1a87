"""What one person may have of a shared server, on a runner without processes; and which base models it takes."""

from pathlib import Path

import pytest

from lora_playground.errors import ConfigError, JobError, ModelError
from lora_playground.jobs.limits import ALONE, SHARED, Limits
from lora_playground.jobs.people import People
from lora_playground.jobs.supervisor import Supervisor
from lora_playground.launch import is_loopback
from lora_playground.models import sources
from lora_playground.models.catalogue import list_models, resolve
from lora_playground.models.loading import _wanted
from tests.checkpoints import make_checkpoint
from tests.jobs.support import FakeRunner, config, wait_until


def queue(home: Path, fake: FakeRunner, limits: Limits, slots: int = 1) -> Supervisor:
    return Supervisor(home, fake, slots=slots, limits=limits, replay=False, admit=lambda *_: [])


def test_each_limit_is_of_one_person_and_said_in_words(home: Path) -> None:
    fake = FakeRunner()
    with queue(home, fake, Limits(waiting=1, runs=3, gigabytes=0.001)) as supervisor:
        first = supervisor.submit(config("sleep"), "ada")
        wait_until(lambda: supervisor.job(first.id).running)
        second = supervisor.submit(config("sleep"), "ada")
        with pytest.raises(JobError, match="1 run waiting, and 1 is allowed"):
            supervisor.submit(config("sleep"), "ada")
        fake.finish(1)
        wait_until(lambda: supervisor.job(first.id).ended)
        wait_until(lambda: len(fake.started) == 2)
        third = supervisor.submit(config("sleep"), "ada")
        supervisor.cancel(third.id)
        with pytest.raises(JobError, match="3 runs here, and 3 are kept"):
            supervisor.submit(config("sleep"), "ada")
        supervisor.delete(third.id)
        (supervisor.runs.get(second.id).folder / "large").write_bytes(bytes(1_100_000))
        with pytest.raises(JobError, match=r"0\.00 GB, and 0\.001 GB are kept"):
            supervisor.submit(config("sleep"), "ada")
        supervisor.submit(config("quick"), "bob")
    ALONE.check_uploads(1000), ALONE.check_chats(1000), ALONE.check_kept(1000, 10**12)
    for check in (SHARED.check_uploads, SHARED.check_chats):
        with pytest.raises(JobError, match=r"keeps 20|3 at once"):
            check(1000)


def test_one_person_runs_no_more_at_once_than_is_allowed_even_alone(home: Path) -> None:
    fake = FakeRunner()
    with queue(home, fake, Limits(running=2), slots=3) as supervisor:
        jobs = [supervisor.submit(config("sleep"), "ada") for _ in range(3)]
        wait_until(lambda: len(fake.started) == 2)
        assert supervisor.dispatcher._next() is None and jobs[2].id not in fake.started
        fake.finish(1)
        wait_until(lambda: jobs[2].id in fake.started)
        bob = supervisor.submit(config("sleep"), "bob")
        wait_until(lambda: bob.id in fake.started)


def test_limits_are_read_from_the_command_line() -> None:
    assert Limits.parse("running=1, gigabytes=2.5", SHARED).waiting == SHARED.waiting
    assert Limits.parse("running=1,gigabytes=2.5", SHARED).gigabytes == 2.5 and Limits.parse("", ALONE) == ALONE
    for wrong in ("walking=1", "runs", "runs=-1", "runs=x", "gigabytes=nan"):
        with pytest.raises(JobError, match="give NAME=NUMBER"):
            Limits.parse(wrong, ALONE)
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("example.org")


def test_names_are_kept_and_a_login_has_its_own(home: Path) -> None:
    home.mkdir()
    people = People(home)
    assert people.name("user:eve") == "eve" and people.name("abc") == ""
    assert (
        people.rename("abc", "  Ada\n Lovelace " + "x" * 99) == people.name("abc") == ("Ada Lovelace " + "x" * 99)[:40]
    )
    assert People(home).name("abc") == people.name("abc") and People(home).rename("abc", " ") == ""
    with pytest.raises(JobError, match="cookie"):
        people.rename("", "nobody")


def test_a_shared_server_takes_listed_models_and_named_folders_only(tmp_path: Path, monkeypatch) -> None:
    inside, outside = tmp_path / "models" / "tiny", tmp_path / "private"
    make_checkpoint(inside)
    make_checkpoint(outside)
    (tmp_path / "models" / "link").symlink_to(outside)
    for name in (sources.SHARED_VARIABLE, sources.MODELS_VARIABLE, sources.DOWNLOAD_VARIABLE):
        monkeypatch.setenv(name, "")
    assert resolve(str(outside)) == outside.resolve(), "a server for its owner takes any folder"
    sources.share([str(inside)], shared=True, largest=1)
    assert str(inside.resolve()) in [card.source for card in list_models()] and resolve(str(inside)) == inside.resolve()
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B" and resolve("embedded").name == "embedded"
    said = set()
    for path in (outside, tmp_path, tmp_path / "absent", Path("/etc"), tmp_path / "models" / "link"):
        with pytest.raises(ConfigError) as refused:
            resolve(str(path))
        said.add(str(refused.value).partition("is not allowed")[2])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        resolve("models/link")  # looks like a hub id, and is a folder here
    assert len(said) == 1 and said != {""}, "they tell nobody what exists"
    assert _wanted("some/model", {"model.safetensors": 10**9}) == ["model.safetensors"]
    with pytest.raises(ModelError, match=r"has 2\.0 GB, and this server fetches up to 1 GB"):
        _wanted("some/model", {"model.safetensors": 2 * 10**9, "config.json": 10})
    with pytest.raises(ModelError, match="is no folder"):
        sources.share([str(tmp_path / "absent")])

"""The run folder: whole files or none, torn lines, ids, and every write failing once."""

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

import lora_playground.variants  # noqa: F401  (the schemas of stored configs)
from lora_playground.config import RunConfig
from lora_playground.errors import RunError
from lora_playground.runs import Run, RunStore, folder
from lora_playground.runs.files import DiskFull, is_disk_full, publish, write_json
from lora_playground.runs.folder import ID_PATTERN
from tests.faults import FaultyOs


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "home")


def test_create_and_read_back(store: RunStore) -> None:
    config = RunConfig.parse({"variant": {"name": "lora", "rank": 3}, "training": {"steps": 7}})
    run = store.create(config)
    again = store.get(run.id)
    assert again.config() == config
    assert ID_PATTERN.fullmatch(run.id)
    assert again.state() == "queued" and again.result() is None and again.error() is None


def test_newest_first_and_delete(store: RunStore) -> None:
    made = [store.create(RunConfig()).id for _ in range(3)]
    assert sorted(run.id for run in store.list()) == sorted(made)
    assert [run.id for run in store.list()] == sorted(made, reverse=True)
    store.delete(made[1])
    assert made[1] not in [run.id for run in store.list()]
    with pytest.raises(RunError, match="no run"):
        store.get(made[1])


@pytest.mark.parametrize("bad", ["../x", "", "a" * 65, "a/b", "..", "x\n", "ümlaut", ".lock", None, 5])
def test_malformed_ids_touch_nothing(store: RunStore, bad: object) -> None:
    with pytest.raises(RunError, match="not a run's id"):
        store.get(bad)  # type: ignore[arg-type]


def test_a_link_out_of_the_home_is_no_run(store: RunStore, tmp_path: Path) -> None:
    outside = RunStore(tmp_path / "other").create(RunConfig())
    store.folder.mkdir(parents=True)
    (store.folder / "link").symlink_to(outside.folder)
    with pytest.raises(RunError):
        store.get("link")
    assert store.list() == []


def test_events_carry_time_and_attempt(store: RunStore) -> None:
    run = store.create(RunConfig())
    run.append({"type": "phase", "phase": "loading"})
    run.begin(2)
    run.append({"type": "phase", "phase": "training"})
    events, offset = run.events()
    assert [event["attempt"] for event in events] == [1, 2]
    assert all(isinstance(event["t"], float) for event in events)
    assert run.events(offset) == ([], offset)
    run.append({"type": "checkpoint", "step": 5})
    more, end = run.events(offset)
    assert [event["type"] for event in more] == ["checkpoint"] and end > offset


def test_torn_last_line_waits_and_does_not_spoil_the_next(store: RunStore) -> None:
    run = store.create(RunConfig())
    run.append({"type": "validation", "step": 1, "loss": 2.0})
    with open(run.events_path, "ab") as file:
        file.write(b'{"type":"loss","steps":[1,2')
    events, offset = run.events()
    assert [event["type"] for event in events] == ["validation"]
    later = store.get(run.id)
    later.begin(2)
    later.append({"type": "phase", "phase": "loading"})
    assert [event["type"] for event in later.events(offset)[0]] == ["phase"]
    assert [event["type"] for event in later.events()[0]] == ["validation", "phase"]


def test_events_from_threads_stay_whole_lines(store: RunStore) -> None:
    run = store.create(RunConfig())

    def write(name: str) -> None:
        for number in range(50):
            run.append({"type": "message", "level": "info", "text": name * 200, "number": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events, _ = run.events()
    assert len(events) == 200 and len(run.events_path.read_bytes().splitlines()) == 200


@pytest.mark.parametrize("n", range(1, 5))
def test_write_json_is_all_or_nothing_at_every_failing_call(tmp_path: Path, monkeypatch, n: int) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"version": 1})
    faulty = FaultyOs(n)
    faulty.install(monkeypatch)
    with pytest.raises(DiskFull, match=r"disk is full .*MB free"):
        write_json(path, {"version": 2})
    monkeypatch.undo()
    assert faulty.fired
    # The fourth call is the folder's fsync: the rename has happened then. Before it, the old file stands.
    assert json.loads(path.read_text()) == {"version": 2 if n == 4 else 1}
    assert list(tmp_path.iterdir()) == [path]


def test_no_further_write_is_left_uncovered(tmp_path: Path, monkeypatch) -> None:
    faulty = FaultyOs(5)
    faulty.install(monkeypatch)
    write_json(tmp_path / "result.json", {})
    assert not faulty.fired


@pytest.mark.parametrize("n", range(1, 12))
def test_publishing_a_folder_leaves_old_or_new(tmp_path: Path, monkeypatch, n: int) -> None:
    for name, text in (("adapter", "old"), ("adapter.new.tmp", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(text)
        (tmp_path / name / "b").write_text(text)
    faulty = FaultyOs(n)
    faulty.install(monkeypatch)
    try:
        publish(tmp_path / "adapter.new.tmp", tmp_path / "adapter")
    except DiskFull:
        assert faulty.fired
    monkeypatch.undo()
    texts = {(tmp_path / "adapter" / name).read_text() for name in "ab"}
    assert texts in ({"old"}, {"new"})


@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_tears_at_most_its_own_event(store: RunStore, monkeypatch, short: bool) -> None:
    run = store.create(RunConfig())
    run.append({"type": "validation", "step": 1, "loss": 2.0})
    FaultyOs(1, short).install(monkeypatch)
    with pytest.raises(DiskFull):
        run.append({"type": "validation", "step": 2, "loss": 1.0})
    monkeypatch.undo()
    run.append({"type": "validation", "step": 3, "loss": 0.5})
    assert [event["step"] for event in run.events()[0]] == [1, 3]


def test_create_leaves_no_folder_when_the_disk_is_full(store: RunStore, monkeypatch) -> None:
    FaultyOs(1).install(monkeypatch)
    with pytest.raises(DiskFull):
        store.create(RunConfig())
    monkeypatch.undo()
    assert list(store.folder.iterdir()) == []


def test_a_home_that_cannot_be_written_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file" / "home", Path("/proc/home")):
        with pytest.raises(RunError, match="--home"):
            RunStore(home).create(RunConfig())


def test_state_follows_the_folder(store: RunStore) -> None:
    run = store.create(RunConfig())
    with run.locked():
        assert run.alive() and run.state() == "loading"
        run.append({"type": "phase", "phase": "training"})
        assert store.get(run.id).state() == "training"
        with pytest.raises(RunError, match="already"):
            with store.get(run.id).locked():
                pass
        with pytest.raises(RunError, match="stop it first"):
            store.delete(run.id)
    assert run.state() == "interrupted"
    run.log_path.write_text("\n".join(f"line {number}" for number in range(100)))
    error = run.fail("oom", "no memory")
    assert run.state() == "failed" and error["log"][0] == "line 60" and len(error["log"]) == 40
    run.begin(2)
    assert run.error() is None
    write_json(run.result_path, {"state": "done"})
    assert run.state() == "done"


def test_words_of_other_libraries_for_a_full_disk() -> None:
    assert is_disk_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    try:
        try:
            raise OSError(errno.EFBIG, "File too large")
        except OSError as inner:
            raise ValueError("could not save") from inner
    except ValueError as outer:
        assert is_disk_full(outer)
    assert not is_disk_full(ValueError("rank"))


def test_default_home(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORA_PLAYGROUND_HOME", str(tmp_path))
    assert RunStore().home == tmp_path
    monkeypatch.delenv("LORA_PLAYGROUND_HOME")
    assert RunStore().home == Path.home() / ".lora-playground"


def test_sweep_removes_only_what_is_half_written(store: RunStore) -> None:
    run = store.create(RunConfig())
    (run.folder / "adapter.1.tmp").mkdir()
    (run.checkpoints / "step-5").mkdir(parents=True)
    (run.checkpoints / "step-6.tmp").mkdir()
    (run.folder / "result.json.ab.tmp").write_text("{")
    run.sweep()
    assert sorted(path.name for path in run.folder.iterdir()) == ["checkpoints", "config.json"]
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-5"]


def test_run_of_a_folder_alone(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.json"):
        Run(tmp_path).config()


def test_a_look_at_a_run_does_not_refuse_who_begins_it(store: RunStore, monkeypatch) -> None:
    run = store.create(RunConfig())
    with run.locked():
        pass
    looking = os.open(run.folder / ".lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as `alive` in another process, at the wrong moment
    waits = []
    monkeypatch.setattr(
        folder.time, "sleep", lambda seconds: (waits.append(seconds), fcntl.flock(looking, fcntl.LOCK_UN))
    )
    with run.locked():
        assert run.alive()
    os.close(looking)
    assert len(waits) == 1 and not run.alive()

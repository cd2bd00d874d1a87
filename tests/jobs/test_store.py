"""The table of jobs: transitions by compare-and-set, nonces, damage, and every statement failing once."""

import sqlite3
import threading
from pathlib import Path

import pytest

from lora_playground.errors import JobError
from lora_playground.jobs.store import ALLOWED, PHASES, RESUMABLE, TERMINAL, JobStore


@pytest.fixture
def store():
    store = JobStore(Path(":memory:"))
    yield store
    store.close()


def put(store: JobStore, id: str, state: str) -> None:
    """Adds a job and brings it into a state by allowed moves."""
    assert store.add(id, "ann", None)
    if state == "queued":
        return
    if state in PHASES or state in TERMINAL:
        assert store.move(id, 1, "loading")
    if state != "loading":
        assert store.move(id, 1, state)


@pytest.mark.parametrize("source", ["queued", *PHASES, *TERMINAL])
@pytest.mark.parametrize("target", list(ALLOWED))
def test_every_transition_is_allowed_or_refused(store: JobStore, source: str, target: str) -> None:
    put(store, "a", source)
    assert store.move("a", 1, target) == (source in ALLOWED[target])
    row = store.get("a")
    assert row is not None and row.state == (target if source in ALLOWED[target] else source)


@pytest.mark.parametrize("state", TERMINAL)
def test_final_states_are_final_until_a_new_attempt(store: JobStore, state: str) -> None:
    put(store, "a", state)
    assert not any(store.move("a", 1, target) for target in ALLOWED)
    assert not store.set("a", 1, error_code="late")
    assert not store.withdraw("a", 1, 0.0)
    assert store.restart("a", 1) == (state in RESUMABLE)
    if state in RESUMABLE:
        assert not store.restart("a", 1), "asked twice, begun once"
        assert not store.move("a", 1, "loading"), "the first attempt is over"
        row = store.get("a")
        assert row is not None and (row.state, row.attempt) == ("queued", 2)
        assert store.move("a", 2, "loading")


def test_one_of_many_threads_wins_a_transition(store: JobStore) -> None:
    put(store, "a", "queued")
    won = []
    barrier = threading.Barrier(8)

    def race() -> None:
        barrier.wait()
        if store.move("a", 1, "loading"):
            won.append(1)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_nonce_is_its_owners(store: JobStore) -> None:
    assert store.add("a", "ann", "n1")
    assert not store.add("b", "ann", "n1")
    assert store.add("c", "bob", "n1")
    assert store.add("d", "ann", None) and store.add("e", "ann", None)
    assert not store.add("a", "eve", "n9"), "an id is taken once"
    found = store.by_nonce("ann", "n1")
    assert found is not None and found.id == "a"
    assert store.by_nonce("eve", "n1") is None


def test_rows_survive_reopening(tmp_path: Path) -> None:
    first = JobStore(tmp_path / "jobs.db")
    put(first, "a", "queued")
    first.move("a", 1, "loading", handle={"pid": 7, "token": "t"}, started=1.0)
    first.close()
    second = JobStore(tmp_path / "jobs.db")
    row = second.get("a")
    assert row is not None and row.handle == {"pid": 7, "token": "t"} and row.started == 1.0 and second.message == ""
    second.close()


def test_use_and_typical_time(store: JobStore) -> None:
    for id, owner, used in (("a", "ann", 10.0), ("b", "ann", 5.0), ("c", "bob", 3.0)):
        store.add(id, owner, None)
        store.move(id, 1, "loading")
        store.move(id, 1, "done", used=used, finished=100.0)
    assert store.recent_use(50.0) == {"ann": 15.0, "bob": 3.0}
    assert store.recent_use(200.0) == {}
    assert store.typical_seconds() == 5.0


def test_unknown_columns_are_a_mistake(store: JobStore) -> None:
    put(store, "a", "queued")
    with pytest.raises(ValueError, match="owner"):
        store.set("a", 1, owner="eve")


@pytest.mark.parametrize(
    "damage",
    [b"this is no database at all" * 100, b"", None],
    ids=["garbage", "empty", "another schema"],
)
def test_a_damaged_table_is_set_aside(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "jobs.db"
    if damage is None:
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE jobs (something TEXT, state TEXT)")
        db.commit()
        db.close()
    else:
        path.write_bytes(damage)
    store = JobStore(path)
    assert store.add("a", "ann", None)
    aside = [found for found in tmp_path.iterdir() if "damaged" in found.name]
    if damage == b"":
        assert store.message == "" and not aside
    else:
        assert "set aside" in store.message and len(aside) == 1
    store.close()


def test_a_table_torn_in_the_middle_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    store = JobStore(path)
    for number in range(30):
        store.add(f"job-{number}", "ann" * 600, None)
    store.close()
    data = bytearray(path.read_bytes())
    data[4096 : len(data) - 4096] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    store = JobStore(path)
    assert "set aside" in store.message and store.list() == []
    store.close()


def test_a_table_that_cannot_be_opened_is_refused_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").mkdir()
    with pytest.raises(JobError, match="--home"):
        JobStore(tmp_path / "jobs.db")
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.db"]


def test_a_full_disk_leaves_each_change_whole(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    put(store, "a", "queued")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    added = []
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for number in range(1000):
            store.add(f"more-{number}", "x" * 500, None)
            added.append(number)
    assert len(store.list()) == 1 + len(added)
    store._db.execute("PRAGMA max_page_count = 100000")
    assert store.add("after", "ann", None) and store.move("a", 1, "loading")
    assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    store.close()

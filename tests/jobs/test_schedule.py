"""Whose turn is next: one who asks for fifty does not make the others wait."""

from lora_playground.jobs.schedule import plan_queue
from lora_playground.jobs.store import Row


def row(id: str, owner: str, queued: float) -> Row:
    return Row(id, owner, None, "", "queued", 1, None, False, None, None, queued, queued, None, None, 0.0)


def order(rows, use=None, remaining=(), slots=1, typical=None):
    return [row.id for row, _ in plan_queue(rows, use or {}, list(remaining), slots, typical)]


def test_one_owner_first_come_first_served() -> None:
    assert order([row("a", "ann", 1), row("b", "ann", 2), row("c", "ann", 3)]) == ["a", "b", "c"]


def test_fifty_jobs_of_one_do_not_hold_up_another() -> None:
    many = [row(f"a{number:02}", "ann", number) for number in range(50)]
    assert order([*many, row("b", "bob", 99)], use={"ann": 30.0})[0] == "b"
    assert order([*many, row("b", "bob", 99)])[:3] == ["a00", "b", "a01"]


def test_least_recent_use_goes_first() -> None:
    rows = [row("a", "ann", 1), row("b", "bob", 2), row("c", "eve", 3)]
    assert order(rows, use={"ann": 100.0, "bob": 10.0, "eve": 50.0}, typical=1.0) == ["b", "c", "a"]


def test_waiting_times_add_up() -> None:
    rows = [row("a", "ann", 1), row("b", "bob", 2), row("c", "eve", 3)]
    assert [eta for _, eta in plan_queue(rows, {}, [12.0], 1, 30.0)] == [12.0, 42.0, 72.0]
    assert [eta for _, eta in plan_queue(rows, {}, [12.0], 2, 30.0)] == [0.0, 12.0, 30.0]
    assert [eta for _, eta in plan_queue(rows, {}, [None], 1, 30.0)] == [None, None, None], (
        "nothing known, nothing told"
    )
    assert [eta for _, eta in plan_queue(rows, {}, [], 1, None)] == [0.0, None, None]

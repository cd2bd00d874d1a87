"""The choice of threads, on a machine that is a formula: no clock of ours, no load."""

import pytest

from lora_playground.training.threads import SHARE, Threads, levels


class Machine:
    """Steps take 1 s on one thread and less on more, unless somebody else computes: then more threads take longer."""

    def __init__(self, cores: int = 2, busy: int = 0) -> None:
        self.cores, self.busy, self.count, self.now, self.best = cores, busy, 0, 0.0, 0.0
        self.threads = Threads(levels(cores), self.use, self.free, lambda: self.now)

    def use(self, count: int) -> None:
        self.count = count

    def free(self) -> float:
        return self.cores - self.busy

    def seconds(self, count: int) -> float:
        return 1 / count**0.7 if count <= max(1, self.cores - self.busy) else 8.0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            took = self.seconds(self.count)
            self.now += took
            self.best += min(map(self.seconds, self.threads.levels))
            self.threads.took(took)


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_who_says_how_many_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(6) == [1, 2, 4, 6]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert levels(6) == [1, 2]


@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_alone_it_takes_all_cores_and_one_beside_others(cores: int) -> None:
    machine = Machine(cores)
    machine.run(8)
    assert machine.count == cores
    machine.busy = cores
    machine.run(40)
    assert machine.count == 1
    machine.busy = 0
    machine.run(40)
    assert machine.count == cores


def test_runs_that_begin_at_the_same_moment_share_the_cores_after_one_step() -> None:
    machine = Machine()
    machine.busy = 2
    machine.run(1)
    assert machine.count == 1
    machine.run(10)
    assert machine.count == 1 and machine.now < 20


def test_looking_again_costs_little() -> None:
    machine = Machine(busy=1)
    machine.run(5)
    machine.threads._free = lambda: 2.0  # as where a container has fewer cores than the system counts
    machine.run(5000)
    assert machine.count == 1 and machine.now <= machine.best * (1 + 2 * SHARE)


def test_a_single_number_is_used() -> None:
    used: list[int] = []
    threads = Threads([3], used.append, lambda: 1.0)
    for _ in range(20):
        threads.took(0.1)
    assert used == [3]

"""Where jobs run: small ones one a core, a large one alone, and as many on a GPU as its memory has room for."""

from pathlib import Path

import pytest

from lora_playground.config import RunConfig
from lora_playground.estimates.memory import MemoryEstimate
from lora_playground.jobs import placement
from lora_playground.jobs.placement import LARGE, Place, Placement
from lora_playground.machine.device import Gpu

SMALL, BIG, UNKNOWN = (RunConfig.parse({"title": title}) for title in ("small", "large", "unknown"))
GB = 10**9


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, 16 GB of free memory, no GPU; a small run needs 1 GB, a large one 10 GB."""

    def known(config: RunConfig, *_: object) -> MemoryEstimate | None:
        size, parameters = {"small": (GB, LARGE // 2), "large": (10 * GB, LARGE)}.get(config.title, (0, 0))
        return MemoryEstimate(0, parameters, 0, {}, size, (0, 0)) if size else None

    monkeypatch.setattr(placement, "known_memory", known)
    monkeypatch.setattr(placement, "cores", lambda: 4)
    monkeypatch.setattr(placement, "gpus", list)
    monkeypatch.setattr(placement.memory, "free", lambda: 16 * GB)


def filled(where: Placement, config: RunConfig) -> list[Place]:
    """Places for as many runs of this config as fit."""
    taken: list[Place] = []
    while (place := where.find(config, taken)) is not None:
        taken.append(place)
    return taken


def test_as_many_small_runs_as_cores_and_a_large_one_alone() -> None:
    where = Placement()
    small = filled(where, SMALL)
    assert len(small) == where.slots == 4 and {place.gpu for place in small} == {None}
    for config in (BIG, UNKNOWN):
        (large,) = filled(where, config)
        assert large.alone and where.find(SMALL, [large]) is None and where.find(config, small[:1]) is None


def test_the_number_that_was_asked_for_is_kept() -> None:
    assert len(filled(Placement(2), BIG)) == 2
    assert len(filled(Placement(1), SMALL)) == 1


def test_a_run_beside_others_needs_its_memory_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.memory, "free", lambda: GB // 2)
    assert len(filled(Placement(), SMALL)) == 1, "alone it may try"


def test_each_gpu_takes_what_fits_and_each_process_sees_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Gpu("0", "A", 2 * GB, 24 * GB), Gpu("GPU-1", "B", 0, 32 * GB)]
    monkeypatch.setattr(placement, "gpus", lambda: cards)
    assert [place.gpu for place in filled(Placement(9), BIG)] == ["GPU-1", "0", "GPU-1", "0", "GPU-1"]
    assert [place.gpu for place in filled(Placement(9), UNKNOWN)] == ["GPU-1", "0"], "one each, of unknown size"
    monkeypatch.setattr(placement, "gpus", lambda: cards[:1])
    assert [place.gpu for place in filled(Placement(9), BIG)] == [None, None], "the only one needs no naming"
    assert len(filled(Placement(), SMALL)) == 4, "not more than cores"


def test_a_worker_uses_the_gpu_that_it_was_given(tmp_path: Path) -> None:
    from lora_playground.jobs.runner import LocalRunner
    from lora_playground.runs import RunStore
    from tests.jobs.support import STUB, config, wait_until

    runner = LocalRunner(tmp_path, STUB, warm=False)
    run = RunStore(tmp_path).create(config("gpu"))
    handle = runner.submit(run.folder, 1, "GPU-7")
    try:
        wait_until(lambda: runner.poll(handle) is not None)
        assert "CUDA_VISIBLE_DEVICES=GPU-7" in run.log_tail()
    finally:
        runner.close()

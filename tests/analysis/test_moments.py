"""Updates over the steps of a training: which steps are kept, and that a full disk stops nothing."""

from pathlib import Path

import numpy as np
import pytest

from lora_playground.analysis import moments as module
from lora_playground.analysis.moments import Moments, moments
from lora_playground.analysis.update import Update, load_updates

NOISE = np.random.default_rng(0)
NAME = "model.layers.0.q_proj"


def update(rank: int = 3) -> Update:
    B, A = NOISE.standard_normal((40, rank)), NOISE.standard_normal((rank, 30))
    return Update(NAME, B.astype(np.float32), A.astype(np.float32))


def test_later_moments_are_farther_apart_and_the_end_is_none(tmp_path: Path) -> None:
    kept, given = Moments(tmp_path / "moments", 64), [update() for _ in range(65)]
    for step in range(65):
        kept.keep(step, [given[step], Update("norm", dense=np.ones((4, 4), np.float32))])
    found = moments(kept.folder)
    assert list(found) == [1, 2, 4, 8, 16, 32], "not the last step, which the run keeps itself"
    (only,) = load_updates(found[8])
    assert only.name == NAME and only.B is not None, "a dense update is left out"
    np.testing.assert_array_equal(only.matrix(), given[8].matrix())
    Moments(kept.folder, 64).keep(33, [update()])  # a resumed run repeats the steps since its checkpoint
    assert list(moments(kept.folder)) == list(found)


def test_no_more_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2000)
    kept = Moments(tmp_path, 100)
    for step in range(1, 100):
        kept.keep(step, [update()])
    assert list(moments(tmp_path)) == [1, 2], "840 bytes of numbers each"


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "moments").write_text("in the way")
    Moments(tmp_path / "moments", 9).keep(1, [update()])
    assert moments(tmp_path / "moments") == {}

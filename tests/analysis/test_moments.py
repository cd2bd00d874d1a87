"""Directions over the steps of a training: which steps are kept, how exactly, and that a full disk stops nothing."""

from pathlib import Path

import numpy as np
import pytest

from lora_playground.analysis import moments as module
from lora_playground.analysis.moments import Moments, load_moment, moments
from lora_playground.analysis.update import Update

NOISE = np.random.default_rng(0)


def update(rank: int = 3, scale: float = 1.0) -> Update:
    B, A = scale * NOISE.standard_normal((40, rank)), NOISE.standard_normal((rank, 30))
    return Update("model.layers.0.q_proj", B.astype(np.float32), A.astype(np.float32))


def test_later_moments_are_farther_apart_and_the_end_is_none(tmp_path: Path) -> None:
    kept = Moments(tmp_path / "moments", 100)
    for step in range(101):
        kept.keep(step, [update()])
    steps = list(moments(kept.folder))
    assert steps[:5] == [1, 2, 3, 5, 8] and steps[-1] < 100 and len(steps) < 12
    Moments(kept.folder, 100).keep(steps[-1], [update()])  # a resumed run repeats the steps since its checkpoint
    assert list(moments(kept.folder)) == steps


def test_directions_are_kept_to_half_precision_also_where_factors_cancel(tmp_path: Path) -> None:
    """As of PiSSA, whose update is the small difference of two large products."""
    large, small = update(2, 100.0), update(2, 1e-3)
    assert large.B is not None and large.A is not None and small.B is not None and small.A is not None
    B = np.concatenate([large.B + small.B, -large.B], 1)
    both = Update(large.name, B, np.concatenate([large.A, large.A], 0))
    Moments(tmp_path, 9).keep(1, [both, Update("dense", dense=np.ones((4, 4), np.float32))])
    found = load_moment(moments(tmp_path)[1])
    U, values, Vt = found.pop(large.name)
    assert not found, "a dense update is not kept"
    W = both.matrix()
    assert np.linalg.norm((U * values) @ Vt - W) < 2e-3 * np.linalg.norm(W)


def test_no_more_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    kept = Moments(tmp_path, 100)
    for step in range(1, 100):
        kept.keep(step, [update()])
    assert list(moments(tmp_path)) == [1, 2], "432 bytes of numbers each"


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "moments").write_text("in the way")
    Moments(tmp_path / "moments", 9).keep(1, [update()])
    assert moments(tmp_path / "moments") == {}

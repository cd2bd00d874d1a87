"""How alike updates are: against dense float64, and with places that are known."""

import numpy as np
import pytest

from lora_playground.analysis.adapter_map import cosines, inner_products, plane
from lora_playground.analysis.update import Update


def factors(draw: np.random.Generator, name: str, out: int, rank: int, width: int) -> Update:
    return Update(name, draw.normal(size=(out, rank)).astype("f4"), draw.normal(size=(rank, width)).astype("f4"))


def test_inner_products_are_those_of_the_dense_matrices() -> None:
    draw = np.random.default_rng(1)
    runs = [
        [factors(draw, "q", 12, 3, 7), factors(draw, "v", 5, 1, 9)],
        [factors(draw, "q", 12, 6, 7)],  # it has one module fewer
        [Update("q", dense=draw.normal(size=(12, 7)).astype("f4")), factors(draw, "v", 5, 2, 9)],
        [Update("q", dense=draw.normal(size=(12, 7)).astype("f4")), Update("norm", dense=draw.normal(size=4))],
        [factors(draw, "q", 4, 2, 7)],  # of another shape: nothing in common
    ]
    dense = [{update.name: update.matrix() for update in updates} for updates in runs]
    expected = [
        [sum(np.sum(a[n] * b[n]) for n in a if n in b and a[n].shape == b[n].shape) for b in dense] for a in dense
    ]
    np.testing.assert_allclose(inner_products(runs), expected, rtol=1e-12, atol=1e-9)


def test_cosines_of_equal_opposite_and_orthogonal_updates() -> None:
    one = Update("q", np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]))
    twice = Update("q", np.array([[2.0], [0.0]]), np.array([[1.0, 0.0]]))
    against = Update("q", np.array([[-1.0], [0.0]]), np.array([[3.0, 0.0]]))
    aside = Update("q", np.array([[0.0], [1.0]]), np.array([[1.0, 0.0]]))
    zero = Update("q", np.zeros((2, 1)), np.ones((1, 2)))
    found = cosines(inner_products([[one], [twice], [against], [aside], [zero]]))
    np.testing.assert_allclose(found[0], [1, 1, -1, 0, 0], atol=1e-12)
    assert found[4, 4] == 1 and np.all(np.abs(found) <= 1)


def test_the_plane_keeps_what_lies_in_a_plane_and_says_what_it_leaves_out() -> None:
    angles = np.array([0.0, 0.3, 1.5, 4.0])
    units = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # unit vectors of a plane through the origin
    places, share = plane(units @ units.T)
    assert share == pytest.approx(1.0)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.testing.assert_allclose(apart, np.linalg.norm(units[:, None] - units[None], axis=-1), atol=1e-9)
    np.testing.assert_allclose(apart, np.sqrt(np.maximum(0, 2 - 2 * units @ units.T)), atol=1e-7)
    _, share = plane(np.eye(5))  # four equal axes, of which two are shown
    assert share == pytest.approx(0.5)
    for n in (0, 1, 2):
        assert plane(np.eye(n))[0].shape == (n, 2)

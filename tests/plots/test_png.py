"""The picture of singular values that programs get: read back, pixel by pixel, against where the numbers belong."""

import io

import numpy as np
from PIL import Image

from lora_playground.plots.png import SIZE, scree_png
from lora_playground.plots.style import run_colour


def dots(picture: bytes, colour: str) -> np.ndarray:
    """(x, y) of the pixels of a colour below the legend."""
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero(np.abs(image - wanted).sum(axis=2) < 12)
    kept = (columns < SIZE[0] * 0.7) & (rows > 58)
    return np.stack([columns[kept], rows[kept]], axis=1)


def test_values_stand_in_order_on_a_logarithmic_axis():
    picture = scree_png("a title", [("", [1.0, 0.1, 0.01, 0.001, 0.001, 0.001, 0.001, 0.001])])
    found = dots(picture, run_colour(0))
    heights = [np.median(found[np.abs(found[:, 0] - x) <= 1][:, 1]) for x in (141, 239, 337)]
    steps = np.diff(heights)
    assert Image.open(io.BytesIO(picture)).size == SIZE
    assert steps[0] > 60 and abs(steps[0] - steps[1]) <= 2, "each tenth is as far down as the one before"


def test_a_second_run_has_its_own_colour_and_nothing_learned_is_said():
    both = scree_png("two", [("a", [1.0, 0.5]), ("b", [0.8, 0.2])])
    assert len(dots(both, run_colour(0))) > 20 and len(dots(both, run_colour(1))) > 20
    for values in ([], [0.0, 0.0]):
        assert len(dots(scree_png("none", [("a", values)]), run_colour(0))) == 0

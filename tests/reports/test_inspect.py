"""Pictures that explain an image: the arrays that are drawn are those that are given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selflabel.files.palette import mixed, voc_palette
from selflabel.reports import contours, inspect
from selflabel.reports.inspect import Scene

pytest.importorskip("matplotlib")

SIZE = (9, 12)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be written."""
    found: list[Any] = []
    for module in (inspect, contours):
        monkeypatch.setattr(module, "save", lambda figure, file, cropped: found.append(figure))
    return found


def scene(rng: np.random.Generator) -> Scene:
    seeds = np.full(SIZE, 255, np.uint8)
    seeds[1, 2:5], seeds[6, 7] = 3, 8
    probs = rng.dirichlet((1, 1), SIZE).astype(np.float32).transpose(2, 0, 1)
    return Scene(rng.random((*SIZE, 3), dtype=np.float32), seeds, np.array([3, 8], np.uint8), probs)


def shown(figure: Any, title: str, row: int = 0) -> np.ndarray:
    """The array in the column of a title."""
    places = {axis.get_title(): place for place, axis in enumerate(figure.axes) if axis.get_title()}
    columns = figure.axes[0].get_gridspec().ncols
    array: np.ndarray = np.asarray(figure.axes[places[title] + row * columns].images[0].get_array())
    return array


@pytest.mark.quick
def test_soft_labels_are_mixtures_of_colors(drawn: list[Any], rng: np.random.Generator) -> None:
    own = scene(rng)
    labels = rng.dirichlet((1, 1), SIZE).astype(np.float32).transpose(2, 0, 1)
    inspect.draw_soft_labels(own, {"a": labels}, Path("a.png"))
    colors = voc_palette().astype(np.float64)
    expected = labels[0][..., None] * colors[3] + labels[1][..., None] * colors[8]
    assert np.abs(shown(drawn[0], "a") - expected).max() <= 0.51
    np.testing.assert_array_equal(shown(drawn[0], "prediction"), mixed(own.probs, own.classes))


def test_gradients_are_drawn_as_they_are(drawn: list[Any], rng: np.random.Generator) -> None:
    own = scene(rng)
    gradient = rng.normal(size=(2, *SIZE)).astype(np.float32)
    inspect.draw_gradients(own, {"a": gradient, "b": -gradient}, Path("a.png"), shown=[1, 0])
    np.testing.assert_array_equal(shown(drawn[0], "a"), gradient[1])
    np.testing.assert_array_equal(shown(drawn[0], "b", row=1), -gradient[0])
    np.testing.assert_array_equal(shown(drawn[0], "prediction", row=1), own.probs[0])


def test_a_class_without_gradients_is_drawn(drawn: list[Any], rng: np.random.Generator) -> None:
    own = scene(rng)
    inspect.draw_gradients(own, {"a": np.zeros_like(own.probs)}, Path("a.png"), shown=[0])
    assert not shown(drawn[0], "a").any()


def test_kernels_are_relative_to_their_largest_weight(drawn: list[Any], rng: np.random.Generator) -> None:
    image, kernel = rng.random((*SIZE, 1), dtype=np.float32), 4 * rng.random((1, *SIZE), dtype=np.float32)
    inspect.draw_kernels(image, [(2, 3)], {"a": kernel}, Path("a.png"))
    np.testing.assert_allclose(shown(drawn[0], "a"), kernel[0] / kernel.max())


def test_few_far_pixels_are_points(drawn: list[Any]) -> None:
    image, kernel = np.zeros((40, 50, 3), np.float32), np.zeros((1, 40, 50), np.float32)
    kernel[0, 38, 45], kernel[0, 2, 4] = 2.0, 0.5
    inspect.draw_kernels(image, [(2, 3)], {"a": kernel}, Path("a.png"))
    (points,) = drawn[0].axes[1].collections
    assert points.get_offsets().tolist() == [[4, 2], [45, 38]]
    assert points.get_array().tolist() == [0.25, 1]


def test_contours_are_of_the_surface_first_number_to_the_right(drawn: list[Any]) -> None:
    surface = np.linspace(0, 1, 5)[:, None] * np.ones(5)
    contours.draw_contours({"a": surface}, "first", "second", Path("a.png"))
    (axis,) = drawn[0].axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("first", "second")
    for line in axis.collections[1].get_paths():  # white lines, each at one value of the first number
        assert np.ptp(line.vertices[:, 0]) < 1e-9


@pytest.mark.parametrize(("highest", "last"), [(0.8, 0.8), (40.0, 3.0)])
def test_levels_end_where_a_logarithm_would_not(highest: float, last: float) -> None:
    found = contours.levels(np.array([[0, highest], [highest, 0]]))
    assert (found[0], found[-1]) == (0, last)

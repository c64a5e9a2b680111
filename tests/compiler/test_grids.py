"""Grids of positions say of slices and joins what permutations of all elements say."""

from __future__ import annotations

import numpy as np
import pytest

from paramgraph.compiler.grids import MOST_PAIRS, Grid, grids, is_carried

RNG = np.random.default_rng(0)


def permuted(size: int, *runs: np.ndarray) -> list[np.ndarray]:
    """For each run of positions, where they go within it; -1 elsewhere."""
    out = []
    for run in runs:
        image = np.full(size, -1)
        image[run] = RNG.permutation(run)
        out.append(image)
    return out


def images(shape: tuple[int, ...], parts: list[Grid]) -> np.ndarray:
    """Where each flat place goes, element by element."""
    out = np.full(shape, -1)
    for place in np.ndindex(*shape):
        for part in parts:
            to = [i if image is None else int(image[i]) for i, image in zip(place, part, strict=True)]
            if min(to) >= 0:
                assert out[place] < 0, "two grids share an element"
                out[place] = np.ravel_multi_index(to, shape)
    return out


def varying(rows: int, columns: int) -> list[Grid]:
    """Rows that stay, in each of which the columns of either half move in an order of their own."""
    halves = np.arange(columns // 2), np.arange(columns // 2, columns)
    own = [permuted(rows, np.array([row]))[0] for row in range(rows)]
    return [(row, half) for row in own for half in permuted(columns, *halves)]


@pytest.mark.parametrize("wrong", [False, True])
def test_a_slice_of_rows_that_vary(wrong: bool) -> None:
    big = grids((3, 8), [((0, 1), varying(3, 8))])
    assert big is not None and len(big) == 6
    places = np.array([2, 0])
    rows = permuted(2, np.array([0]), np.array([1]))
    small = [(rows[0], big[4][1]), (rows[0], big[5][1]), (rows[1], big[0][1]), (rows[1], big[1 if not wrong else 3][1])]
    whole, part = images((3, 8), big), images((2, 8), small)
    laid = np.ravel_multi_index((places[:, None], np.arange(8)[None]), (3, 8)).reshape(-1)
    expected = bool((whole.reshape(-1)[laid] == laid[part.reshape(-1)]).all())
    assert is_carried(small, big, 0, places) is expected is not wrong


def test_a_slice_within_what_moves_is_not_carried() -> None:
    big = [(image,) for image in permuted(4, np.arange(4))]
    while big[0][0][0] == 0:
        big = [(image,) for image in permuted(4, np.arange(4))]
    assert is_carried([(None,)], big, 0, np.array([0])) is False


def test_grids_that_leave_elements_out_say_nothing() -> None:
    assert grids((2, 4), [((0, 1), varying(2, 4)[:-1])]) is None
    many: list[Grid] = [(image,) for image in permuted(65, *np.arange(65)[:, None])]
    assert len(many) ** 2 > MOST_PAIRS and is_carried(many, many, 0, np.arange(65)) is None


def test_sets_of_dimensions_are_multiplied() -> None:
    own = grids((2, 4, 5, 3), [((0, 1), varying(2, 4)), ((3,), [(image,) for image in permuted(3, np.arange(2), np.array([2]))])])
    assert own is not None and len(own) == 8 and all(image is None for _, _, image, _ in own)
    assert (images((2, 4, 5, 3), own) >= 0).all()

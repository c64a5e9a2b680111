"""Linear assignments are as good as scipy's by themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import torch
from scipy.optimize import linear_sum_assignment

from paramgraph.symmetries.assignment import LARGE, WARMTH, _duals, assigned

N = LARGE + 3
GAINS: dict[str, Callable[[], torch.Tensor]] = {
    "plain": lambda: torch.randn(N, N),
    "small": lambda: torch.randn(7, 7),
    "in double precision": lambda: torch.randn(N, N, dtype=torch.float64),
    "of norms and weights": lambda: torch.randn(N, N) + 20 * torch.outer(torch.rand(N), torch.rand(N)),
    "norms alone": lambda: torch.outer(torch.rand(N), torch.rand(N)),
    "all the same": lambda: torch.ones(N, N),
    "nothing": lambda: torch.zeros(N, N),
    "one point": lambda: torch.zeros(N, N).index_put((torch.tensor(3), torch.tensor(5)), torch.tensor(1.0)),
    "rows that are alike": lambda: torch.randn(N, N)[torch.randint(0, 9, (N,))],
    "far apart": lambda: torch.randn(N, N).exp() ** 12,
    "nearly a permutation": lambda: torch.randn(N, N) + 50 * torch.eye(N)[torch.randperm(N)],
    "very large": lambda: 1e30 * torch.randn(N, N),
    "very small": lambda: 1e-30 * torch.randn(N, N),
    "nearly out of range": lambda: 5e37 * torch.randn(N, N),
}


@pytest.mark.parametrize("name", GAINS)
def test_assignments_are_the_best(name: str) -> None:
    torch.manual_seed(0)
    gains = GAINS[name]()
    found = assigned(gains)
    rows, best = linear_sum_assignment(gains.double().numpy(), maximize=True)
    held = gains.double().numpy()
    assert sorted(found.tolist()) == rows.tolist()
    assert held[rows, found].sum() == pytest.approx(held[rows, best].sum(), rel=1e-9, abs=0)


def test_duals_leave_a_matrix_whose_rows_and_columns_are_alike() -> None:
    """What is left of an entropic assignment: its exponentials add up to one in every column, and nearly so in every row.

    No dual changes the best assignment, so that results do not tell right duals from wrong ones: only what the solver is given does.
    """
    torch.manual_seed(0)
    gains = torch.randn(N, N) + 2 * torch.randn(N)[:, None] + 2 * torch.randn(N)
    rows, columns = _duals(gains) or pytest.fail("there are none")
    centred = gains - gains.mean(0) - gains.mean(1, keepdim=True)
    shares = ((gains - rows[:, None] - columns) / (WARMTH * centred.std())).exp()
    assert float((shares.sum(0) - 1).abs().max()) < 1e-3
    assert float((shares.sum(1) - 1).abs().max()) < 0.3


def test_the_solver_is_given_what_duals_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    noise = torch.randn(N, N)
    given: list[float] = []

    def solve(costs: np.ndarray, maximize: bool) -> tuple[np.ndarray, np.ndarray]:
        given.append(float(costs.std()))
        return linear_sum_assignment(costs, maximize)

    monkeypatch.setattr(scipy.optimize, "linear_sum_assignment", solve)
    assigned(noise + 2 * torch.randn(N)[:, None] + 2 * torch.randn(N))
    assert given[0] < 1.2 * float(noise.std())

"""Linear assignments are as good as scipy's by themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from paramgraph.symmetries.assignment import LARGE, assigned

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

"""Programs that random search found to be typed wrongly once, as networks: they compile, and what is annotated is sound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import paramgraph as pg
from tests.support.layouts import Table

Function = Callable[..., torch.Tensor]


def cut_before_a_sum(x: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Rows are outputs; of the second axis one element is read, through an operation along it."""
    return torch.cat([q, p], 2).tanh()[:, :1].cumsum(1).tanh().sum((1, 2)) * x[:1]


def product_with_a_relabelled_part(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ka,kb->ab", p, p[:, [3, 2]][[1, 0]]).tanh().sum(1) * x[:1]


def doubled_and_joined(x: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    doubled = torch.cat([q, q], 1)[:, :, [2, 1]]
    return (doubled.reshape(2, 8).tanh().sum() + torch.cat([p, doubled], 1).tanh().sum()) * x


def doubled_and_viewed(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.cat([p, p], 1).reshape(8, 2)[[0, 1, 3, 5, 6, 7]].tanh().sum() * x


def one_element_of_a_softmax(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return p.reshape(8).tanh().reshape(2, 4).softmax(1)[1, 1].tanh() * x


def part_against_the_whole(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    rows = p.sum(1).tanh()
    rows = (rows.tanh() + 1.7 * rows).tanh()
    return (rows @ rows[[1, 2]]).tanh().softmax(1).cumsum(0).tanh().sum(0) * x[:1]


def flat_relabelling(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    other = p.reshape(4)[[2, 0, 1, 3]]
    return (other.tanh().sum() + (other.reshape(2, 2) + 0.1).tanh().pow(3).sum()) * x


CASES: list[tuple[Function, tuple[tuple[int, ...], ...]]] = [
    (cut_before_a_sum, ((3, 2, 2), (3, 2, 2))),
    (product_with_a_relabelled_part, ((2, 4),)),
    (doubled_and_joined, ((2, 3, 2), (2, 2, 3))),
    (doubled_and_viewed, ((2, 4),)),
    (one_element_of_a_softmax, ((2, 2, 2),)),
    (part_against_the_whole, ((3, 2, 2),)),
    (flat_relabelling, ((2, 2),)),
]


@pytest.mark.parametrize(("function", "shapes"), CASES, ids=[function.__name__ for function, _ in CASES])
def test_sound(function: Function, shapes: tuple[tuple[int, ...], ...]) -> None:
    model, x = Table(function, *shapes).eval(), torch.randn(5)
    graph = pg.compile(model, x)
    report = pg.verify(graph, model, x, inputs=2)
    assert report.passed, str(report)

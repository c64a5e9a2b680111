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


def pooled_by_a_part_of_the_image(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """One window that leaves positions out: its mean knows which."""
    return torch.nn.functional.avg_pool2d(p.tanh()[None], 2, 3).sum() * x


def scaled_by_one_unit(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A number read off a tensor."""
    return p.tanh().sum() * x * (p[0, 2].item() * 2 + 1)


def assigned_at_constant_places(x: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.index_put((torch.tensor([2, 0]),), q).tanh().cumsum(0).tanh().sum() + p.tanh().sum()) * x


def scattered_twice_to_one_place(x: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    index = torch.tensor([[0], [2], [2]]).expand(3, 4)
    return (p.scatter_add(0, index, q).tanh() * p).sum() * x


def gathered_in_two_ways(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    index = torch.tensor([[0, 1, 1, 0], [2, 2, 1, 0]])
    return (p.gather(0, index).tanh().sum(0).pow(2).sum() + p.tanh().sum()) * x


def norm_of_all(x: torch.Tensor, p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return torch._weight_norm(p, g, -1).tanh().sum() * x


def indices_of_fewer_elements(x: torch.Tensor, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Indices over four elements, used on five."""
    largest = p.tanh().sum(0).topk(2).indices
    return (torch.nn.functional.one_hot(largest, 5).to(x.dtype) @ q).tanh().sum() * x + q.gather(0, largest[:, None].expand(2, 3)).sum()


def padded_behind_computed_places(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Columns that meet padding are exchanged in every row apart; their signs must be so, too."""
    places = (x[:3] > 0).long()[:, None].expand(3, 4)
    rows = torch.zeros(3, 4, dtype=x.dtype).scatter_add(0, places, x[:4].expand(3, 4))
    return torch.nn.functional.pad(rows, (1, 1)).tanh().flatten() @ q


CASES: list[tuple[Function, tuple[tuple[int, ...], ...]]] = [
    (cut_before_a_sum, ((3, 2, 2), (3, 2, 2))),
    (product_with_a_relabelled_part, ((2, 4),)),
    (doubled_and_joined, ((2, 3, 2), (2, 2, 3))),
    (doubled_and_viewed, ((2, 4),)),
    (one_element_of_a_softmax, ((2, 2, 2),)),
    (part_against_the_whole, ((3, 2, 2),)),
    (flat_relabelling, ((2, 2),)),
    (pooled_by_a_part_of_the_image, ((2, 3, 3),)),
    (scaled_by_one_unit, ((2, 4),)),
    (assigned_at_constant_places, ((4, 3), (2, 3))),
    (scattered_twice_to_one_place, ((3, 4), (3, 4))),
    (gathered_in_two_ways, ((3, 4),)),
    (indices_of_fewer_elements, ((3, 4), (5, 3))),
    (norm_of_all, ((3, 4), (1,))),
    (padded_behind_computed_places, ((18, 2),)),
]


@pytest.mark.parametrize(("function", "shapes"), CASES, ids=[function.__name__ for function, _ in CASES])
def test_sound(function: Function, shapes: tuple[tuple[int, ...], ...]) -> None:
    model, x = Table(function, *shapes).eval(), torch.randn(5)
    graph = pg.compile(model, x)
    report = pg.verify(graph, model, x, inputs=2)
    assert report.passed, str(report)

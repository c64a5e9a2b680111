"""Networks that verification once failed on or misjudged: each in the smallest form that shows the cause."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import TraceError
from paramgraph.verification import Report


def _verified(model: nn.Module, *inputs: torch.Tensor) -> tuple[pg.ParamGraph, Report]:
    graph = pg.compile(model, inputs)
    return graph, pg.verify(graph, model, inputs, leave_one_out="all")


def _order(graph: pg.ParamGraph) -> int:
    return round(math.exp(graph.symmetry.log_order))


class EmptyTokens(nn.Module):
    """Extra tokens, of which there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(0, 6))
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(torch.cat([self.tokens, self.up(x)])))


def test_parameter_without_elements() -> None:
    graph, report = _verified(EmptyTokens(), torch.randn(5, 4))
    assert _order(graph) == 720
    assert report.passed, report


class Rescaling(nn.Module):
    """Halves a weight of its own in place when it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.up.weight.div_(2)
        return self.down(torch.tanh(self.up(x)))


def test_parameters_updated_in_place_move_with_themselves() -> None:
    """The new value is permuted as the parameter is: it does not pin what it is a value of."""
    graph, report = _verified(Rescaling(), torch.randn(5, 4))
    assert _order(graph) == 720
    assert report.passed, report
    assert report.exported is not None and report.exported < 1e-12


class Transposing(nn.Module):
    """Overwrites a square buffer with its transpose: rows and columns are what the buffer's own are, exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.randn(5, 5))
        self.up, self.down = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.down(torch.tanh(self.up(x) @ self.state))
        self.state.copy_(self.state.T.clone())
        return out


def test_new_values_of_buffers_tie_their_axes() -> None:
    graph, report = _verified(Transposing(), torch.randn(7, 4))
    assert _order(graph) == 120
    assert report.passed, report


class LeastNumber(nn.Module):
    """Adds multiples of the least number of its precision as a mask: in float64, sums of it overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.full((x.shape[0],), torch.finfo(x.dtype).min)
        mask = torch.where(torch.arange(x.shape[0]) < 3, 0.0, mask * (1 + 1e-3 * (x.dtype == torch.float64)))
        scores = self.up(x).sum(-1) + mask
        return torch.softmax(scores, -1) @ self.down(torch.tanh(self.up(x)))


def test_masks_with_the_least_number_are_compared_in_their_own_precision() -> None:
    _, report = _verified(LeastNumber(), torch.randn(5, 4))
    assert report.passed, report
    assert report.exported is not None and report.exported < 1e-5


class Other(nn.Module):
    """A function that depends on something that no trace can see."""

    traced = True

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)) * (1.0 if Other.traced else 1.01))


def test_another_function_is_found_in_any_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Other(), torch.randn(5, 4)
    graph, exported = pg.compile(model, x), torch.export.export(model, (x,))
    monkeypatch.setattr("paramgraph.compiler.trace.export", lambda *_: exported.run_decompositions({}))
    monkeypatch.setattr(Other, "traced", False)
    report = pg.verify(graph, model, x)
    assert not report.passed
    assert any("exported graph differs" in problem for problem in report.problems)


class Marked(nn.Module):
    """Takes as many rows of a table as there are marks: a graph of it holds for the example's marks only."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.up(x))
        chosen = marks.nonzero().squeeze(1)
        torch._check(chosen.shape[0] == 3)
        return self.down(hidden) + chosen.sum()


def test_integers_keep_their_values_where_the_graph_asserts_facts_of_them() -> None:
    graph, report = _verified(Marked(), torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0, 1, 0, 0, 0, 0]))
    assert _order(graph) == 720
    assert report.passed, report
    assert any("keep the example's values" in note for note in report.notes)


def test_graph_that_does_not_run_on_its_example_is_an_error() -> None:
    model = Marked()
    x, marks = torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 0, 1, 0, 0, 0, 0])
    graph = pg.compile(model, (x, marks))
    with pytest.raises(TraceError, match="does not run under random parameters"):
        pg.verify(graph, model, (x, torch.zeros_like(marks)))


class Summed(nn.Module):
    """Sums the units of a layer: entries of its bias are merely added to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x).sum(-1, keepdim=True)))


def test_what_is_merely_added_need_not_be_left_out() -> None:
    graph, report = _verified(Summed(), torch.randn(5, 4))
    assert _order(graph) == 720
    assert report.passed, report
    assert any("merely added" in note for note in report.notes)

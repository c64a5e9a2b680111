"""Continuous symmetries counted by the Jacobian, beside what groups declare."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.errors import GroupError
from paramgraph.symmetries.matrices import MatrixFactor
from paramgraph.verification.report import Maximality
from tests.support.cases import CASES
from tests.support.scales import SCALES
from tests.symmetries.test_scales import compiled


def counted(name: str) -> Maximality:
    model, inputs = (SCALES if name in SCALES else CASES)[name].build()
    report = pg.verify(pg.compile(model, inputs), model, inputs, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed, str(report)
    assert report.maximality is not None
    assert report.maximality.gap > 1e4
    return report.maximality


@pytest.mark.parametrize("name", ["mlp, tanh", "mlp, gelu", "mlp, square", "mlp, cube", "mlp, sigmoid", "swiglu", "linear attention",
                                  "branches multiplied, tanh", "llama block, tied", "lstm",
                                  "pre-norm attention block", "grouped-query attention"])  # fmt: skip
def test_analytic_networks_have_no_others(name: str) -> None:
    assert counted(name).complete


class MixedGain(nn.Module):
    """A gain that is mixed by fixed numbers: its scales are declared nowhere, but for that of all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gain, self.second = nn.Linear(5, 4, bias=False), nn.Parameter(torch.randn(4)), nn.Linear(4, 6, bias=False)
        self.register_buffer("fixed", torch.randn(4, 4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.sigmoid(self.first(x)) * (self.fixed @ self.gain))


def test_what_is_missing_is_named() -> None:
    model, x = MixedGain(), torch.randn(9, 5)
    report = pg.verify(pg.compile(model, x), model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed and report.maximality is not None
    assert (report.maximality.nullity, report.maximality.declared) == (4, 1)
    assert set(report.maximality.missing) == {"gain", "second.weight"}
    assert "the others move" in str(report.maximality)


def test_an_untied_stream_also_turns() -> None:
    """60 dimensions, derived by hand: 26 scales, 24 of value-output matrices, 4 in rotary planes, 6 of O(4)."""
    model, _ = SCALES["llama block"].build()
    tokens = torch.arange(20).reshape(5, 4) % 7  # every token: rows of the table that no input reads would count too
    report = pg.verify(pg.compile(model, (tokens,)), model, (tokens,), elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed, str(report)
    assert report.maximality is not None and report.maximality.gap > 1e4
    assert (report.maximality.nullity, report.maximality.declared) == (60, 26 + 24 + 4 + 6)


def test_running_statistics_count() -> None:
    """Four dimensions per channel: of the incoming row, of variance and gain, of mean and offset, of the bias before and the mean."""
    found = counted("batch norm, tanh")
    assert found.parameters == 47  # the count of batches is no number of the function
    assert (found.nullity, found.declared) == (12, 12)


def test_a_wrong_declaration_is_found() -> None:
    linear = compiled("mlp, identity")[2].symmetry.moves
    model, inputs = SCALES["mlp, tanh"].build()
    graph = pg.compile(model, inputs)
    group = replace(graph.symmetry, moves=linear)
    report = pg.verify(replace(graph, symmetry=group), model, inputs, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert any("continuous symmetry changes the outputs" in problem for problem in report.problems)


def test_matrices_are_verified() -> None:
    model, inputs, graph = compiled("two-head attention")
    report = pg.verify(graph, model, inputs, elements=1, inputs=1, leave_one_out=0)
    assert report.passed
    assert len(report.matrices) == 4
    q, v, *_ = graph.symmetry.moves
    assert isinstance(q, MatrixFactor) and isinstance(v, MatrixFactor)
    crossed = replace(q, parts=(*(p for p in q.parts if not p.dual), *(p for p in v.parts if p.dual != v.parts[0].dual)))
    wrong = replace(graph, symmetry=replace(graph.symmetry, moves=(crossed, v)))
    report = pg.verify(wrong, model, inputs, elements=1, inputs=1, leave_one_out=0)
    assert any("GL(4)^2" in problem and "changes the outputs" in problem for problem in report.problems)


def test_matrices_that_do_not_move_what_they_claim_are_found() -> None:
    model, inputs, graph = compiled("two-head attention")
    q, v, *_ = graph.symmetry.moves
    assert isinstance(q, MatrixFactor) and isinstance(v, MatrixFactor)

    class Claiming(MatrixFactor):
        @property
        def tensors(self) -> tuple[str, ...]:
            return (*super().tensors, *v.tensors)

    claiming = Claiming(**{field.name: getattr(q, field.name) for field in fields(q)})
    wrong = replace(graph, symmetry=replace(graph.symmetry, moves=(claiming,)))
    report = pg.verify(wrong, model, inputs, elements=1, inputs=1, leave_one_out=0)
    assert any(f"claims to move {', '.join(sorted(v.tensors))}, but leaves it" in problem for problem in report.problems)


class Complex(nn.Module):
    """Two complex matrices: real ones may stand between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(*shape, dtype=torch.complex64)) for shape in ((5, 4), (4, 6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.to(self.first.dtype) @ self.first @ self.second
        return torch.tanh(z.real) * z.imag


def test_complex_numbers() -> None:
    """They count as two real ones each. GL(4, ℂ) has 32 dimensions, of which the real matrices are 16."""
    model, x = Complex(), torch.randn(9, 5)
    graph = pg.compile(model, x)
    report = pg.verify(graph, model, x, maximality=True)
    assert report.passed and report.maximality is not None
    assert (report.maximality.parameters, report.maximality.nullity, report.maximality.declared) == (88, 32, 16)
    assert all(isinstance(factor, MatrixFactor) for factor in graph.symmetry.moves)
    state = graph.state_dict()
    motion = graph.symmetry.move(0)
    back = motion.inverse().act(motion.act(state))
    assert not torch.equal(motion.act(state)["first"], state["first"])
    assert torch.allclose(back["first"], state["first"], atol=1e-5) and back["first"].dtype == torch.complex64


class Coupling(nn.Module):
    """Most of what comes out is what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([x, x, b + self.second(torch.tanh(self.first(a)))], -1)


class Unequal(nn.Module):
    """Most of the parameters have few of the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 9), nn.Linear(9, 1), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.second(torch.tanh(self.first(x))), self.third(x)], -1)


@pytest.mark.parametrize("build", [Coupling, Unequal])
def test_outputs_of_few_parameters(build: type[nn.Module]) -> None:
    model, x = build(), torch.randn(7, 6)
    report = pg.verify(pg.compile(model, x), model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed and report.maximality is not None
    assert report.maximality.nullity == 0


def test_training_mode_is_counted() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3, eps=0.3), nn.Tanh(), nn.Conv1d(3, 2, 1)).train(), torch.randn(7, 2, 5)
    report = pg.verify(pg.compile(model, x), model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed and report.maximality is not None and report.maximality.gap > 1e4
    assert set(report.maximality.missing) == {"0.bias", "1.running_mean", "1.running_var"}  # outputs do not depend on them


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return self.second((h * torch.relu(self.third(x))).sqrt())


def test_infinite_derivatives_are_a_problem_that_is_said() -> None:
    """The root has an infinite slope where one of two units is not active, and the other one's is zero there."""
    model, x = Root(), torch.randn(9, 4)
    report = pg.verify(pg.compile(model, x), model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.maximality is None
    assert any("no finite numbers" in problem for problem in report.problems)


def test_large_networks_are_refused() -> None:
    model, x = nn.Linear(100, 100), torch.randn(2, 100)
    with pytest.raises(GroupError, match="narrower network"):
        pg.verify(pg.compile(model, x), model, x, maximality=True)

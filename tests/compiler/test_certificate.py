"""The certificate: it passes right typings, and a wrong one does not pass it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.compiler.certificate import Certificate
from paramgraph.compiler.program import Program, Value
from paramgraph.compiler.torch_export import Lowering
from paramgraph.compiler.trace import trace
from paramgraph.compiler.typing import type_program
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Unsettled
from tests.support import gathered, layouts  # noqa: F401  register the cases
from tests.support.cases import CASES

# Networks with families: a space whose order differs between the parts of another.
VARYING = ["two slices, two readers", "stacked heads", "overlapping slices", "blocks that do not meet"]


def typed(name: str) -> tuple[Program, GroupBuilder]:
    return typed_network(*CASES[name].build())


def typed_network(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[Program, GroupBuilder]:
    traced = trace(model, inputs)
    program = Lowering(traced.exported, "network", traced.state).run()
    builder = GroupBuilder(type_program(program).dependencies)
    for value in program.tensors.values():
        builder.action(value.axes)
    builder.close()
    return program, builder


@pytest.mark.parametrize("name", VARYING)
def test_right_typings_pass(name: str) -> None:
    program, builder = typed(name)
    certificate = Certificate(program, builder)
    certificate.check()
    assert certificate.ops or not builder.dependencies.delicate


def test_a_result_with_another_type_fails() -> None:
    """Two slices of one table with orders of their own: the first one's type is no type for the second's result."""
    program, builder = typed("two slices, two readers")
    first, second = (op for op in program.ops if op.name in ("tanh", "sin"))
    second.output.axes = first.output.axes
    with pytest.raises(Unsettled, match="does not commute"):
        Certificate(program, builder).check()


def test_a_slice_with_the_type_of_another_fails() -> None:
    """Layout operations are followed on each set of dimensions that moves by itself: an order that is wrong on one of them shows."""
    program, builder = typed("two slices, two readers")
    takes = [op for op in program.ops if op.kind == "take" and Certificate(program, builder)._is_touched(op.output)]
    first, second = (op for op in takes if op.output.shape == takes[0].output.shape)
    second.output.axes = first.output.axes
    with pytest.raises(Unsettled, match="the typing of take does not commute"):
        Certificate(program, builder).check()


@pytest.mark.parametrize("wrong", [False, True])
def test_positions_say_what_elements_say(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of a tensor of which two dimensions move together: dimension by dimension, and element by element."""
    program, builder = typed("two slices, two readers")
    if wrong:
        takes = [op for op in program.ops if op.kind == "take" and Certificate(program, builder)._is_touched(op.output)]
        first, second = (op for op in takes if op.output.shape == takes[0].output.shape)
        second.output.axes = first.output.axes
    certificate = Certificate(program, builder)
    certificate.start(certificate.group.sample(0))
    by_position = {op: said for op in certificate.ops if op.kind in ("take", "concat") and (said := certificate._carried(op)) is not None}
    monkeypatch.setattr(Certificate, "_carried", lambda self, op: None)
    assert by_position == {op: certificate._layout(op) for op in by_position}
    assert by_position and all(by_position.values()) is not wrong


@pytest.mark.parametrize("varies", [False, True])
def test_a_constant_that_varies_where_its_axis_moves_fails(varies: bool) -> None:
    """Labels say that its axis is the right one; only its numbers can tell the elements apart."""
    program, builder = typed("two slices, two readers")
    op = next(op for op in program.ops if op.name == "tanh")
    constant = Value([5], "constant", "numbers", lambda: np.arange(5.0) if varies else np.ones(5))
    constant.axes = op.output.axes[1:]
    op.inputs, op.labels = (*op.inputs, constant), (*op.labels, op.out_labels[1:])
    certificate = Certificate(program, builder)
    if varies:
        with pytest.raises(Unsettled, match="the typing of tanh does not commute"):
            certificate.check()
    else:
        certificate.check()


class Tables(nn.Module):
    """Two hidden layers of five units, each read from a part of one table and from two tables joined."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.ParameterList([nn.Parameter(torch.randn(6, 5)) for _ in range(2)])
        self.short = nn.ParameterList([nn.Parameter(torch.randn(2, 5)) for _ in range(4)])
        self.o = nn.ModuleList([nn.Linear(5, 2) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = [torch.cat([self.short[n], self.short[n + 2]]) for n in range(2)]
        hidden = [x @ (self.long[n][:4] + joined[n]) for n in range(2)]
        return self.o[0](hidden[0].tanh()) + self.o[1](hidden[1].sin())


@pytest.mark.parametrize("kind", ["take", "concat"])
def test_a_layout_whose_other_axis_moves_otherwise_fails(kind: str) -> None:
    """A part of a table, and a table made of two, are as they should be along the rows; the columns are those of the other hidden layer."""
    program, builder = typed_network(Tables(), (torch.randn(7, 4),))
    first, second = (op for op in program.ops if op.kind == kind)
    branches = [first.output.axes[1], second.output.axes[1]]  # so that these are followed, though no family is among them
    Certificate(program, builder, branches).check()
    second.output.axes = (second.output.axes[0], first.output.axes[1])
    with pytest.raises(Unsettled, match=f"the typing of {kind} does not commute"):
        Certificate(program, builder, branches).check()


@pytest.mark.parametrize("wrong", ["forgotten", "another choice"])
def test_a_virtual_factor_that_is_wrong_fails(wrong: str) -> None:
    """The inner units of a chosen expert move as that expert says, though no axis of theirs is the experts'."""
    program, builder = typed("top-k mixture by gathering")
    output = next(op.output for op in program.ops if op.name == "relu" and op.output.virtual)
    (factor,) = output.virtual
    Certificate(program, builder, [factor.axis]).check()
    output.virtual = () if wrong == "forgotten" else (replace(factor, key=wrong),)
    with pytest.raises(Unsettled, match="without a space that it depends on"):
        Certificate(program, builder, [factor.axis]).check()


def test_an_output_that_moves_fails() -> None:
    program, builder = typed("two slices, two readers")
    moving = next(op for op in program.ops if op.name == "tanh")
    program.outputs = [(moving.output, None)]
    with pytest.raises(Unsettled, match="output"):
        Certificate(program, builder).check()


def test_a_typing_that_fails_gives_the_trivial_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Certificate) -> None:
        raise Unsettled("found wrong")

    monkeypatch.setattr(Certificate, "check", check)
    model, inputs = CASES["two slices, two readers"].build()
    graph = pg.compile(model, inputs)
    assert graph.symmetry.log_order == 0
    assert any("found wrong" in str(d) for d in graph.diagnostics)
    assert all(torch.equal(a, b) for a, b in zip(graph.state_dict().values(), model.state_dict().values(), strict=True))

"""The certificate: it passes right typings, and a wrong one does not pass it."""

from __future__ import annotations

import pytest
import torch

import paramgraph as pg
from paramgraph.compiler.certificate import Certificate
from paramgraph.compiler.program import Program
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
    model, inputs = CASES[name].build()
    traced = trace(model, inputs)
    program = Lowering(traced.exported, name, traced.state).run()
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

"""The inferred group does not depend on the order in which operations are typed."""

from __future__ import annotations

from random import Random

import pytest
import torch

from paramgraph.compiler.program import Op, Program
from paramgraph.compiler.torch_export import Lowering
from paramgraph.compiler.trace import Trace, trace
from paramgraph.compiler.typing import type_program
from paramgraph.models.resolve import resolve
from paramgraph.symmetries.solution import GroupBuilder
from tests.support import algebra, attention, derivatives, gathered, groups, indexing, layers, layouts, merging, pairing, values  # noqa: F401  register the cases
from tests.support.cases import CASES, traced


def shuffled(program: Program, random: Random) -> list[Op]:
    """The operations in a random order in which each still comes after those that it reads."""
    maker = {id(op.output): op for op in program.ops}
    left = {id(op): {id(maker[id(x)]) for x in op.inputs if id(x) in maker} for op in program.ops}
    users: dict[int, list[Op]] = {}
    for op in program.ops:
        for needed in left[id(op)]:
            users.setdefault(needed, []).append(op)
    ready = [op for op in program.ops if not left[id(op)]]
    out = []
    while ready:
        op = ready.pop(random.randrange(len(ready)))
        out.append(op)
        for user in users.get(id(op), ()):
            left[id(user)].discard(id(op))
            if not left[id(user)]:
                ready.append(user)
    assert len(out) == len(program.ops)
    return out


def log_order(traced: Trace, seed: int | None) -> float:
    program = Lowering(traced.exported, "network", traced.state).run()
    if seed is not None:
        program.ops[:] = shuffled(program, Random(seed))
    builder = GroupBuilder(type_program(program).dependencies)
    actions = {key: builder.action(value.axes) for key, value in program.tensors.items()}
    builder.close()
    return builder.group(actions, {}).log_order


@pytest.mark.parametrize("name", list(CASES)[::3])  # tracing is what takes time
def test_derived_cases(name: str) -> None:
    *_, found = traced(name)
    assert [log_order(found, seed) for seed in range(3)] == pytest.approx([log_order(found, None)] * 3)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", "googlenet"])
def test_real_networks(name: str) -> None:
    model = resolve(f"torchvision:{name}").model
    found = trace(model, (torch.zeros(1, 3, 64, 64),))
    assert [log_order(found, seed) for seed in range(2)] == pytest.approx([log_order(found, None)] * 2)

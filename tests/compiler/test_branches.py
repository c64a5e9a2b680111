"""Exchanges of parallel branches, as symmetry between different parameters."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.compiler import pipeline
from paramgraph.compiler.branches import find_joins
from paramgraph.compiler.certificate import Certificate
from paramgraph.compiler.parallel import branch_axes, idle_joins, stack_branches
from paramgraph.compiler.torch_export import Lowering
from paramgraph.compiler.trace import trace
from paramgraph.compiler.typing import type_program
from paramgraph.errors import FileFormatError, StateDictError
from paramgraph.symmetries.solution import GroupBuilder
from paramgraph.symmetries.spaces import Unsettled
from tests.support import branches, gathered, layers  # noqa: F401  register the cases
from tests.support.automorphisms import log_automorphisms
from tests.support.cases import CASES, lam

MEMBERS = [f"experts.{e}.0.weight" for e in range(3)]


@pytest.fixture
def experts() -> tuple[pg.ParamGraph, nn.Module, tuple[torch.Tensor, ...]]:
    model, inputs = CASES["experts in a list, slice"].build()
    return pg.compile(model, inputs), model, inputs


def exchange(graph: pg.ParamGraph) -> int:
    """The number of the factor that exchanges the experts: one that moves the router."""
    return next(n for n in range(len(graph.symmetry.factors)) if "router.bias" in graph.symmetry.moved_by(n))


def test_an_exchange_moves_whole_parameters(experts: tuple[pg.ParamGraph, nn.Module, tuple[torch.Tensor, ...]]) -> None:
    graph, model, (x,) = experts
    number = exchange(graph)
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    wanted = torch.func.functional_call(model.double(), state, x.double())
    seen = set()
    for seed in range(40):
        moved = graph.symmetry.sample(seed, factors=[number]).act(state)
        places = tuple(next(e for e in range(3) if torch.equal(moved[name], state[MEMBERS[e]])) for name in MEMBERS)
        seen.add(places)
        # The router's rows move along.
        assert all(torch.equal(moved["router.weight"][e], state["router.weight"][places[e]]) for e in range(3))
        assert torch.allclose(torch.func.functional_call(model, moved, x.double()), wanted, rtol=1e-12, atol=1e-12)
    assert len(seen) == 6


def test_names_do_not_depend_on_the_order_of_hashes() -> None:
    code = """
import paramgraph as pg
from tests.support import branches
from tests.support.cases import CASES
for name in ("the larger of two branches", "the larger of two halves", "experts in a list, slice"):
    model, inputs = CASES[name].build()
    print([factor.name for factor in pg.compile(model, inputs).symmetry.factors])
"""
    root = str(Path(__file__).resolve().parents[2])
    said = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root,
                           env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root}).stdout for seed in ("1", "2")}  # fmt: skip
    assert len(said) == 1, said


def test_factors_say_what_they_move(experts: tuple[pg.ParamGraph, nn.Module, tuple[torch.Tensor, ...]]) -> None:
    graph = experts[0]
    assert graph.symmetry.stacks["experts.*.0.weight"] == tuple(MEMBERS)
    assert set(graph.symmetry.moved_by(exchange(graph))) == set(graph.values)


def test_a_branch_that_takes_no_part_is_not_moved() -> None:
    model, inputs = CASES["experts in a list, first"].build()
    graph = pg.compile(model, inputs)
    moved = graph.symmetry.moved_by(exchange(graph))
    assert "experts.1.2.bias" in moved
    assert "experts.0.2.bias" not in moved


def test_branches_have_one_type(experts: tuple[pg.ParamGraph, nn.Module, tuple[torch.Tensor, ...]]) -> None:
    graph = experts[0]
    types = {edges.parameter.name: edges.type for edges in graph.parameter_edges() if edges.parameter is not None}
    assert len({types[name] for name in MEMBERS}) == 1
    assert types["experts.0.0.weight"] != types["experts.0.2.weight"]


def test_files_keep_exchanges(tmp_path: Path, experts: tuple[pg.ParamGraph, nn.Module, tuple[torch.Tensor, ...]]) -> None:
    graph, model, inputs = experts
    graph.save(tmp_path / "experts.pgraph")
    loaded = pg.load(tmp_path / "experts.pgraph")
    assert loaded.symmetry.stacks == graph.symmetry.stacks
    before, after = (g.symmetry.sample(3).act(graph.state_dict()) for g in (graph, loaded))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert pg.verify(loaded, model, inputs).passed
    assert log_automorphisms(loaded) == pytest.approx(graph.symmetry.log_order)


@pytest.mark.parametrize("wrong", [("experts.0.0.weight",), ("experts.0.0.weight", "experts.0.0.weight"), ("experts.0.0.weight", "router.bias")])
def test_files_with_damaged_stacks_are_refused(
    tmp_path: Path, experts: tuple[pg.ParamGraph, nn.Module, tuple[torch.Tensor, ...]], wrong: tuple[str, ...]
) -> None:
    from dataclasses import replace

    graph = experts[0]
    group = replace(graph.symmetry, stacks={**graph.symmetry.stacks, "experts.*.0.weight": wrong})
    replace(graph, symmetry=group).save(tmp_path / "damaged.pgraph")
    with pytest.raises(FileFormatError):
        pg.load(tmp_path / "damaged.pgraph")


def test_a_state_without_a_branch_is_refused(experts: tuple[pg.ParamGraph, nn.Module, tuple[torch.Tensor, ...]]) -> None:
    graph = experts[0]
    state = graph.state_dict()
    del state[MEMBERS[1]]
    with pytest.raises(StateDictError, match=r"experts\.1\.0\.weight"):
        graph.symmetry.sample(0).act(state)


@pytest.mark.parametrize("name", ["experts in a list, slice", "branches of branches", "attention heads in a list", "a block of branches"])
def test_metanets_do_not_see_exchanges(name: str) -> None:
    model, inputs = CASES[name].build()
    graph = pg.compile(model.double(), tuple(x.double() for x in inputs))
    torch.manual_seed(0)
    net = pg.metanets.GMN(hidden=8, layers=2, backend="torch").double()
    moved = graph.with_values(graph.symmetry.sample(1, kinds="permutation").act(graph.state_dict()))
    before, after = net([graph]), net([moved])
    assert torch.allclose(before, after, rtol=1e-10, atol=1e-10)


def test_training_statistics_move_with_their_branches() -> None:
    model = branches.Branched().train()
    inputs = (torch.randn(4, 3, 4, 4),)
    graph = pg.compile(model, inputs)
    assert pg.verify(graph, model, inputs).passed
    assert graph.symmetry.log_order == pytest.approx(branches.BLOCK)
    assert any("running_mean" in name for name in graph.symmetry.stacks)


def test_experts_on_the_meta_device() -> None:
    with torch.device("meta"):
        graph = pg.compile(branches.Experts("slice", 8), torch.empty(5, 3))
    assert graph.symmetry.log_order == pytest.approx(lam(8) + 8 * lam(4))


def test_networks_without_branches_have_no_joins() -> None:
    for name in ("mlp", "residual"):
        if name in CASES:
            model, inputs = CASES[name].build()
            traced = trace(model, inputs)
            assert not find_joins(Lowering(traced.exported, name, traced.state).run())


def test_a_value_that_meets_itself_makes_no_join() -> None:
    class Squares(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.linear(x)
            return h * h * h

    traced = trace(Squares(), torch.randn(7, 3))
    assert not find_joins(Lowering(traced.exported, "squares", traced.state).run())


def stacked(name: str) -> tuple[object, GroupBuilder, list[object]]:
    model, inputs = CASES[name].build()
    traced = trace(model, inputs)
    program = Lowering(traced.exported, name, traced.state).run()
    stacks = stack_branches(program, {})
    typing = type_program(program)
    assert stacks
    assert not idle_joins(typing.system, stacks)
    builder = GroupBuilder(typing.dependencies)
    for value in program.tensors.values():
        builder.action(value.axes)
    builder.close()
    return program, builder, stacks


@pytest.mark.parametrize("name", ["experts in a list, slice", "branches of branches", "attention heads in a list", "branches added"])
def test_the_certificate_follows_branches(name: str) -> None:
    program, builder, stacks = stacked(name)
    certificate = Certificate(program, builder, branch_axes(stacks))
    certificate.check()
    assert len(certificate.ops) > len(stacks)


def test_the_certificate_finds_a_branch_out_of_place() -> None:
    """The router's columns in another order than the experts': an exchange of experts then meets the wrong columns."""
    program, builder, stacks = stacked("branches side by side, two readers")
    moved = next(op for op in program.ops if op.kind == "reshape" and op.inputs[0].shape == (5, 2, 4))
    size = moved.output.shape[1]
    moved.kind, moved.attrs = "take", {"dim": 1, "index": [*range(1, size), 0], "alone": True}
    moved.inputs[0].shape, moved.inputs[0].axes = moved.output.shape, moved.output.axes
    with pytest.raises(Unsettled, match="does not commute"):
        Certificate(program, builder, branch_axes(stacks)).check()


def test_a_certificate_that_fails_costs_the_exchanges_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubting(Certificate):
        def check(self) -> None:
            if self._branches:
                raise Unsettled("doubted")
            super().check()

    monkeypatch.setattr(pipeline, "Certificate", Doubting)
    model, inputs = CASES["experts in a list, slice"].build()
    graph = pg.compile(model, inputs)
    assert not graph.symmetry.stacks
    assert graph.symmetry.log_order == pytest.approx(3 * lam(4))
    assert pg.verify(graph, model, inputs).passed


class Random(nn.Module):
    """Branches drawn at random, some of them subtly unlike, and joined in a random way."""

    FUNCTIONS = (torch.tanh, torch.sigmoid, torch.sin, nn.functional.gelu)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.values, self.count, self.making = seed, nn.ParameterList(), 0, True
        self(torch.randn(4, 3))
        self.making = False

    def value(self, *shape: int) -> torch.Tensor:
        if self.making:
            self.values.append(nn.Parameter(torch.randn(*shape) * 0.5))
        self.count += 1
        return self.values[self.count - 1]

    def layer(self, r: random.Random, x: torch.Tensor, out: int) -> torch.Tensor:
        y = x @ self.value(out, x.shape[-1]).T
        return y + self.value(out) if r.random() < 0.5 else y

    def branches(self, r: random.Random, x: torch.Tensor, inner: bool) -> torch.Tensor:
        count, width, out, plan = r.choice([2, 2, 3]), r.choice([2, 3]), r.choice([2, 3]), r.randrange(1 << 30)
        odd, who = r.randrange(10), r.randrange(count)
        gate = torch.softmax(self.layer(r, x, count), -1) if not inner and r.random() < 0.4 else None
        outs: list[torch.Tensor] = []
        hidden: list[torch.Tensor] = []
        for b in range(count):
            p = random.Random(plan)  # the same plan for each
            h = self.layer(p, x, width)
            hidden.append(h)
            h = p.choice(self.FUNCTIONS)(h)
            if b == who and odd < 3:
                h = (torch.cos(h), h * 1.5, (9 * h).int().type_as(h))[odd]
            if odd == 3 and outs:
                h = h - outs[-1].sum(-1, keepdim=True)
            if not inner and p.random() < 0.3:
                h = self.branches(p, h, True)
            if p.random() < 0.7:
                h = self.layer(p, h, out)
            if p.random() < 0.3:
                h = nn.functional.layer_norm(torch.tanh(h), h.shape[-1:])
            if odd == 4 and b == who:
                h = h.flip(-1)
            outs.append(h if gate is None else gate[:, b : b + 1] * h)
        y = self.join(r, outs)
        if odd == 5:
            y = y + hidden[who].sum(-1, keepdim=True)
        return y.cumsum(-1) if odd == 6 else y

    @staticmethod
    def join(r: random.Random, outs: list[torch.Tensor]) -> torch.Tensor:
        mode = r.randrange(6)
        if mode == 0:
            return sum(outs[1:], outs[0])
        if mode == 1:
            return torch.cat(outs, -1)
        if mode == 2:
            return torch.stack(outs, 1).flatten(1)
        if mode == 3:
            return torch.stack(outs).mean(0)
        y = outs[0]
        for other in outs[1:]:
            y = (y + other if r.random() < 0.8 else y - other) if mode == 4 else y * other
        return y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count, r = 0, random.Random(self.seed)
        h = torch.tanh(self.layer(r, x, 3)) if r.random() < 0.5 else x
        h = self.branches(r, h, False)
        h = torch.tanh(h) if r.random() < 0.6 else h
        return self.layer(r, h, 2) if r.random() < 0.8 else h


@pytest.mark.parametrize("first", range(0, 15, 5))
def test_groups_of_random_branches_are_sound(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = 0
    for seed in range(first, first + 5):
        torch.manual_seed(seed)
        model, x = Random(seed).eval(), torch.randn(4, 3)
        graph = pg.compile(model, x)
        report = pg.verify(graph, model, x, elements=2, inputs=2, leave_one_out=0)
        worst = max([report.whole, *(factor.deviation for factor in report.factors)])
        assert worst < 1e-10, f"seed {seed}: {report}"
        assert not any("claims to move" in problem for problem in report.problems), f"seed {seed}: {report}"
        found += bool(graph.symmetry.stacks)
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "stack_branches", lambda *args: [])
            assert pg.compile(model, x).symmetry.log_order <= graph.symmetry.log_order + 1e-9, f"seed {seed}: less than without exchanges"
    assert found
    assert math.isfinite(worst)

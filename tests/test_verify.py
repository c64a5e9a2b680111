"""Verification: it passes what is right, and it can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.errors import GroupError, StateDictError, TraceError
from paramgraph.symmetries.group import ActionBlock, Factor, GroupElement, IndexSpace, SymmetryGroup, TensorAction
from paramgraph.verification.checks import Checks
from paramgraph.verification.compare import deviation
from tests.support import attention, branches, gathered, layers, values  # noqa: F401  registers the cases
from tests.support.cases import CASES


def with_group(graph: ParamGraph, **changes: Any) -> ParamGraph:
    return replace(graph, symmetry=replace(graph.symmetry, **changes))


def permutations(graph: ParamGraph) -> ParamGraph:
    """The graph with its permutations only: scales and signs have tests of their own."""
    return replace(graph, symmetry=graph.symmetry.subgroup(["permutation"]))


def network() -> tuple[nn.Module, torch.Tensor, ParamGraph]:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).eval(), torch.randn(5, 4)
    return model, x, permutations(pg.compile(model, x))


# -- it can fail ---------------------------------------------------------------------------------------------------------------


def test_tensor_missing_from_the_action() -> None:
    model, x, graph = network()
    actions = dict(graph.symmetry.actions)
    actions["0.bias"] = replace(actions["0.bias"], components=())
    report = pg.verify(with_group(graph, actions=actions), model, x)
    assert not report.passed
    assert any("changes the outputs" in problem for problem in report.problems)


def test_tensor_that_must_not_move() -> None:
    """A fixed axis moved along with a factor: the output's rows."""
    model, x, graph = network()
    group = graph.symmetry
    actions = dict(group.actions)
    actions["4.bias"] = TensorAction((3,), (((0,), (ActionBlock((None,), ((len(group.spaces),),)),)),))
    spaces = (*group.spaces, IndexSpace(3, "output", len(group.factors)))
    factors = (*group.factors, Factor("output", (len(group.spaces),), (), 3, 1))
    report = pg.verify(with_group(graph, spaces=spaces, factors=factors, actions=actions), model, x)
    assert not report.passed
    assert [f.deviation > 1e-3 for f in report.factors] == [False, False, True]
    assert any("factor S_3 on output changes the outputs" in problem for problem in report.problems)


def crossed(action: TensorAction, swap: dict[int, int]) -> TensorAction:
    """An action whose spaces are exchanged."""
    components = tuple((dims, tuple(replace(b, spaces=tuple(tuple(swap.get(s, s) for s in dim) for dim in b.spaces)) for b in blocks))
                       for dims, blocks in action.components)
    return replace(action, components=components)


def test_two_spaces_of_one_width_exchanged() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).eval(), torch.randn(5, 4)
    graph = permutations(pg.compile(model, x))
    group = graph.symmetry
    first, second = (f.spaces[0] for f in group.factors)
    wrong = crossed(group.actions["4.weight"], {first: second, second: first})
    assert not pg.verify(with_group(graph, actions={**group.actions, "4.weight": wrong}), model, x).passed


def test_two_factors_merged_into_one() -> None:
    """One permutation for two hidden layers leaves the function unchanged: the group is too small, and each tensor is still needed.
    That is for counting to find; what must not happen is that the merged group is taken for the larger one."""
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).eval(), torch.randn(5, 4)
    graph = permutations(pg.compile(model, x))
    group = graph.symmetry
    first, second = (f.spaces[0] for f in group.factors)
    actions = {name: crossed(action, {second: first}) for name, action in group.actions.items()}
    merged = with_group(graph, actions=actions, factors=group.factors[:1])
    assert merged.symmetry.log_order < group.log_order
    assert pg.verify(merged, model, x).passed


def test_query_dimensions_moved_with_those_of_values() -> None:
    model, inputs = CASES["two-head attention"].build()
    graph = pg.compile(model, inputs)
    group = graph.symmetry
    first, second = (f.spaces[0] for f in group.factors if (f.size, f.copies) == (4, 2))
    wrong = {name: crossed(group.actions[name], {first: second, second: first}) for name in ("q.weight", "q.bias")}
    report = pg.verify(with_group(graph, actions={**group.actions, **wrong}), model, inputs)
    assert not report.passed
    assert sum(f.deviation > 1e-3 for f in report.factors) == 2


def test_group_that_moves_nothing() -> None:
    model, x, graph = network()
    actions = {name: replace(action, components=()) for name, action in graph.symmetry.actions.items()}
    report = pg.verify(with_group(graph, actions=actions), model, x)
    assert any("moves no tensor" in problem for problem in report.problems)


def test_factor_that_does_not_move_what_it_claims() -> None:
    """A block over a single element of an axis: the action names the space, but nothing moves."""
    model, x, graph = network()
    group = graph.symmetry

    class Lazy(SymmetryGroup):
        def moved_by(self, number: int) -> list[str]:
            return [*super().moved_by(number), "4.bias"]

    lazy = Lazy(group.spaces, group.factors, group.actions, group.aliases)
    report = pg.verify(replace(graph, symmetry=lazy), model, x)
    assert any("claims to move 4.bias" in problem for problem in report.problems)


def test_whole_group_is_compared_by_itself() -> None:
    """Every factor is right, and what users draw of all of them is not."""
    model, x, graph = network()
    group = graph.symmetry
    wrong = replace(group, actions={**group.actions, "0.bias": replace(group.actions["0.bias"], components=())})

    class Mixed(SymmetryGroup):
        def sample(self, seed: Any = None, *, factors: Any = None, **options: Any) -> GroupElement:
            return super().sample(seed, factors=factors, **options) if factors is not None else wrong.sample(seed, **options)

    mixed = Mixed(group.spaces, group.factors, group.actions, group.aliases)
    report = pg.verify(replace(graph, symmetry=mixed), model, x)
    assert not report.passed and report.whole > 1e-3 and max(f.deviation for f in report.factors) < 1e-10
    assert any("the whole group change the outputs" in problem for problem in report.problems)


@pytest.mark.parametrize(("before", "after", "expected"), [
    (torch.tensor([2.0, 1.0]), torch.tensor([2.0, 1.5]), 0.25),
    (torch.tensor([1, 2]), torch.tensor([1, 3]), 1),
    (torch.tensor([True]), torch.tensor([True]), 0),
    (torch.tensor([torch.inf, 1.0]), torch.tensor([torch.inf, 1.5]), 0.5),
    (torch.tensor([torch.inf, 1.0]), torch.tensor([-torch.inf, 1.0]), torch.inf),
    (torch.tensor([torch.inf, 1.0]), torch.tensor([1.0, torch.inf]), torch.inf),
    (torch.tensor([1.0]), torch.tensor([torch.nan]), torch.inf),
    (torch.tensor([1.0]), torch.tensor([1.0, 1.0]), torch.inf),
    (3, 3, 0),
    (3, 4, torch.inf),
])  # fmt: skip
def test_deviations(before: Any, after: Any, expected: float) -> None:
    """Of numbers relative to the largest, of all else whether they are the same; what cannot be compared is infinitely far."""
    assert deviation([torch.ones(2), before], [torch.ones(2), after]) == expected


def test_group_that_is_too_small_is_told_by_leaving_out() -> None:
    """An action split in two that could move apart: leaving one tensor out changes nothing."""
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval(), torch.randn(5, 4)
    graph = permutations(pg.compile(model, x))
    group = graph.symmetry

    class Idle(nn.Module):  # the same network with a table whose squares are summed: its order has no influence, though its values have
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.table = model, nn.Parameter(torch.randn(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + self.table.square().sum()

    idle = Idle().eval()
    whole = pg.compile(idle, x)
    factor = next(n for n, f in enumerate(whole.symmetry.factors) if "inner.0.weight" in whole.symmetry.moved_by(n))
    space = whole.symmetry.factors[factor].spaces
    tied = {**whole.symmetry.actions, "table": TensorAction((6,), (((0,), (ActionBlock((None,), (space,)),)),))}
    report = pg.verify(with_group(whole, actions=tied), idle, x, leave_one_out="all")
    assert any("leaving table out of the action" in problem for problem in report.problems)
    assert any("permuting axis 0 of table alone is outside the group" in problem for problem in report.problems)
    assert pg.verify(whole, idle, x, leave_one_out="all").passed
    assert group.log_order > 0


def test_broken_law() -> None:
    model, x, graph = network()

    class Broken(SymmetryGroup):
        def identity(self):  # type: ignore[no-untyped-def]
            return self.sample(1)

    group = graph.symmetry
    report = pg.verify(replace(graph, symmetry=Broken(group.spaces, group.factors, group.actions, group.aliases)), model, x)
    assert report.laws["eθ = θ"] is False
    assert any("group law" in problem for problem in report.problems)


def test_exported_graph_of_another_function(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, graph = network()
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: torch.sin(x) if not torch.compiler.is_exporting() else torch.tanh(x))
    report = pg.verify(graph, model, x)
    assert any("the exported graph differs from the network itself" in problem for problem in report.problems)


def test_nan_is_a_problem() -> None:
    class Nan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(-self.a(x).abs() - 1)

    model, x = Nan().eval(), torch.randn(5, 4)
    report = pg.verify(pg.compile(model, x), model, x)
    assert not report.passed
    assert any("nothing can be compared" in problem for problem in report.problems)


# -- what it says --------------------------------------------------------------------------------------------------------------


def test_report() -> None:
    model, x, graph = network()
    report = pg.verify(graph, model, x, leave_one_out="all", elements=2, inputs=2)
    assert report.passed
    assert report.problems == []
    assert report.max_deviation < 1e-12
    assert [f.together for f in report.factors] == [1, 1]
    assert {name for f in report.factors for name in f.moved} == {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight"}
    assert set(report.left_out) == {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight"}
    assert min(report.left_out.values()) > 1e-6
    assert report.outside_changed
    assert all(report.laws.values())
    assert len(report.laws) == 3
    text = str(report)
    assert text.startswith("verification of Sequential passed")
    assert len(text.splitlines()) < 15
    assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in report.rows())


def test_trivial_group_is_said() -> None:
    model, x = nn.Linear(4, 3).eval(), torch.randn(5, 4)
    report = pg.verify(pg.compile(model, x), model, x)
    assert report.passed
    assert any("nothing to verify" in note for note in report.notes)
    assert report.laws == {}


def test_what_was_not_checked_is_said() -> None:
    model, x, graph = network()
    none = pg.verify(graph, model, x, leave_one_out=0)
    assert any("no tensor was left out" in note for note in none.notes)
    some = pg.verify(graph, model, x, leave_one_out=2)
    assert any("2 of 5 tensors were left out" in note for note in some.notes)
    bundled = pg.verify(graph, model, x, bundles=1)
    assert [f.together for f in bundled.factors] == [2, 2]
    assert any("in 1 bundles" in note for note in bundled.notes)


def test_bundle_that_fails_is_taken_apart() -> None:
    model, x, graph = network()
    actions = dict(graph.symmetry.actions)
    actions["0.bias"] = replace(actions["0.bias"], components=())
    report = pg.verify(with_group(graph, actions=actions), model, x, bundles=1)
    assert sorted(f.deviation > 1e-6 for f in report.factors) == [False, True]


def test_bundle_that_fails_as_a_whole_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its factors is right by itself, and both together are not."""
    model, x, graph = network()
    monkeypatch.setattr(Checks, "_deviation", lambda self, element, *_: float(len(element.parts) > 1))
    report = pg.verify(graph, model, x, bundles=1)
    assert [f.deviation for f in report.factors] == [0, 0]
    assert any("together change the outputs" in problem for problem in report.problems)


def test_tensor_without_influence_is_said() -> None:
    model, inputs = CASES["two-head attention"].build()
    report = pg.verify(pg.compile(model, inputs), model, inputs, leave_one_out="all")
    assert report.passed
    assert report.without_influence == ("k.bias",)


def test_seed_reproduces() -> None:
    model, x, graph = network()
    first, second = (pg.verify(graph, model, x, seed=3) for _ in range(2))
    assert first.left_out == second.left_out
    assert first.left_out != pg.verify(graph, model, x, seed=4).left_out


def test_progress_reaches_its_end() -> None:
    model, x, graph = network()
    calls: list[tuple[int, int, str]] = []
    pg.verify(graph, model, x, progress=lambda *a: calls.append(a))
    assert calls
    assert all(done <= total for done, total, _ in calls)
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


def test_network_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(5, 4)
    pg.verify(pg.compile(model, x), model, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.get_default_dtype() == torch.float32
    assert model.training


# -- precisions, modes, inputs -------------------------------------------------------------------------------------------------


class Casting(nn.Module):
    """Casts to float32 inside, as normalisations of language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gain, self.b = nn.Linear(4, 8), nn.Parameter(torch.ones(8)), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        z = y.float()
        z = z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6)
        scale = torch.full((1,), 0.7, dtype=torch.float32) + torch.arange(8, dtype=torch.float32).sum() / 28
        return self.b(self.gain * (z * scale).to(y.dtype))


def test_casts_inside_are_rewritten() -> None:
    model, x = Casting().eval(), torch.randn(5, 4)
    report = pg.verify(pg.compile(model, x), model, x)
    assert report.passed
    assert report.max_deviation < 1e-13
    assert report.exported is not None
    assert 1e-12 < report.exported < 1e-5  # the network itself rounds to float32 inside


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precisions(dtype: torch.dtype) -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).eval().to(dtype), torch.randn(5, 4, dtype=dtype)
    report = pg.verify(pg.compile(model, x), model, x)
    assert report.passed
    assert report.max_deviation < 1e-13


def test_variances_stay_positive_whatever_their_name() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
            self.register_buffer("spread", torch.ones(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x) * torch.rsqrt(self.spread + 1e-5))

    model, x = Frozen().eval(), torch.randn(5, 4)
    report = pg.verify(pg.compile(model, x), model, x, leave_one_out="all")
    assert report.passed
    assert "spread" in report.left_out


def test_training_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)).train()
    x = torch.randn(4, 3, 7, 7)
    report = pg.verify(pg.compile(model, x), model, x, leave_one_out="all")
    assert report.passed, str(report)
    assert "dropout is taken as the identity" in report.notes
    assert "1.running_mean" in {name for f in report.factors for name in f.moved}


def test_new_buffers_must_move_with_the_buffers() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).train(), torch.randn(5, 4)
    graph = pg.compile(model, x)
    assert pg.verify(graph, model, x).passed
    actions = dict(graph.symmetry.actions)
    actions["1.running_mean"] = replace(actions["1.running_mean"], components=())
    assert not pg.verify(with_group(graph, actions=actions), model, x).passed


def test_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Conv2d(8, 5, 3)).eval()
    x = torch.randn(2, 3, 9, 9, device="meta")
    report = pg.verify(pg.compile(model, x), model, x)
    assert report.passed, str(report)
    assert report.exported is None
    assert any("meta device" in note for note in report.notes)


def test_keyword_inputs_and_nested_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(4, 6), nn.Embedding(9, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor, *, tokens: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, Any]:
            y = torch.tanh(self.a(x) + self.b(tokens))
            return {"y": self.o(y), "more": (self.o(y * 2), None, 3)}

    model = Two().eval()
    for args, kwargs in (((torch.randn(5, 4),), {"tokens": torch.randint(0, 9, (5,))}),
                         ({"tokens": torch.randint(0, 9, (5,)), "x": torch.randn(5, 4)}, None)):
        report = pg.verify(pg.compile(model, args, kwargs), model, args, kwargs, leave_one_out="all")
        assert report.passed, str(report)
        assert report.exported is not None
        assert set(report.left_out) == {"a.weight", "a.bias", "b.weight", "o.weight"}


def test_boolean_inputs_keep_their_values() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.b(torch.where(mask[:, None], torch.tanh(self.a(x)), 0.5))

    model, inputs = Chosen().eval(), (torch.randn(5, 4), torch.tensor([True, False, True, True, False]))
    report = pg.verify(pg.compile(model, inputs), model, inputs)
    assert report.passed
    assert any("boolean" in note for note in report.notes)


@pytest.mark.parametrize("name", ["tied embedding", "tied across a transpose"])
def test_shared_parameters(name: str) -> None:
    model, inputs = CASES[name].build()
    report = pg.verify(pg.compile(model, inputs), model, inputs, leave_one_out="all")
    assert report.passed, str(report)
    assert report.exported is not None
    assert not any("not read" in note for note in report.notes)


def test_ties_that_the_action_breaks_are_said() -> None:
    model, inputs = CASES["tied embedding"].build()
    graph = pg.compile(model, inputs)
    ((name, alias),) = graph.aliases.items()
    report = pg.verify(with_group(graph, aliases={}), model, inputs)
    assert any(f"{name} and {alias.base} are tied, but not after the action" in problem for problem in report.problems)


class Squeeze(nn.Module):
    """Two units between means and gates: under some random states neither is active, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.down, self.up, self.out = nn.Conv2d(6, 4, 3), nn.Linear(4, 2), nn.Linear(2, 4), nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.into(x))
        gates = torch.sigmoid(self.up(torch.relu(self.down(h.mean((2, 3))))))
        return self.out(h * gates[:, :, None, None]).mean((2, 3))


@pytest.mark.parametrize("seed", range(3))
def test_units_that_one_state_leaves_idle_are_no_problem(seed: int) -> None:
    model, x = Squeeze().eval(), torch.randn(3, 6, 5, 5)
    report = pg.verify(pg.compile(model, x), model, x, seed=seed)
    assert report.passed, str(report)


# -- errors --------------------------------------------------------------------------------------------------------------------


def test_graph_of_another_network() -> None:
    model, x, _ = network()
    other = pg.compile(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).eval(), x)
    with pytest.raises(StateDictError, match="does not fit Sequential"):
        pg.verify(other, model, x)
    wider = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    with pytest.raises(StateDictError, match=r"2\.weight: expected shape \(8, 6\), got \(7, 6\)"):
        pg.verify(pg.compile(wider, x), model, x)


def test_bad_arguments() -> None:
    model, x, graph = network()
    with pytest.raises(GroupError, match="at least one element"):
        pg.verify(graph, model, x, elements=0)
    with pytest.raises(GroupError, match="leave_one_out"):
        pg.verify(graph, model, x, leave_one_out="most")  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="example inputs"):
        pg.verify(graph, model)
    with pytest.raises(TraceError, match=r"float32\[5, 9\]"):
        pg.verify(graph, model, torch.randn(5, 9))

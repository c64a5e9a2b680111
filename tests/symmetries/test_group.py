"""Group elements: the laws of a group, and of its action on state dicts."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.errors import GroupError, StateDictError
from tests.support import attention, branches, gathered, indexing, layers, layouts, merging, pairing, values  # noqa: F401  register the cases
from tests.support.cases import CASES

# Products, wreath products, families over parts, tied tensors, packed and grouped axes.
NAMES = ("mlp", "group norm", "grouped-query attention", "packed attention", "transformer decoder", "tied across a transpose",
         "depthwise convolution with multiplier", "group norm over a concatenation", "masked autoregressive", "soft mixture of experts",
         "bidirectional two-layer lstm", "softmax over rows", "talking heads")
SEEDS = st.integers(0, 2**31 - 1)


@cache
def graph_of(name: str) -> ParamGraph:
    model, inputs = CASES[name].build()
    return pg.compile(model, inputs)


def labels(graph: ParamGraph) -> dict[str, torch.Tensor]:
    """A state dict whose elements are all different; aliases are views of their bases."""
    state, start = {}, 0
    for action in graph.symmetry.actions:
        shape = graph.symmetry.member_shape(action)
        for name in graph.symmetry.members(action):
            state[name] = torch.arange(start, start + math.prod(shape)).reshape(shape)
            start += math.prod(shape)
    return state | {name: alias.read(state) for name, alias in graph.aliases.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=15)
@given(seeds=st.tuples(SEEDS, SEEDS, SEEDS))
def test_laws(name: str, seeds: tuple[int, int, int]) -> None:
    graph = graph_of(name)
    group, theta = graph.symmetry, labels(graph)
    g, h, k = (group.sample(seed, kinds=["permutation"]) for seed in seeds)
    assert equal((g @ h).act(theta), g.act(h.act(theta)))
    assert equal(g.inverse().act(g.act(theta)), theta)
    assert equal(group.identity().act(theta), theta)
    assert (g @ h) @ k == g @ (h @ k)
    assert g @ group.identity() == g == group.identity() @ g
    assert (g @ g.inverse()).is_identity()
    assert (g.inverse() @ g).is_identity()
    assert (g @ h).inverse() == h.inverse() @ g.inverse()


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=10)
@given(seed=SEEDS)
def test_action_permutes_elements_and_keeps_ties(name: str, seed: int) -> None:
    graph = graph_of(name)
    theta = labels(graph)
    moved = graph.symmetry.sample(seed, kinds=["permutation"]).act(theta)
    for key, tensor in theta.items():
        assert moved[key].shape == tensor.shape
        assert torch.equal(moved[key].reshape(-1).sort().values, tensor.reshape(-1).sort().values)
    for key, alias in graph.aliases.items():
        assert torch.equal(moved[key], alias.read(moved))


@pytest.mark.parametrize("name", NAMES)
def test_number_of_distinct_elements(name: str) -> None:
    """Small factors: all permutations occur, and different ones act differently."""
    graph = graph_of(name)
    theta = labels(graph)
    for number, factor in enumerate(graph.symmetry.permuting):
        if factor.log_order > math.log(30):
            continue
        seen = set()
        for seed in range(400):
            moved = graph.symmetry.sample(seed, factors=[number]).act(theta)
            seen.add(tuple(tuple(moved[key].reshape(-1).tolist()) for key in graph.symmetry.moved_by(number)))
        assert len(seen) == round(math.exp(factor.log_order))


def test_log_order_is_the_sum_of_the_factors() -> None:
    group = graph_of("grouped-query attention").symmetry
    permutations = [f for f in group.factors if f.kind == "permutation"]
    assert group.log_order == pytest.approx(sum(f.copies * math.lgamma(f.size + 1) for f in permutations))


def test_sampling_is_reproducible() -> None:
    group = graph_of("group norm").symmetry
    assert group.sample(5, kinds=["permutation"]) == group.sample(5, kinds=["permutation"])
    assert group.sample(torch.Generator().manual_seed(5), kinds=["permutation"]) == group.sample(5, kinds=["permutation"])
    assert group.sample(5, kinds=["permutation"]) != group.sample(6, kinds=["permutation"])
    generator = torch.Generator().manual_seed(5)
    assert group.sample(generator, kinds=["permutation"]) != group.sample(generator, kinds=["permutation"])


def test_sampling_chosen_factors() -> None:
    graph = graph_of("group norm")
    group, theta = graph.symmetry.subgroup(["permutation"]), labels(graph)
    for number, factor in enumerate(group.factors):
        g = next(g for g in (group.sample(seed, factors=[factor.name]) for seed in range(50)) if not g.is_identity())
        assert set(g.parts) == {number}
        moved = {name for name, tensor in g.act(theta).items() if not torch.equal(tensor, theta[name])}
        assert moved == set(group.moved_by(number))
    assert group.sample(0, factors=[]).is_identity()
    assert group.sample(0, kinds=["permutation"]) == group.sample(0, kinds=["permutation"])


def test_act_copies() -> None:
    graph = graph_of("mlp")
    theta = labels(graph)
    before = {name: tensor.clone() for name, tensor in theta.items()}
    moved = graph.symmetry.identity().act(theta)
    for tensor in moved.values():
        tensor.add_(1)
    assert equal(theta, before)


def test_forward_derivatives_pass_what_is_moved_and_what_is_not() -> None:
    """The action is linear: it takes the direction in which a tensor changes as it takes a tensor. Large tensors that stay are copied so, too."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 300))
    model.append(torch.nn.Linear(300, 300))
    symmetry = pg.compile(model, torch.randn(2, 3)).symmetry
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    direction = {name: torch.randn_like(tensor) for name, tensor in state.items()}
    for element in (symmetry.identity(), symmetry.sample(0, factors=[0])):
        _, moved = torch.func.jvp(element.act, (state,), (direction,))
        assert equal(moved, element.act(direction))


def test_act_keeps_other_names_and_dtypes() -> None:
    graph = graph_of("mlp")
    state = {name: torch.randn(a.shape, dtype=torch.float16) for name, a in graph.symmetry.actions.items()}
    moved = graph.symmetry.sample(0, kinds=["permutation"]).act(state | {"extra": torch.arange(3)})
    assert torch.equal(moved["extra"], torch.arange(3))
    assert all(moved[name].dtype == torch.float16 for name in state)


def test_errors() -> None:
    graph, other = graph_of("mlp"), graph_of("group norm")
    group = graph.symmetry
    with pytest.raises(GroupError, match="two different groups"):
        _ = group.sample(0, kinds=["permutation"]) @ other.symmetry.sample(0)
    with pytest.raises(GroupError, match="unknown factor 'no such factor'"):
        group.sample(0, factors=["no such factor"])
    with pytest.raises(GroupError, match="unknown factor 99"):
        group.sample(0, factors=[99])
    with pytest.raises(GroupError, match="unknown kinds"):
        group.sample(0, kinds=["rotation"])
    theta = labels(graph)
    with pytest.raises(StateDictError, match=r"0\.weight.*expected shape \(6, 4\), got \(4, 6\)"):
        group.sample(0, kinds=["permutation"]).act(theta | {"0.weight": theta["0.weight"].T})
    del theta["2.bias"]
    with pytest.raises(StateDictError, match=r"2\.bias"):
        group.sample(0, kinds=["permutation"]).act(theta)


def test_prints_in_a_few_lines() -> None:
    text = str(graph_of("transformer decoder").symmetry)
    assert "ln order" in text
    assert len(text.splitlines()) <= 10

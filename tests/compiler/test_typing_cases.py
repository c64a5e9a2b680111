"""Each small network's group has the order derived by hand, and leaves its function unchanged."""

from __future__ import annotations

import pytest
import torch

import paramgraph as pg
from tests.support import algebra, attention, branches, derivatives, gathered, groups, indexing, layers, layouts, merging, pairing, values  # noqa: F401  register the cases
from tests.support.attention import T5, Attention
from tests.support.cases import CASES, compiled, traced


@pytest.mark.parametrize("name", CASES)
def test_order_and_function(name: str) -> None:
    model, inputs, graph = compiled(name)
    assert [d for d in graph.diagnostics if d.kind == "unknown-operation"] == []
    # The certificate finds nothing wrong with the first typing.
    assert [d for d in graph.diagnostics if d.subject in ("families", "the whole network")] == []
    report = pg.verify(graph, model, inputs, elements=2, inputs=2, leave_one_out="all", traced=traced(name)[2])
    assert report.passed, str(report)
    assert report.exported is not None
    assert report.exported < 1e-10
    assert graph.symmetry.log_order == pytest.approx(CASES[name].log_order, abs=1e-9), str(graph.symmetry)
    assert all(space.cause for space in graph.symmetry.spaces if space.pinned)
    assert all(d.cause for d in graph.diagnostics)
    # Scales and moves were searched for to the end: what fails is left out of the group, and verification does not miss it.
    assert graph.symmetry.moves is not None
    assert [d for d in graph.symmetry.scales.diagnostics if "they could not be" in d.cause] == []


def heads(*names: str, width: int = 8) -> list[tuple[str, int]]:
    """Places of the head dimensions: rows of projections and their biases, columns of the output."""
    return [*((f"{n}.weight", 0) for n in names if n != "o"), *((f"{n}.bias", 0) for n in names if n != "o"),
            *((f"{n}.weight", 1) for n in names if n == "o")]


def blocks(order: list[int], size: int) -> list[int]:
    return [block * size + i for block in order for i in range(size)]


SWAP_FIRST = [4, 1, 2, 3, 0, 5, 6, 7]  # the first dimension of one head with the first of the other
INSIDE = [1, 0, 2, 3, 4, 5, 6, 7]  # two dimensions of the first head

# Permutations by hand: (network, places, permutation, whether the function keeps). The kept ones show that the others fail for a reason.
BY_HAND = {
    "heads": (lambda: Attention(), heads("q", "k", "v", "o"), blocks([1, 0], 4), True),
    "heads of queries alone": (lambda: Attention(), heads("q"), blocks([1, 0], 4), False),
    "query-key dimensions": (lambda: Attention(), heads("q", "k"), INSIDE, True),
    "value-output dimensions": (lambda: Attention(), heads("v", "o"), INSIDE, True),
    "a neuron across heads, query-key": (lambda: Attention(), heads("q", "k"), SWAP_FIRST, False),
    "a neuron across heads, value-output": (lambda: Attention(), heads("v", "o"), SWAP_FIRST, False),
    "query-key and value-output swapped over": (lambda: Attention(), heads("q", "v"), INSIDE, False),
    "alibi heads": (lambda: Attention(position="alibi"), heads("q", "k", "v", "o"), blocks([1, 0], 4), False),
    "alibi dimensions": (lambda: Attention(position="alibi"), heads("q", "k"), INSIDE, True),
    "rotary query-key dimensions": (lambda: Attention(position="rotary"), heads("q", "k"), INSIDE, False),
    "rotary value-output dimensions": (lambda: Attention(position="rotary"), heads("v", "o"), INSIDE, True),
    "query heads within a group": (lambda: Attention(16, 4, 2), heads("q", "o"), blocks([1, 0, 2, 3], 4), True),
    "query heads across groups": (lambda: Attention(16, 4, 2), heads("q", "o"), blocks([2, 1, 0, 3], 4), False),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_permutations_by_hand(name: str) -> None:
    make, places, permutation, keeps = BY_HAND[name]
    model, inputs = make().eval(), (torch.randn(3, 7, 5),)
    state = groups.random_state(model)
    found = groups.change(model, inputs, state, groups.permuted(state, places, permutation))
    assert (found < 1e-12) if keeps else (found > 1e-6)


@pytest.mark.parametrize(("layers_moved", "table", "keeps"), [((0, 1), True, True), ((0,), True, False), ((0, 1), False, False)])
def test_t5_heads_move_in_all_layers(layers_moved: tuple[int, ...], table: bool, keeps: bool) -> None:
    model, inputs = T5().eval(), (torch.randn(3, 6, 5),)
    state = groups.random_state(model)
    places = [(f"layers.{n}.{p}.weight", 0 if p < 3 else 1) for n in layers_moved for p in range(4)]
    moved = groups.permuted(state, places, blocks([1, 0], 4))
    if table:
        moved = groups.permuted(moved, [("table.weight", 1)], [1, 0])
    found = groups.change(model, inputs, state, moved)
    assert (found < 1e-12) if keeps else (found > 1e-6)


@pytest.mark.parametrize("name", ["grouped-query attention", "alibi attention", "t5 relative bias", "rotary attention"])
def test_element_count_of_heads(name: str) -> None:
    """What must not move has no factor: no factor is larger than the case allows."""
    model, inputs = CASES[name].build()
    factors = pg.compile(model, inputs).symmetry.factors
    sizes = sorted((f.size, f.copies) for f in factors if f.kind == "permutation")
    expected = {
        "grouped-query attention": [(2, 1), (2, 2), (4, 2), (4, 2), (16, 1)],
        "alibi attention": [(4, 2), (4, 2), (8, 1)],
        "t5 relative bias": [(2, 1), (4, 2), (4, 2), (4, 2), (4, 2), (8, 1)],
        "rotary attention": [(2, 1), (4, 2), (8, 1)],
    }[name]
    assert sorted((size, copies) for size, copies in sizes) == expected or sum_orders(sizes) == pytest.approx(sum_orders(expected))


def sum_orders(sizes: list[tuple[int, int]]) -> float:
    import math

    return sum(copies * math.lgamma(size + 1) for size, copies in sizes)

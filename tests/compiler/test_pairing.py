"""Pairing: spaces that depend on what stands beside them in their axis, where another axis of the tensor holds that as well."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.compiler import pipeline
from paramgraph.compiler.operations.layout import record_common
from paramgraph.compiler.trace import trace
from paramgraph.metanets import GMN, equivariance_error
from paramgraph.symmetries.dependencies import Dependencies
from paramgraph.symmetries.space import Space
from paramgraph.symmetries.spaces import SpaceSystem
from paramgraph.symmetries.store import SpaceStore
from tests.support import pairing
from tests.support.automorphisms import log_automorphisms
from tests.support.cases import CASES, compiled, lam
from tests.support.pairing import PRODUCT, WREATH, Stream, grouped_norm, in_groups

LARGE = [name for name, case in CASES.items() if case.make.__module__ == pairing.__name__ and case.log_order >= WREATH]


def unpaired(model: nn.Module, inputs: tuple[torch.Tensor, ...], patch: pytest.MonkeyPatch) -> pg.ParamGraph:
    """The graph where a space may depend only on what occurs once in every tensor."""
    with patch.context() as m:
        m.setattr(pipeline, "_compiled", lambda lower: pipeline._without_idle(lower, pairing=False))
        return pipeline.compile_trace(trace(model, inputs))


def free(system: SpaceSystem, *sizes: int) -> list[Space]:
    return [system.fresh(size) for size in sizes]


# -- spaces ------------------------------------------------------------------------------------------------------------


def test_each_occurrence_depends_on_what_stands_beside_it() -> None:
    system = SpaceSystem()
    g, c = free(system, 2, 3)
    system.record([(g, c), (g, c)])
    found = Dependencies(system)
    assert found.on[c] == {g}
    assert found.on[g] == {c}
    assert found.partners == {g, c}
    assert found.coupled([(g, c), (g, c)]) == [[0], [1]]


def test_without_pairing_nothing_depends_on_what_occurs_twice() -> None:
    system = SpaceSystem()
    g, c = free(system, 2, 3)
    system.record([(g, c), (g, c)])
    found = Dependencies(system, pairing=False)
    assert found.on[c] == found.on[g] == found.partners == set()


@pytest.mark.parametrize("apart", [[(0,), (1,), (0, 1)], [(0,), (1, 0), (1,)], [(0, 1, 0, 1)]])
def test_occurrences_without_a_partner_depend_on_nothing(apart: list[tuple[int, ...]]) -> None:
    """One tensor in which it is not said which group an occurrence belongs to is enough."""
    system = SpaceSystem()
    spaces = free(system, 2, 3)
    system.record([tuple(spaces), tuple(spaces)])
    system.record([tuple(spaces[i] for i in axis) for axis in apart])
    found = Dependencies(system)
    assert found.on[spaces[1]] == set()


def test_a_tensor_that_is_divided_in_two_ways_has_no_partners() -> None:
    """[g], [c, g] seen as [g, c], [g]: c would belong to one group before, and to the other after."""
    system = SpaceSystem()
    g, c = free(system, 2, 3)
    before, after = [(g,), (c, g)], [(g, c), (g,)]
    for axes in ([(g,)], before, after):
        system.record(axes)
    assert Dependencies(system).on[c] == {g}
    record_common(system, before, after)
    assert Dependencies(system).on[c] == set()


def test_a_finer_division_tells_partners() -> None:
    system = SpaceSystem()
    g, c, k = free(system, 2, 3, 5)
    before, after = [(g, c), (k, g, c)], [(g, c), (k,), (g, c)]
    for axes in ([(g,)], [(g, c)], [(k,)], before, after):
        system.record(axes)
    record_common(system, before, after)
    assert Dependencies(system).on[c] == {g}


def test_what_occurs_once_in_all_of_a_tensor_comes_first() -> None:
    """[(g, c)], [c]: both c may follow the one g. Then g cannot follow the c beside it: they would not be defined together."""
    system = SpaceSystem()
    g, c = free(system, 2, 3)
    system.record([(g, c), (c,)])
    found = Dependencies(system)
    assert found.on[c] == {g}
    assert found.on[g] == set()
    assert found.coupled([(g, c), (c,)]) == [[0, 1]]


def test_components_hold_what_their_spaces_depend_on_once() -> None:
    """[(g, c)], [(g, k)] where c follows k, too: the axes are one component, and it holds g twice."""
    system = SpaceSystem()
    g, c, k = free(system, 2, 3, 4)
    system.record([(g, c), (g, k)])
    found = Dependencies(system)
    assert found.on[c] == {k}
    assert found.on[k] == {c}
    system.record([(g, c)])
    system.record([(g, k)])
    found = Dependencies(system)
    assert found.on[c] == found.on[k] == {g}


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE)
def test_pairing_makes_these_groups_larger(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, graph = compiled(name)
    assert unpaired(model, inputs, monkeypatch).symmetry.log_order < graph.symmetry.log_order - 0.1


@pytest.mark.parametrize("name", ["group norm stream, mask of the same element"])
def test_the_certificate_finds_wrong_partners(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not recorded that two spaces move as one, partners are found that are none: the typing is thrown away, and that is said."""
    model, inputs = CASES[name].build()
    record = SpaceStore.record

    def careless(self: SpaceStore, axes: object, read: bool = True, stored: bool = False, paired: bool = True) -> None:
        record(self, axes, read, stored)  # type: ignore[arg-type]

    monkeypatch.setattr(SpaceStore, "record", careless)
    graph = pg.compile(model, inputs)
    assert graph.symmetry.log_order == pytest.approx(PRODUCT)
    assert any("another axis of its tensor holds" in str(d) for d in graph.diagnostics)
    assert pg.verify(graph, model, inputs).passed


def test_the_certificate_follows_reshapes_of_repeated_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight [(g, c), g] of one matrix product, read as [g, (c, g)] by another: c would belong to two groups."""

    def step(h: torch.Tensor, w: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        pooled = in_groups(grouped_norm(h)).mean(-1)
        first = grouped_norm(h).relu() @ w * gain
        second = (pooled * gain) @ w.view(2, 6)
        return (in_groups(h) * first[..., None]).flatten(2) + second.view(*h.shape[:2], 3, 2).transpose(2, 3).flatten(2)

    model, inputs = Stream(step, (6, 2), (2,)).eval(), (torch.randn(2, 5, 3),)
    graph = pg.compile(model, inputs)
    assert pg.verify(graph, model, inputs).passed
    assert graph.symmetry.log_order == pytest.approx(PRODUCT)
    assert log_automorphisms(graph) == pytest.approx(PRODUCT)
    assert not any("another axis of its tensor holds" in str(d) for d in graph.diagnostics)
    monkeypatch.setattr("paramgraph.compiler.operations.layout.record_common", lambda *_: None)
    graph = pg.compile(model, inputs)
    assert graph.symmetry.log_order == pytest.approx(PRODUCT)
    assert any("another axis of its tensor holds" in str(d) for d in graph.diagnostics)


STEPS = {
    "full": ([(6, 6)], lambda h, w: h + h.tanh() @ w),
    "both": ([(6, 6)], lambda h, w: h + h.tanh() @ w + h.relu() @ w.T),
    "norm": ([], lambda h: grouped_norm(h)),
    "narrow": ([], lambda h: grouped_norm(h, 3)),
    "shared": ([(3, 3)], lambda h, w: h + (in_groups(h.tanh()) @ w).flatten(2)),
    "gain": ([(3,)], lambda h, w: (in_groups(h) * w).flatten(2)),
    "group gain": ([(2, 1)], lambda h, w: (in_groups(h) * w).flatten(2)),
    "own": ([(2, 3, 3)], lambda h, w: h + torch.einsum("btgc,gcd->btgd", in_groups(h.tanh()), w).flatten(2)),
    "mixed": ([(2, 2)], lambda h, w: h + torch.einsum("btgc,gk->btkc", in_groups(h.tanh()), w).flatten(2)),
    "masked": ([(6, 6)], lambda h, w: h + h.tanh() @ (w * torch.kron(torch.ones(2, 2), torch.eye(3)))),
    "rows": ([(6, 6)], lambda h, w: h + h.tanh() @ w.view(2, 3, 6).softmax(1).view(6, 6)),
    "pairs": ([(6, 6)], lambda h, w: h + torch.einsum("bti,ij,btj->bt", h.tanh(), w, h)[..., None]),
    "wide": ([(12, 6)], lambda h, w: h + torch.cat([h.tanh(), grouped_norm(h)], -1) @ w),
}


@pytest.mark.parametrize("seed", range(20))
def test_random_streams(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements of the group leave the function as it is, compose and invert; the group holds the one without pairing; no typing is thrown away."""
    chosen = random.Random(seed).choices(list(STEPS), k=3)
    ends = [0]
    for name in chosen:
        ends.append(ends[-1] + len(STEPS[name][0]))

    def step(h: torch.Tensor, *parts: torch.Tensor) -> torch.Tensor:
        for name, start, end in zip(chosen, ends[:-1], ends[1:], strict=True):
            h = STEPS[name][1](h, *parts[start:end])
        return h

    torch.manual_seed(seed)
    model, inputs = Stream(step, *(shape for name in chosen for shape in STEPS[name][0])).eval(), (torch.randn(2, 5, 3),)
    graph = pg.compile(model, inputs)
    assert not any("another axis" in str(d) for d in graph.diagnostics), chosen
    report = pg.verify(graph, model, inputs)
    assert report.passed, f"{chosen}\n{report}"
    assert graph.symmetry.log_order >= unpaired(model, inputs, monkeypatch).symmetry.log_order - 1e-9
    state = {name: value.double() for name, value in model.state_dict().items()}
    a, b = (graph.symmetry.sample(number, kinds=["permutation"]) for number in (1, 2))
    together, apart, back = (a @ b).act(state), a.act(b.act(state)), a.inverse().act(a.act(state))
    for name, value in state.items():
        assert torch.equal(together[name], apart[name]), (chosen, name)
        assert torch.equal(back[name], value), (chosen, name)


def test_bilinear_forms_of_a_stream_keep_the_smaller_group() -> None:
    """Nodes of pairs of elements of one stream would have to say which group belongs to which: that is not laid out, and nothing is claimed."""

    def step(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = grouped_norm(h)
        return h + torch.einsum("bti,btj,ijo->bto", y.tanh(), y, w)

    model, inputs = Stream(step, (6, 6, 6)).eval(), (torch.randn(2, 5, 3),)
    graph = pg.compile(model, inputs)
    assert pg.verify(graph, model, inputs).passed
    assert graph.symmetry.log_order == pytest.approx(PRODUCT)


def test_graph_networks_are_equivariant_under_the_wreath_product() -> None:
    _, _, graph = compiled("set attention by seeds")
    assert graph.symmetry.log_order > 2 * WREATH + lam(6) - 1e-6
    torch.manual_seed(0)
    element = graph.symmetry.sample(1, kinds=["permutation"])
    for head in ("graph", "edge"):
        metanet = GMN(8, 2, backend="torch", head=head).double().eval()
        wide = graph.with_values({name: value.double() for name, value in graph.values.items()})
        assert equivariance_error(metanet, wide, element) < 1e-10

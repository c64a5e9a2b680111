"""Matrices that commute with rotary positions: where they are, that any of them leaves the function unchanged, and what forbids them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import paramgraph as pg
from paramgraph.compiler.commuting import commutant
from paramgraph.symmetries.commuting import CommutingFactor
from paramgraph.symmetries.translations import TranslationFactor
from tests.symmetries.test_matrices import deviation, matrices_of

Turn = Callable[[Tensor, Tensor], Tensor]


def halves(x: Tensor, angle: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    angle = angle.repeat(1, 2)
    return x * angle.cos().to(x) + torch.cat([-b, a], -1) * angle.sin().to(x)


def pairs(x: Tensor, angle: Tensor) -> Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return x * angle.cos().repeat_interleave(2, -1).to(x) + turned * angle.sin().repeat_interleave(2, -1).to(x)


def by_parts(x: Tensor, angle: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def signed(x: Tensor, angle: Tensor) -> Tensor:
    """The sign is in the table."""
    sin = torch.cat([-angle.sin(), angle.sin()], -1).to(x)
    return x * angle.cos().repeat(1, 2).to(x) + x.roll(2, -1) * sin


def partly(x: Tensor, angle: Tensor) -> Tensor:
    return torch.cat([halves(x[..., :2], angle[:, :1]), x[..., 2:]], -1)


def but_first(x: Tensor, angle: Tensor) -> Tensor:
    return torch.cat([x[..., :1, :], halves(x[..., 1:, :], angle[1:])], -2)


def alike(x: Tensor, angle: Tensor) -> Tensor:
    return halves(x, angle[:, :1].expand(-1, 2))


def unlike(x: Tensor, angle: Tensor) -> Tensor:
    """Elements of a pair have different tables: no turn."""
    a, b = x.chunk(2, -1)
    angle = torch.cat([angle, 2 * angle], -1)
    return x * angle.cos().to(x) + torch.cat([-b, a], -1) * angle.sin().to(x)


def mirrored(x: Tensor, angle: Tensor) -> Tensor:
    """Turns, and reflections beside them, at other positions: nothing but scales commutes with both."""
    return torch.cat([halves(x[..., :3, :], angle[:3]), torch.cat([x[..., 3:, :2], -x[..., 3:, 2:]], -1)], -2)


def shifted(x: Tensor, angle: Tensor) -> Tensor:
    """The last position's values are added with their halves exchanged: what mixes elements of either half alike commutes with that."""
    a, b = x.chunk(2, -1)
    return x + torch.cat([b, 2 * a], -1).roll(1, -2)


def numbers(x: Tensor, angle: Tensor) -> Tensor:
    """Tables that are the same at all positions: elements are multiplied by √2 or 2√2 in all, and only those that are alike may be mixed."""
    a, b = x.chunk(2, -1)
    table = torch.tensor([1.0, 2.0, 1.0, 2.0]).to(x)
    return x * table + torch.cat([-b, a], -1) * table


def shifted_apart(x: Tensor, angle: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x + torch.cat([b, torch.cat([2 * a[..., :1], 3 * a[..., 1:]], -1)], -1).roll(1, -2)


class Turned(nn.Module):
    """Attention whose queries and keys of 4 dimensions are turned by positions."""

    def __init__(self, turn: Turn, heads: int = 2, shared: int = 2, norms: bool = False, act: bool = False) -> None:
        super().__init__()
        self.turn, self.heads, self.shared, self.act = turn, heads, shared, act
        self.q, self.k, self.v = nn.Linear(5, 4 * heads), nn.Linear(5, 4 * shared), nn.Linear(5, 4 * shared)
        self.o = nn.Linear(4 * heads, 3)
        self.norm = nn.RMSNorm(4, eps=0.3) if norms else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (layer(x).view(b, t, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        angle = torch.arange(t)[:, None] * torch.tensor([1.0, 0.3])
        q, k = (self.turn(self.norm(each), angle) for each in (q, k))
        if self.act:
            q = q.tanh()
        k, v = (each.repeat_interleave(self.heads // self.shared, dim=1) for each in (k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


def made(model: nn.Module) -> tuple[nn.Module, Tensor, pg.ParamGraph]:
    model = model.double().eval()
    for p in model.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    return model, x, pg.compile(model, x)


def commuting_of(graph: pg.ParamGraph) -> list[CommutingFactor]:
    return [f for f in graph.symmetry.moves if isinstance(f, CommutingFactor)]


# Per network, `(rows, dimensions)` of each factor of matrices, by hand: complex numbers for two pairs of each of two key-value heads.
FOUND: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, int]]]] = {
    "halves": (lambda: Turned(halves), [(2, 8)]),
    "pairs": (lambda: Turned(pairs), [(2, 8)]),
    "by parts": (lambda: Turned(by_parts), [(2, 8)]),
    "a sign in the table": (lambda: Turned(signed), [(2, 8)]),
    "grouped queries": (lambda: Turned(halves, 6, 2), [(2, 8)]),
    "one key-value head": (lambda: Turned(pairs, 4, 1), [(2, 4)]),
    "all but the first position": (lambda: Turned(but_first), [(2, 8)]),
    "one angle for all": (lambda: Turned(alike), [(4, 16)]),  # GL(2, ℂ)
    "numbers": (lambda: Turned(numbers), [(2, 16)]),  # GL(2) of two elements, twice in either head
    "halves exchanged and positions mixed": (lambda: Turned(shifted), [(4, 8)]),  # GL(2) in either half
    "one pair, and two that are not turned": (lambda: Turned(partly), [(2, 4)]),  # GL(2) of the others is found along their space
}
NONE: dict[str, Callable[[], nn.Module]] = {
    "no pairs": lambda: Turned(unlike),
    "turns and reflections": lambda: Turned(mirrored),
    "positions mixed": lambda: Turned(shifted_apart),
    "norms before": lambda: Turned(halves, norms=True),
    "a function behind": lambda: Turned(halves, act=True),
    "not turned": lambda: Turned(lambda x, angle: x),
}


@pytest.mark.parametrize("name", FOUND)
def test_where_they_are(name: str) -> None:
    make, wanted = FOUND[name]
    model, x, graph = made(make())
    assert [(f.size, f.dimension) for f in commuting_of(graph)] == wanted
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = torch.func.functional_call(model, state, x)
    free = {f.tensor for f in graph.symmetry.moves if isinstance(f, TranslationFactor)}
    for number, factor in enumerate(graph.symmetry.moves):
        motion = graph.symmetry.move(number, [number])
        moved = motion.act(state)
        assert deviation(torch.func.functional_call(model, moved, x), before) < 1e-11
        for member in set(factor.tensors) - free if isinstance(factor, CommutingFactor) else ():
            assert not torch.allclose(moved[member], state[member])
            assert deviation(torch.func.functional_call(model, moved | {member: state[member]}, x), before) > 1e-6
        back = motion.inverse().act(moved)
        assert all(torch.allclose(back[n], state[n]) for n in state)
        g, h = graph.symmetry.move(1, [number]), graph.symmetry.move(2, [number])
        once, twice = (g @ h).act(state), g.act(h.act(state))
        assert all(torch.allclose(once[n], twice[n]) for n in state)


@pytest.mark.parametrize("name", NONE)
def test_where_they_are_not(name: str) -> None:
    """None is declared, and those of plain rotary positions put there by hand change the function."""
    model, x, graph = made(NONE[name]())
    assert commuting_of(graph) == []
    state = {n: t.detach() for n, t in model.state_dict().items()}
    _, _, plain = made(Turned(halves))
    (factor,) = commuting_of(plain)
    moved = state | factor.act(factor.draw(torch.Generator().manual_seed(0), 0.5), state)
    change = deviation(torch.func.functional_call(model, moved, x), torch.func.functional_call(model, state, x))
    assert change < 1e-11 if name == "not turned" else change > 1e-6  # there, all matrices are


def test_partly_turned_dimensions_are_free_otherwise() -> None:
    _, _, graph = made(Turned(partly))
    assert sorted((f.size, f.copies) for f in matrices_of(graph)) == [(2, 2), (4, 2)]


def test_tables_on_the_meta_device() -> None:
    """Those that are computed in the forward are; those that are kept there have no values, and pin what they turn."""

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("angle", torch.arange(6)[:, None] * torch.tensor([1.0, 0.3]), persistent=False)
            self.inner = Turned(lambda x, angle: halves(x, self.angle))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with torch.device("meta"):
        x, computed, kept = torch.randn(2, 6, 5), Turned(halves), Kept()
    assert [(f.size, f.dimension) for f in commuting_of(pg.compile(computed, x))] == [(2, 8)]
    graph = pg.compile(kept, x)
    assert not commuting_of(graph) and "no values on the meta device" in " ".join(map(str, graph.diagnostics))


def test_more_than_the_algebra_fails() -> None:
    model, x, graph = made(Turned(halves))
    (factor,) = commuting_of(graph)
    matrices = torch.eye(2, dtype=torch.float64) + 0.3 * torch.randn(factor.copies, 2, 2, dtype=torch.float64)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    moved = state | factor.act(matrices, state)
    assert deviation(torch.func.functional_call(model, moved, x), torch.func.functional_call(model, state, x)) > 1e-6


@pytest.mark.parametrize("name", ["halves", "pairs", "grouped queries", "one angle for all", "all but the first position"])
def test_all_are_declared(name: str) -> None:
    model, x, graph = made(FOUND[name][0]())
    report = pg.verify(graph, model, x, elements=1, inputs=1, leave_one_out=0, maximality=True)
    assert report.passed, str(report)
    assert report.maximality is not None
    moved = set(report.maximality.missing)
    assert moved.isdisjoint({"q.weight", "k.weight", "q.bias", "k.bias"}), str(report.maximality)


def test_tangents() -> None:
    """The derivative of the action, against finite differences."""
    model, _, graph = made(Turned(pairs, 4, 2))
    (factor,) = commuting_of(graph)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    direction = torch.randn(factor.shape, dtype=torch.float64)
    step = 1e-6 * factor._matrices(direction)
    moved = factor.act(torch.eye(factor.size, dtype=torch.float64) + step, state)
    for name, tangent in factor.tangent(direction, state).items():
        assert torch.allclose((moved[name] - state[name]) / 1e-6, tangent, atol=1e-4)


def test_files_copies_and_printing(tmp_path: Path) -> None:
    _, _, graph = made(Turned(halves))
    assert graph.symmetry.moves
    assert "matrices that commute with fixed ones, of 8 dimensions: GL(1, ℂ)" in str(graph.symmetry)
    graph.save(tmp_path / "a.pgraph")
    state = graph.state_dict()
    wanted = graph.symmetry.move(0).act(state)
    for group in (pg.load(tmp_path / "a.pgraph").symmetry, pickle.loads(pickle.dumps(graph.symmetry))):
        found = group.move(0).act(state)
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_a_wrong_declaration_is_found() -> None:
    model, x, graph = made(Turned(halves))
    (factor,) = commuting_of(graph)
    wrong = replace(factor, basis=np.eye(4).reshape(4, 2, 2))
    report = pg.verify(replace(graph, symmetry=replace(graph.symmetry, moves=(wrong,))), model, x, elements=1, inputs=1, leave_one_out=0)
    assert any("changes the outputs" in problem for problem in report.problems)


def test_commutants() -> None:
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    assert commutant([turn]).tolist() == [[[1, 0], [0, 1]], [[0, 1], [-1, 0]]]
    assert len(commutant([np.eye(3)])) == 9
    assert commutant([turn, np.diag([1.0, -1.0])]).tolist() == [np.eye(2).tolist()]

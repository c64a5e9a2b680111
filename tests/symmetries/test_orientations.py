"""Orientations of filters: units of group convolutions that start from another turn of their filter."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.compiler.orientations import _Finder
from paramgraph.symmetries.orientations import OrientationFactor

Forward = Callable[["Net", Tensor], "Tensor | tuple[Tensor, Tensor]"]


class Net(nn.Module):
    """Three units that see four orientations of two channels, four units that read them, and more where it is asked for."""

    def __init__(self, forward: Forward, **more: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.lift, self.group = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.randn(4, 3, 4, 3, 3))
        self.square, self.mirrored = nn.Parameter(torch.randn(3, 3, 4, 3, 3)), nn.Parameter(torch.randn(4, 3, 8, 3, 3))
        self.bias, self.each, self.head = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 5)
        self.run = forward
        for name, own in more.items():
            setattr(self, name, own)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.run(self, x)


def turned(w: Tensor) -> Tensor:
    """All turns of a filter on the plane, flat: unit by unit."""
    return torch.stack([w.rot90(turn, (-2, -1)) for turn in range(4)], 1).flatten(0, 1)


def shifted(w: Tensor) -> Tensor:
    """All turns of a filter on the group."""
    return torch.stack([w.roll(turn, 2).rot90(turn, (-2, -1)) for turn in range(4)], 1).flatten(0, 1).flatten(1, 2)


def lifted(m: Net, x: Tensor) -> Tensor:
    """What the first units give: `(batch, 3 · 4, height, width)`."""
    return F.conv2d(x, turned(m.lift), padding=1)


def pooled(m: Net, y: Tensor) -> Tensor:
    return m.head(y.unflatten(1, (4, 4)).tanh().mean((2, 3, 4)))


def read(m: Net, h: Tensor) -> Tensor:
    """What four units make of them, and the head of that."""
    return pooled(m, F.conv2d(h, shifted(m.group), padding=1))


# Turns with and without a mirror, in the order t, and m t.
MIRRORED = [(mirror, turn) for mirror in range(2) for turn in range(4)]


def moved(w: Tensor, mirror: int, turn: int) -> Tensor:
    return (w.flip(-1) if mirror else w).rot90(turn, (-2, -1))


def _divisions() -> list[list[int]]:
    """For every g, the numbers of g⁻¹ h, by what they do to a square of numbers."""
    corner = torch.arange(9.0).view(3, 3)
    number = {tuple(moved(corner, *g).flatten().tolist()): n for n, g in enumerate(MIRRORED)}
    products = [[number[tuple(moved(moved(corner, *h), *g).flatten().tolist())] for h in MIRRORED] for g in MIRRORED]
    return [[row.index(n) for n in range(8)] for row in products]


DIVISIONS = _divisions()


def with_mirrors(m: Net, x: Tensor) -> Tensor:
    """The same over all eight symmetries of the square."""
    h = F.conv2d(x, torch.stack([moved(m.lift, *g) for g in MIRRORED], 1).flatten(0, 1), padding=1).relu()
    filters = [moved(m.mirrored[:, :, divided], *g) for g, divided in zip(MIRRORED, DIVISIONS, strict=True)]
    y = F.conv2d(h, torch.stack(filters, 1).flatten(0, 1).flatten(1, 2), padding=1)
    return m.head(y.unflatten(1, (4, 8)).tanh().mean((2, 3, 4)))


def residual(m: Net, x: Tensor) -> Tensor:
    h = lifted(m, x).tanh()
    return read(m, h + F.conv2d(h, shifted(m.square), padding=1).tanh())


def orientation_first(m: Net, x: Tensor) -> Tensor:
    filters = torch.cat([m.lift.rot90(turn, (-2, -1)) for turn in range(4)])
    h = F.conv2d(x, filters, padding=1).unflatten(1, (4, 3)).transpose(1, 2)
    return read(m, (h + m.bias[:, None, None, None]).flatten(1, 2).relu())


def in_two_orders(m: Net, x: Tensor) -> Tensor:
    """Units that are six in one layer and two by three, the other way round, in another."""
    h = F.conv2d(x, turned(m.six)).unflatten(1, (2, 3, 4)).transpose(1, 2).flatten(1, 3)
    return m.out((h.tanh() * F.conv2d(x, turned(m.others))).unflatten(1, (6, 4)).amax(2)).mean((2, 3))


def flipped_in_two_orders(m: Net, x: Tensor) -> Tensor:
    """Flips along one axis, then along the other; and the other way round."""
    h, k = (F.conv2d(x, flipped(w)).unflatten(1, (3, 2, 2)) for w in (m.lift, m.others))
    return m.out((h.transpose(2, 3) * k).tanh().sum((2, 3))).mean((2, 3))


def there_and_back(m: Net, x: Tensor) -> Tensor:
    """One unit, moved on both sides of a matrix that these two movements leave as it is."""
    first, second = (torch.stack([w.roll(turn) for turn in range(4)], 1) for w in (m.first, m.second))
    h = x[:, 0, 0, :4] @ first
    return m.head((h + (h @ second).tanh()).tanh())


def with_a_matrix_between(m: Net, x: Tensor) -> Tensor:
    """One unit, moved on both sides of a matrix that is all free: its rows, and then its columns."""
    h = x[:, 0, 0, :4] @ torch.stack([m.first.roll(turn) for turn in range(4)], 1)
    return m.head((h + (h @ m.matrix).tanh()).tanh())


def in_opposite_orders(m: Net, x: Tensor) -> Tensor:
    """Products of what a filter and its turns give with what they give in the opposite order: only half a turn takes both alike."""
    back = torch.stack([m.lift.rot90(-turn, (-2, -1)) for turn in range(4)], 1).flatten(0, 1)
    return m.out((apart(m, x) * F.conv2d(x, back, padding=1).unflatten(1, (3, 4))).sum(2)).mean((2, 3))


def of_other_units(m: Net, x: Tensor) -> Tensor:
    """Products of what the first unit gives with what the last does: neither may turn without the other."""
    others = F.conv2d(x, turned(m.lift.flip(0)), padding=1).unflatten(1, (3, 4))
    return m.out((apart(m, x) * others).sum(2)).mean((2, 3))


def in_two_tensors(m: Net, x: Tensor) -> Tensor:
    """Filters whose turns take elements of one parameter to places of another."""
    return m.out(F.conv2d(x, turned(torch.cat([m.top, m.rest], 2))).unflatten(1, (3, 4)).amax(2)).mean((2, 3))


def unlike_units(m: Net, x: Tensor) -> Tensor:
    """One unit with four turns, and two with two each."""
    halves = torch.stack([m.lift[1:], m.lift[1:].rot90(2, (-2, -1))], 1).flatten(0, 1)
    return m.out(F.conv2d(x, torch.cat([turned(m.lift[:1]), halves])).relu()).mean((2, 3))


def flipped(w: Tensor) -> Tensor:
    return torch.stack([w.flip(dims) for dims in ((), (-1,), (-2,), (-2, -1))], 1).flatten(0, 1)


# A network, and per factor its tensor, its units, the order of its group, and the tensors that are moved.
KNOWN: dict[str, tuple[Callable[[], nn.Module], list[tuple[str, int, int, set[str]]]]] = {
    "p4": (lambda: Net(lambda m, x: read(m, lifted(m, x).tanh())), [("lift", 3, 4, {"lift", "group"}), ("group", 4, 4, {"group"})]),
    "p4m": (lambda: Net(with_mirrors), [("lift", 3, 8, {"lift", "mirrored"}), ("mirrored", 4, 8, {"mirrored"})]),
    "residual": (lambda: Net(residual), [("lift", 3, 4, {"lift", "square", "group"}), ("group", 4, 4, {"group"})]),
    "orientations first": (lambda: Net(orientation_first), [("lift", 3, 4, {"lift", "group"}), ("group", 4, 4, {"group"})]),
    "a bias for each orientation": (
        lambda: Net(lambda m, x: read(m, (lifted(m, x) + m.each.flatten()[:, None, None]).relu())),
        [("lift", 3, 4, {"lift", "group", "each"}), ("group", 4, 4, {"group"})],
    ),
    "a norm of channels": (
        lambda: Net(lambda m, x: read(m, m.norm(lifted(m, x).unflatten(1, (3, 4))).relu().flatten(1, 2)), norm=nn.BatchNorm3d(3)),
        [("lift", 3, 4, {"lift", "group"}), ("group", 4, 4, {"group"})],
    ),
    "a norm of orientations": (
        lambda: Net(lambda m, x: read(m, m.norm(lifted(m, x)).relu()), norm=nn.BatchNorm2d(12)),
        [("lift", 3, 4, {"lift", "group", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}), ("group", 4, 4, {"group"})],
    ),
    "group norm": (
        lambda: Net(lambda m, x: read(m, F.group_norm(lifted(m, x), 3).relu())),
        [("lift", 3, 4, {"lift", "group"}), ("group", 4, 4, {"group"})],
    ),
    "pooling of positions": (
        lambda: Net(lambda m, x: read(m, F.max_pool2d(lifted(m, x), 2))),
        [("lift", 3, 4, {"lift", "group"}), ("group", 4, 4, {"group"})],
    ),
    "largest orientation": (
        lambda: Net(lambda m, x: m.out(lifted(m, x).unflatten(1, (3, 4)).amax(2)).mean((2, 3)), out=nn.Conv2d(3, 5, 3)),
        [("lift", 3, 4, {"lift"})],
    ),
    "a plain reader": (
        lambda: Net(lambda m, x: m.out(lifted(m, x).relu()).mean((2, 3)), out=nn.Conv2d(12, 5, 3)),
        [("lift", 3, 4, {"lift", "out.weight"})],
    ),
    "units in two orders": (
        lambda: Net(in_two_orders, six=nn.Parameter(torch.randn(6, 2, 3, 3)), others=nn.Parameter(torch.randn(6, 2, 3, 3)), out=nn.Conv2d(6, 5, 3)),
        [("six", 6, 4, {"six", "others"})],
    ),
    "copies in two orders": (
        lambda: Net(flipped_in_two_orders, others=nn.Parameter(torch.randn(3, 2, 3, 3)), out=nn.Conv2d(3, 5, 3)),
        [("lift", 3, 4, {"lift", "others"})],
    ),
    "a circulant there and back": (
        lambda: Net(there_and_back, first=nn.Parameter(torch.randn(4)), second=nn.Parameter(torch.randn(4))),
        [("first", 1, 4, {"first", "head.weight"})],
    ),
    "a matrix there and back": (
        lambda: Net(with_a_matrix_between, first=nn.Parameter(torch.randn(4)), matrix=nn.Parameter(torch.randn(4, 4))),
        [("first", 1, 4, {"first", "matrix", "head.weight"})],
    ),
    "copies in opposite orders": (lambda: Net(in_opposite_orders, out=nn.Conv2d(3, 5, 3)), [("lift", 3, 2, {"lift"})]),
}
NONE: dict[str, Callable[[], nn.Module]] = {
    "orientations apart": lambda: Net(lambda m, x: m.out(apart(m, x).relu()).amax(2).mean((2, 3)), out=nn.Conv3d(3, 5, (1, 3, 3))),
    "an output": lambda: Net(lambda m, x: lifted(m, x).mean((2, 3))),
    "a softmax over units": lambda: Net(lambda m, x: m.head(apart(m, x).softmax(1).sum(1).mean((2, 3)))),
    "orientations in order": lambda: read_sums(lambda m, h: h.cumsum(2).relu()),
    "neighbours": lambda: read_sums(lambda m, h: (h * h.roll(1, 2)).tanh()),
    "fixed weights": lambda: read_sums(lambda m, h: h * torch.arange(4.0)[:, None, None]),
    "one weight for all units": lambda: read_sums(lambda m, h: h * m.each[0, :, None, None]),
    "read elsewhere": lambda: read_sums(lambda m, h: h.relu() + m.lift[0, 0, 0, 0]),
    "pooled in pairs": lambda: read_sums(lambda m, h: F.avg_pool3d(h, (2, 1, 1)).tanh()),
    "three of four": lambda: read_sums(lambda m, h: h[:, :, [0, 1, 3]].relu()),
    "three turns": lambda: Net(three_turns, out=nn.Conv2d(3, 5, 3)),
    "filters of other units": lambda: Net(of_other_units, out=nn.Conv2d(3, 5, 3)),
    "filters in two tensors": lambda: Net(in_two_tensors, top=nn.Parameter(torch.randn(3, 2, 1, 3)), rest=nn.Parameter(torch.randn(3, 2, 2, 3)),
                                          out=nn.Conv2d(3, 5, 3)),
    "units that are unlike": lambda: Net(unlike_units, out=nn.Conv2d(8, 5, 3)),
    "the filters are an output": lambda: Net(lambda m, x: (m.out(apart(m, x).amax(2)).mean((2, 3)), m.lift.flip(-1)), out=nn.Conv2d(3, 5, 3)),
}


def apart(m: Net, x: Tensor) -> Tensor:
    """What the first units give, their orientations apart: `(batch, 3, 4, height, width)`."""
    return lifted(m, x).unflatten(1, (3, 4))


def read_sums(function: Callable[[Net, Tensor], Tensor]) -> Net:
    """A plain reader of sums over orientations of what a function makes of them."""
    return Net(lambda m, x: m.out(function(m, apart(m, x)).sum(2)).mean((2, 3)), out=nn.Conv2d(3, 5, 3))


def three_turns(m: Net, x: Tensor) -> Tensor:
    """No group: the fourth turn is missing."""
    filters = torch.stack([m.lift.rot90(turn, (-2, -1)) for turn in (0, 1, 3)], 1).flatten(0, 1)
    return m.out(F.conv2d(x, filters).unflatten(1, (3, 3)).amax(2)).mean((2, 3))


@cache
def compiled(name: str) -> tuple[nn.Module, Tensor, ParamGraph]:
    torch.manual_seed(0)
    model = (KNOWN[name][0] if name in KNOWN else NONE[name])().double().eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.3)
    for value in model.parameters():
        nn.init.normal_(value)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    return model, x, pg.compile(model, x)


def orientations(graph: ParamGraph) -> dict[int, OrientationFactor]:
    return {n: factor for n, factor in enumerate(graph.symmetry.moves) if isinstance(factor, OrientationFactor)}


def change(model: nn.Module, x: Tensor, state: dict[str, Tensor]) -> float:
    with torch.no_grad():
        before, after = model(x), functional_call(model, state, (x,))
    return float((after - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("name", KNOWN)
def test_units_start_from_any_orientation(name: str) -> None:
    model, x, graph = compiled(name)
    state = model.state_dict()
    found = orientations(graph)
    known = KNOWN[name][1]
    assert [(factor.name, factor.size, len(factor.shifts)) for factor in found.values()] == [(f"orientations of {t}", n, k) for t, n, k, _ in known]
    for (number, _), (*_, tensors) in zip(found.items(), known, strict=True):
        for seed in range(3):
            moved = graph.symmetry.move(seed, [number]).act(state)
            assert change(model, x, moved) < 1e-12
            assert {key for key in state if not torch.equal(moved[key], state[key])} == tensors


@pytest.mark.parametrize("name", KNOWN)
def test_leaving_a_tensor_out_changes_the_output(name: str) -> None:
    model, x, graph = compiled(name)
    state = model.state_dict()
    for number, factor in orientations(graph).items():
        moved = graph.symmetry.move(0, [number]).act(state)
        for tensor in factor.tensors if len(factor.tensors) > 1 else ():
            assert change(model, x, moved | {tensor: state[tensor]}) > 1e-6


@pytest.mark.parametrize("name", NONE)
def test_what_tells_orientations_apart(name: str) -> None:
    _, _, graph = compiled(name)
    assert not orientations(graph)
    assert not any("orientations" in str(d) for d in graph.symmetry.scales.diagnostics)


@pytest.mark.parametrize(("shifts", "group"), [([0, 1, 2], True), ([0, 1], False), ([0, 2], False)])
def test_what_is_a_group(shifts: list[int], group: bool) -> None:
    """Of the cyclic permutations of three copies, all; not two of them."""
    assert _Finder._is_group(np.array([np.roll(np.arange(3), shift) for shift in shifts])) is group


@pytest.mark.parametrize("name", ["p4", "p4m", "residual"])
def test_the_elements_are_a_group(name: str) -> None:
    model, _, graph = compiled(name)
    state, symmetry = model.state_dict(), graph.symmetry
    for number in orientations(graph):
        g, h = (symmetry.move(seed, [number]) for seed in (1, 2))
        once, twice = (g @ h).act(state), g.act(h.act(state))
        back = g.inverse().act(g.act(state))
        assert all(torch.equal(once[key], twice[key]) and torch.equal(back[key], state[key]) for key in state)
        assert len((g @ g.inverse()).steps) == 1 and not (g @ g.inverse()).steps[0][1].any()


@pytest.mark.parametrize("name", ["a circulant there and back", "residual"])
def test_what_is_claimed_to_move_moves(name: str) -> None:
    model, x, graph = compiled(name)
    state = model.state_dict()
    for number, factor in orientations(graph).items():
        drawn = [graph.symmetry.move(seed, [number]).act(state) for seed in range(8)]
        assert all(any(not torch.equal(moved[tensor], state[tensor]) for moved in drawn) for tensor in factor.tensors)
        assert all(any(not torch.equal(moved[tensor], state[tensor]) for tensor in factor.tensors) for moved in drawn)  # none is the identity


def test_verification_draws_them_and_files_keep_them(tmp_path: Path) -> None:
    model, x, graph = compiled("p4")
    report = pg.verify(graph, model, (x,), elements=1, inputs=2, leave_one_out=0)
    assert report.passed, report
    graph.save(tmp_path / "p4.pgraph")
    again = pg.load(tmp_path / "p4.pgraph")
    state = model.state_dict()
    first, second = (g.symmetry.move(3).act(state) for g in (graph, again))
    assert all(torch.equal(first[key], second[key]) for key in state)
    assert "orientations of 7 filters, in 2 factors" in str(again.symmetry)

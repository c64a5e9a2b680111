"""Additions to biases that others make up for: which, that the function stays, and what forbids them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import paramgraph as pg
from paramgraph.symmetries.offsets import OffsetFactor
from paramgraph.symmetries.translations import TranslationFactor
from tests.symmetries.test_matrices import deviation

EPS = 0.3


class Two(nn.Module):
    """Two linear layers of 4 units, a normalisation before them, and what lies between."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], norm: nn.Module | None = None, bias: bool = True) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(4, 3, bias=bias), nn.Linear(4, 3)
        self.more, self.table, self.gain = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(4))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        h = self.between(self, self.a(self.norm(x)))
        return torch.tanh(self.b(h)) * torch.sigmoid(self.c(h)) if h.shape[-1] == 4 else h


class Attend(nn.Module):
    """Attention with values of 4 dimensions per head, with biases.

    Args:
        weights: makes weights of scores.
        packed: whether queries, keys and values are one projection.
    """

    def __init__(self, weights: Callable[[Tensor], Tensor], shared: int = 2, packed: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weights, self.shared, self.packed = weights, shared, packed
        self.norm = nn.LayerNorm(5, EPS)
        if packed:
            self.qkv = nn.Linear(5, 24)
        else:
            self.q, self.k, self.v = nn.Linear(5, 8), nn.Linear(5, 4 * shared), nn.Linear(5, 4 * shared)
        self.o = nn.Linear(8, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        b, t, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, -1) if self.packed else (self.q(x), self.k(x), self.v(x))
        q, k, v = (each.view(b, t, -1, 4).transpose(1, 2) for each in (q, k, v))
        k, v = (each.repeat_interleave(2 // self.shared, dim=1) for each in (k, v))
        return self.o((self.weights(q @ k.mT) @ v).transpose(1, 2).reshape(b, t, 8))


class Convolved(nn.Module):
    """A convolution with a bias, a batch norm with running statistics, a function, a reader."""

    def __init__(self, training: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.second, self.last = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, EPS), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 2)
        self.training_norm = training

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n = self.norm
        x = F.batch_norm(x, None, None, n.weight, n.bias, True) if self.training_norm else n(x)
        return torch.tanh(self.last(self.second(x)))


def softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, -1)


VECTORS, TOKENS, IMAGES = (7, 5), (2, 6, 5), (2, 2, 5, 5)
# Per network, its inputs, and the sources with their dimensions, by hand.
FOUND: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    "linear after linear": (lambda: Two(lambda m, h: h), VECTORS, {"a.bias": 4}),
    "through a view": (lambda: Two(lambda m, h: 2 * (h.view(7, 2, 2) / 3).transpose(1, 2).transpose(1, 2).reshape(7, 4)), VECTORS, {"a.bias": 4}),
    "another bias": (lambda: Two(lambda m, h: torch.tanh(h + m.more)), VECTORS, {"more": 4}),
    "a table": (lambda: Two(lambda m, h: torch.tanh(h + m.table)), TOKENS, {"table": 4}),
    "a mean of samples": (lambda: Two(lambda m, h: h.mean(0, keepdim=True)), VECTORS, {"a.bias": 4}),
    "an offset": (lambda: Two(lambda m, h: torch.tanh(h), nn.LayerNorm(5, EPS)), VECTORS, {"norm.bias": 5}),
    "values": (lambda: Attend(softmax), TOKENS, {"norm.bias": 5, "v.bias": 8}),
    "values of shared heads": (lambda: Attend(softmax, 1), TOKENS, {"norm.bias": 5, "v.bias": 4}),
    "values of a packed projection": (lambda: Attend(softmax, packed=True), TOKENS, {"norm.bias": 5, "qkv.bias (a part)": 8}),
    "running means": (Convolved, IMAGES, {"conv.bias": 3, "norm.bias": 3, "second.bias": 2}),
}
NONE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "a function": (lambda: Two(lambda m, h: torch.tanh(h)), VECTORS, ("a.bias",)),
    "no bias": (lambda: Two(lambda m, h: h, bias=False), VECTORS, ("a.bias",)),
    "a gain": (lambda: Two(lambda m, h: torch.tanh(h * m.gain)), VECTORS, ("a.bias",)),
    "weights that do not sum to one": (lambda: Attend(lambda s: torch.softmax(s, -1) * 0.5 + 0.1), TOKENS, ("v.bias",)),
    "weights that sum to one for each key": (lambda: Attend(lambda s: torch.softmax(s, -2)), TOKENS, ("v.bias",)),
    "no weights": (lambda: Attend(torch.sigmoid), TOKENS, ("v.bias",)),
    "masked weights": (lambda: Attend(lambda s: torch.softmax(s, -1).tril()), TOKENS, ("v.bias",)),
    "no output bias": (lambda: Attend(softmax, bias=False), TOKENS, ("v.bias",)),
    "an output": (lambda: Two(lambda m, h: torch.cat([h, h], -1)), VECTORS, ("a.bias",)),
    "statistics of the batch": (lambda: Convolved(True), IMAGES, ("conv.bias",)),
}


def made(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[nn.Module, Tensor, pg.ParamGraph]:
    torch.manual_seed(0)
    model = make().double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
            tensor.data *= torch.where(torch.rand_like(tensor) < 0.5, -1.0, 1.0)
    for name, tensor in model.named_buffers():
        if name.endswith("running_var"):
            tensor.data.abs_()
    x = torch.randn(shape, dtype=torch.float64)
    return model, x, pg.compile(model, x)


def offsets_of(graph: pg.ParamGraph) -> dict[str, int]:
    found = [f for f in graph.symmetry.moves if isinstance(f, OffsetFactor) and " divided by " not in f.name]
    return {f.name.removeprefix("additions to ").removesuffix(", made up for"): f.dimension for f in found}


@pytest.mark.parametrize("name", FOUND)
def test_which(name: str) -> None:
    make, shape, wanted = FOUND[name]
    model, x, graph = made(make, shape)
    assert offsets_of(graph) == wanted
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = torch.func.functional_call(model, state, x)
    free = {f.tensor for f in graph.symmetry.moves if isinstance(f, TranslationFactor)}
    for number, factor in enumerate(graph.symmetry.moves):
        if not isinstance(factor, OffsetFactor):
            continue
        g, h = graph.symmetry.move(1, [number]), graph.symmetry.move(2, [number])
        moved = g.act(state)
        assert {n for n in state if not torch.equal(moved[n], state[n])} == set(factor.tensors)
        assert deviation(torch.func.functional_call(model, moved, x), before) < 1e-11
        for member in set(factor.tensors) - free if len(factor.tensors) > 1 else ():
            assert deviation(torch.func.functional_call(model, moved | {member: state[member]}, x), before) > 1e-6
        once, twice, back = (g @ h).act(state), g.act(h.act(state)), g.inverse().act(moved)
        assert all(torch.allclose(once[n], twice[n]) and torch.allclose(back[n], state[n]) for n in state)


@pytest.mark.parametrize("name", NONE)
def test_which_not(name: str) -> None:
    """None is declared, and what another network would do by hand changes the function."""
    make, shape, sources = NONE[name]
    model, x, graph = made(make, shape)
    assert set(offsets_of(graph)).isdisjoint(sources)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = torch.func.functional_call(model, state, x)
    if isinstance(model, Convolved):
        moved = state | {"norm.running_mean": state["norm.running_mean"] + 1, "norm.bias": state["norm.bias"] + 1}
    else:
        made_of = made(lambda: Attend(softmax), TOKENS) if isinstance(model, Attend) else made(lambda: Two(lambda m, h: h), VECTORS)
        factor = next(f for f in made_of[2].symmetry.moves if isinstance(f, OffsetFactor) and f.tensor in sources)
        factor = replace(factor, changes=tuple(each for each in factor.changes if each.tensor in state))
        moved = state | factor.act(factor.draw(torch.Generator().manual_seed(0), 0.5), state)
    assert deviation(torch.func.functional_call(model, moved, x), before) > 1e-6


def test_readers_of_packed_projections() -> None:
    """Sums of what a layer normalisation gives may be added to a packed projection, read whole or in parts."""
    one = made(lambda: Attend(softmax, packed=True), TOKENS)
    whole = [f for f in one[2].symmetry.moves if isinstance(f, OffsetFactor) and " divided by " in f.name]
    assert sum(f.dimension for f in whole) == 24
    parted = made(lambda: nn.Sequential(nn.LayerNorm(5, EPS), Packed()), TOKENS)
    found = [f for f in parted[2].symmetry.moves if isinstance(f, OffsetFactor) and " divided by " in f.name]
    assert [f.dimension for f in found] == [12]
    for model, x, graph in (one, parted):
        state = {n: t.detach() for n, t in model.state_dict().items()}
        before = torch.func.functional_call(model, state, x)
        for number, factor in enumerate(graph.symmetry.moves):
            if isinstance(factor, OffsetFactor):
                moved = graph.symmetry.move(number, [number]).act(state)
                assert {n for n in state if not torch.equal(moved[n], state[n])} == set(factor.tensors)
                assert deviation(torch.func.functional_call(model, moved, x), before) < 1e-11


class Packed(nn.Module):
    """Rows of one projection that are read apart, each with its part of the bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias, self.o = nn.Parameter(torch.ones(12, 5)), nn.Parameter(torch.ones(12)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (F.linear(x, w, v) for w, v in zip(self.weight.chunk(3), self.bias.chunk(3), strict=True))
        return self.o(torch.tanh(a) * torch.sigmoid(b) + torch.cos(c))


class Overlapping(Packed):
    def forward(self, x: Tensor) -> Tensor:
        a, b = F.linear(x, self.weight[:8], self.bias[:8]), F.linear(x, self.weight[4:], self.bias[4:])
        return self.o(torch.tanh(a[..., :4]) * torch.sigmoid(b[..., 4:]) + torch.cos(a[..., 4:]))


def test_parts_that_overlap() -> None:
    """Rows that are read twice have one bias, which makes up for both: nothing is added twice."""
    model, x, graph = made(lambda: nn.Sequential(nn.LayerNorm(5, EPS), Overlapping()), TOKENS)
    found = {n: f for n, f in enumerate(graph.symmetry.moves) if isinstance(f, OffsetFactor)}
    assert [f.dimension for f in found.values() if f.tensor == "1.weight"] == [4, 4, 4]
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before = torch.func.functional_call(model, state, x)
    for number in found:
        assert deviation(torch.func.functional_call(model, graph.symmetry.move(1, [number]).act(state), x), before) < 1e-11


class Rolled(nn.Module):
    """Positions added before and after a roll, and in another order: what goes through an order and back is what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.ones(6, 4)) for _ in range(3))
        self.out = nn.Linear(4, 3, bias=False)
        self.register_buffer("order", torch.tensor([3, 5, 0, 1, 4, 2]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll((x + self.a)[:, self.order], 2, 1) + self.b
        return self.out(x[:, self.order] + self.c).sum(1)


def test_orders_undone() -> None:
    model, x, graph = made(Rolled, (3, 6, 4))
    added = [f for f in graph.symmetry.moves if isinstance(f, OffsetFactor)]
    assert [f.tensors for f in added] == [("a", "b"), ("b", "a")]
    assert pg.verify(graph, model, x).passed


def test_files_and_copies(tmp_path: Path) -> None:
    model, _, graph = made(lambda: Attend(softmax, packed=True), TOKENS)
    graph.save(tmp_path / "a.pgraph")
    state = graph.state_dict()
    wanted = graph.symmetry.move(0).act(state)
    for group in (pg.load(tmp_path / "a.pgraph").symmetry, pickle.loads(pickle.dumps(graph.symmetry))):
        found = group.move(0).act(state)
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)

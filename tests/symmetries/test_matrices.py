"""Matrix groups and translations: where they are, where they are not, and that any of them leaves the function unchanged."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import paramgraph as pg
from paramgraph.compiler import matrices
from paramgraph.errors import GroupError, StateDictError
from paramgraph.symmetries.matrices import MatrixFactor
from paramgraph.symmetries.translations import TranslationFactor
from tests.support.attention import Attention
from tests.symmetries.test_scales import compiled, random_state, run

# Per network, `(n, copies)` of each GL(n), by hand.
FOUND = {
    "mlp, identity": [(3, 1)],
    "lora": [(2, 1)],
    "linear attention": [(3, 1), (2, 1)],
    "pre-norm attention block": [(2, 2), (2, 2)],
    "llama block": [(4, 2)],  # values of two key-value heads; rotary positions and gains leave no others
    "llama block, norms on queries and keys": [(4, 2)],
    "two-head attention": [(4, 2), (4, 2)],
    "alibi attention": [(4, 2), (4, 2)],
    "rotary attention": [(4, 2)],
    "grouped-query attention": [(4, 2), (4, 2)],  # per key-value head
    "packed attention": [(4, 2), (4, 2)],
    "talking heads": [(4, 2), (4, 2)],
    "attention heads in a list": [(3, 3), (2, 3)],
    "adapters added": [(4, 1)],  # two of rank 2 are one of rank 4
    "residual stream": [(5, 1)],
    "mlp, relu": [],
    "mlp, tanh": [],
    "swiglu": [],
    "residual block": [],
    "lstm": [],
    "group norm": [],
    "branches multiplied, relu": [],
    "top-k mixture by gathering": [],
}


@pytest.mark.parametrize("name", FOUND)
def test_where_they_are(name: str) -> None:
    *_, graph = compiled(name)
    assert sorted((f.size, f.copies) for f in matrices_of(graph)) == sorted(FOUND[name])


def matrices_of(graph: pg.ParamGraph) -> list[MatrixFactor]:
    return [f for f in graph.symmetry.moves if isinstance(f, MatrixFactor)]


def translations_of(graph: pg.ParamGraph) -> dict[str, int]:
    return {f.name.removeprefix("additions to "): f.dimension for f in graph.symmetry.moves if isinstance(f, TranslationFactor)}


@pytest.mark.parametrize("name", [name for name in FOUND if FOUND[name]])
def test_random_matrices_leave_the_function_unchanged(name: str) -> None:
    model, inputs, graph = compiled(name)
    state = random_state(model, graph, 0)
    before = run(model, graph, state, inputs)
    for number, factor in enumerate(graph.symmetry.moves):
        motion = graph.symmetry.move(number, [number])
        moved = motion.act(state)
        assert deviation(run(model, graph, moved, inputs), before) < 1e-10
        members = [member for action in factor.tensors for member in graph.symmetry.members(action)]
        for member in members if isinstance(factor, MatrixFactor) else ():  # each is moved, and is needed
            assert not torch.allclose(moved[member], state[member])
        if isinstance(factor, MatrixFactor) and len(members) > 1:
            assert deviation(run(model, graph, moved | {members[0]: state[members[0]]}, inputs), before) > 1e-6
    everything = graph.symmetry.move(3) @ graph.symmetry.move(4)
    assert deviation(run(model, graph, everything.act(state), inputs), before) < 1e-10
    back = everything.inverse().act(everything.act(state))
    assert all(torch.allclose(back[n], state[n], rtol=1e-7, atol=1e-9) for n in state)


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_composition() -> None:
    model, _, graph = compiled("two-head attention")
    state = random_state(model, graph, 0)
    g, h = graph.symmetry.move(1), graph.symmetry.move(2)
    once, twice = (g @ h).act(state), g.act(h.act(state))
    assert all(torch.allclose(once[n], twice[n], rtol=1e-9, atol=1e-12) for n in state)
    assert len((graph.symmetry.move(1, [0]) @ graph.symmetry.move(2, [0])).steps) == 1


def test_printing() -> None:
    """Matrix groups and translations are listed once they have been searched for: printing searches for nothing."""
    model, inputs, _ = compiled("two-head attention")
    graph = pg.compile(model, inputs)
    assert "matrix" not in str(graph.symmetry)
    assert graph.symmetry.moves
    said = str(graph.symmetry).splitlines()
    assert "matrix groups of 64 dimensions: 2 × GL(4)^2" in said
    assert "translations of 16 dimensions, in 2 factors" in said  # of the key's bias; of the value's, for which the output's makes up
    assert "matrix" not in str(compiled("mlp, relu")[2].symmetry)


def test_matrices_are_drawn_apart() -> None:
    """Elements hold permutations and multipliers only; both are applied one after the other."""
    model, inputs, graph = compiled("two-head attention")
    for kind in ("matrix", "translation"):
        with pytest.raises(GroupError, match=r"drawn by symmetry\.move"):
            graph.symmetry.sample(0, kinds=["permutation", kind])
    state = random_state(model, graph, 0)
    moved = graph.symmetry.move(1).act(graph.symmetry.sample(1).act(state))
    before, after = run(model, graph, state, inputs), run(model, graph, moved, inputs)
    assert float((before - after).abs().max()) <= 1e-10 * float(before.abs().max())


class Between(nn.Module):
    """A function between two linear layers of 4 units."""

    def __init__(self, function: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.function = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 4), function
        self.gain = nn.Parameter(torch.randn(4))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(self, self.a(x)))


# What treats the units one by one, or mixes them in a fixed way, forbids matrices; what treats them all alike does not.
FORBIDDEN: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "a gain": lambda m, x: x * m.gain,
    "a mask": lambda m, x: x * m.mask,
    "an absolute value": lambda m, x: x.abs(),
    "a product": lambda m, x: x * x,
    "two layers multiplied": lambda m, x: x * x.flip(0),
    "a cumulative sum": lambda m, x: x.cumsum(1),
    "a flip added": lambda m, x: x + x.flip(1),
    "a sum over units": lambda m, x: x + x.sum(1, keepdim=True),
    "a norm": lambda m, x: F.rms_norm(x, [4]),
    "a maximum over others": lambda m, x: x + x.amax(0, keepdim=True),
    "pairs": lambda m, x: x.view(-1, 2, 2).flip(2).reshape(-1, 4) + x,
    "a shift": lambda m, x: x + 1.0,
    "inner products with themselves": lambda m, x: (x @ x.T) @ x,
}
ALLOWED: dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]] = {
    "nothing": lambda m, x: x,
    "multiples": lambda m, x: 3 * x / 2 - x,
    "samples mixed": lambda m, x: x.cumsum(0) + x.mean(0, keepdim=True) - x.flip(0),
    "samples weighted": lambda m, x: x * torch.softmax(torch.arange(x.shape[0]).to(x), 0)[:, None],
    "a split and its end": lambda m, x: x.view(-1, 2, 2).reshape(-1, 4),
}


def between(function: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> pg.ParamGraph:
    torch.manual_seed(0)
    return pg.compile(Between(function).double(), torch.randn(5, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden(name: str) -> None:
    """None is declared, and one put there by hand changes the function."""
    graph = between(FORBIDDEN[name])
    assert [f for f in matrices_of(graph) if f.size > 2] == []
    plain = between(ALLOWED["nothing"]).symmetry
    model, x = Between(FORBIDDEN[name]).double(), torch.randn(5, 3, dtype=torch.float64)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before, after = (torch.func.functional_call(model, s, x) for s in (state, plain.move(0).act(state)))
    assert deviation(after, before) > 1e-6


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str) -> None:
    graph = between(ALLOWED[name])
    assert [(f.size, f.copies) for f in matrices_of(graph)] == [(4, 1)]
    model, x = Between(ALLOWED[name]).double(), torch.randn(5, 3, dtype=torch.float64)
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before, after = (torch.func.functional_call(model, s, x) for s in (state, graph.symmetry.move(0).act(state)))
    assert deviation(after, before) < 1e-11


def test_must_fail() -> None:
    """Matrices of plain attention change rotary attention; of all heads together, attention by heads."""
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    plain = pg.compile(Attention().double().eval(), x).symmetry
    keys = next(n for n, f in enumerate(plain.moves) if "q.weight" in f.tensors)
    found = plain.moves[keys]
    assert isinstance(found, MatrixFactor)
    rotary = Attention(position="rotary").double().eval()
    state = {n: t.detach() for n, t in rotary.state_dict().items()}
    before, after = (torch.func.functional_call(rotary, s, x) for s in (state, plain.move(0, [keys]).act(state)))
    assert deviation(after, before) > 1e-6
    whole = MatrixFactor("across heads", 8, 1, tuple(
        type(p)(p.tensor, p.index, tuple((8,) if s == (2, 4) else s for s in p.sizes), (0,), (), p.dual)
        for p in found.parts))  # fmt: skip
    model = Attention().double().eval()
    state = {n: t.detach() for n, t in model.state_dict().items()}
    moved = state | whole.act(whole.draw(torch.Generator().manual_seed(0), 0.5), state)
    assert deviation(torch.func.functional_call(model, moved, x), torch.func.functional_call(model, state, x)) > 1e-6


def test_convolutions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1), nn.ConvTranspose2d(3, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.tanh(self.b(F.avg_pool2d(self.a(x), 2))))

    model, x = Net().double(), torch.randn(2, 2, 6, 6, dtype=torch.float64)
    graph = pg.compile(model, x)
    assert [(f.size, set(f.tensors)) for f in matrices_of(graph)] == [(4, {"a.weight", "a.bias", "b.weight"})]
    state = graph.state_dict()
    before, after = (torch.func.functional_call(model, s, x) for s in (state, graph.symmetry.move(0).act(state)))
    assert deviation(after.detach(), before.detach()) < 1e-11


def test_files_copies_and_laziness(tmp_path: Path) -> None:
    model, inputs, _ = compiled("grouped-query attention")
    graph = pg.compile(model, inputs)
    assert graph.symmetry.num_signs > 0  # asking for scales does not search for matrices
    assert "moves" not in vars(graph.symmetry)
    graph.save(tmp_path / "a.pgraph")
    loaded = pg.load(tmp_path / "a.pgraph")
    copied = pickle.loads(pickle.dumps(graph.symmetry))
    state = graph.state_dict()
    wanted = graph.symmetry.move(0).act(state)
    for group in (loaded.symmetry, copied):
        found = group.move(0).act(state)
        assert all(torch.equal(found[n], wanted[n]) for n in wanted)


def test_other_precisions_and_errors() -> None:
    model, _, graph = compiled("lora")
    state = {n: t.half() for n, t in random_state(model, graph, 0).items()}
    moved = graph.symmetry.move(0).act(state)
    assert all(moved[n].dtype == torch.float16 for n in moved)
    with pytest.raises(StateDictError, match="in the state dict"):
        graph.symmetry.move(0).act({n: t for n, t in state.items() if n != "a"})
    with pytest.raises(StateDictError, match="floating-point"):
        graph.symmetry.move(0).act(state | {"a": state["a"].long()})
    with pytest.raises(GroupError, match="unknown factor 7 of symmetry.moves"):
        graph.symmetry.move(0, [7])
    with pytest.raises(GroupError, match="two different groups"):
        graph.symmetry.move(0) @ compiled("mlp, identity")[2].symmetry.move(0)


def test_a_failure_finds_none_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: matrices.MatrixFinder) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(matrices.MatrixFinder, "run", fail)
    model, inputs, _ = compiled("lora")
    symmetry = pg.compile(model, inputs).symmetry
    assert not any(isinstance(factor, MatrixFactor) for factor in symmetry.moves)
    assert any("a defect" in d.cause for d in symmetry.scales.diagnostics)
    assert symmetry.dimension == 2


# -- translations --------------------------------------------------------------------------------------------------------------

# Per network, what may be added, with its dimension, by hand: anything (key biases), or the same to all of some axis.
ADDED = {
    "two-head attention": {"k.bias": 8},
    "alibi attention": {"k.bias": 8},
    "grouped-query attention": {"k.bias": 8},
    "packed attention": {"qkv.bias (a part)": 8},  # of the keys
    "rotary attention": {},
    "t5 relative bias": {"table.weight": 2},  # the same for all distances, per head
    "soft mixture of experts": {"router.weight": 8, "router.bias": 1},
    "experts in a list, slice": {"router.weight": 3, "router.bias": 1},
    "linear, layer norm, linear, gelu": {"0.weight": 4, "0.bias": 1},
    "linear, rms norm, linear, gelu": {},
    # All writers of the stream, and the key's bias.
    "pre-norm attention block": {"i.weight": 4, "i.bias": 1, "attend.o.weight": 4, "attend.o.bias": 1, "b.weight": 3, "b.bias": 1,
                                 "attend.k.bias": 4},
    "instance norm": {"0.bias": 8},
    "mlp, relu": {},
    "mlp, identity": {},
    "lstm": {},
    "llama block": {},
}


@pytest.mark.parametrize("name", ADDED)
def test_what_may_be_added(name: str) -> None:
    model, inputs, graph = compiled(name)
    assert translations_of(graph) == ADDED[name]
    state = random_state(model, graph, 0)
    before = run(model, graph, state, inputs)
    for number, factor in enumerate(graph.symmetry.moves):
        if isinstance(factor, TranslationFactor):
            g, h = graph.symmetry.move(1, [number]), graph.symmetry.move(2, [number])
            moved = g.act(state)
            assert [n for n in state if not torch.equal(moved[n], state[n])] == [factor.tensor]
            assert deviation(run(model, graph, moved, inputs), before) < 1e-10
            once, twice = (g @ h).act(state), g.act(h.act(state))
            back = g.inverse().act(moved)
            assert all(torch.allclose(once[n], twice[n]) and torch.allclose(back[n], state[n]) for n in state)


@pytest.mark.parametrize(("name", "tensor"), [("two-head attention", "q.bias"), ("two-head attention", "v.bias"), ("rotary attention", "k.bias"),
                                              ("linear, rms norm, linear, gelu", "0.bias"), ("packed attention", "qkv.bias")])  # fmt: skip
def test_what_may_not(name: str, tensor: str) -> None:
    model, inputs, graph = compiled(name)
    state = random_state(model, graph, 0)
    moved = TranslationFactor("by hand", tensor, (None,), (1,)).act(torch.ones(1, dtype=torch.float64), state)
    assert deviation(run(model, graph, state | moved, inputs), run(model, graph, state, inputs)) > 1e-6


class Routed(nn.Module):
    """Logits that become weights, and what else is done with them."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.router, self.head, self.function = nn.Linear(3, 4), nn.Linear(4, 2), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.function(self.router(x)))


@pytest.mark.parametrize(("function", "found"), [
    (lambda s: torch.softmax(s, -1), {"router.weight": 3, "router.bias": 1}),
    (lambda s: torch.softmax(s / 0.3, -1), {"router.weight": 3, "router.bias": 1}),
    (lambda s: torch.log_softmax(s, -1), {"router.weight": 3, "router.bias": 1}),
    (lambda s: torch.softmax(s.masked_fill(torch.arange(4) > 2, -torch.inf), -1), {"router.weight": 3, "router.bias": 1}),
    (lambda s: torch.softmax(s, 0), {"router.bias": 4}),  # over the batch: anything that is the same for all samples
    (lambda s: torch.softmax(s.masked_fill(torch.arange(4) > 2, -9.0), -1), {}),
    (lambda s: torch.softmax(s, -1) + s, {}),
    (lambda s: torch.softmax(s * torch.arange(4.0), -1), {}),
    (lambda s: torch.softmax(s.cumsum(-1), -1), {}),
    (lambda s: torch.softmax(s**2, -1), {}),
    (lambda s: torch.sigmoid(s), {}),
], ids=["softmax", "temperature", "log softmax", "masked", "over samples", "masked by a number", "read twice", "weighted", "summed up", "squared",
        "sigmoid"])  # fmt: skip
def test_routers(function: Callable[[torch.Tensor], torch.Tensor], found: dict[str, int]) -> None:
    torch.manual_seed(0)
    model, x = Routed(function).double(), torch.randn(5, 3, dtype=torch.float64)
    graph = pg.compile(model, x)
    assert translations_of(graph) == found
    state = {n: t.detach() for n, t in model.state_dict().items()}
    before, after = (torch.func.functional_call(model, s, x) for s in (state, graph.symmetry.move(0).act(state)))
    assert deviation(after, before) < 1e-11

"""Scales are solved for when first asked for: what that may and must not touch, and what cannot be solved or known."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import paramgraph as pg
from paramgraph.compiler import deferred
from paramgraph.compiler.pipeline import compile_trace
from paramgraph.compiler.rules import rule, unregister
from paramgraph.compiler.trace import trace
from paramgraph.errors import StateDictError
from paramgraph.graph import ScaleDomain
from paramgraph.symmetries import scale_spaces
from tests.support.scales import SCALES


def compiled(name: str = "mlp, relu") -> tuple[nn.Module, pg.ParamGraph]:
    model, inputs = SCALES[name].build()
    return model, pg.compile(model, inputs)


def test_permutations_need_no_scales(tmp_path: Path) -> None:
    model, graph = compiled()
    group = graph.symmetry
    g = group.sample(0, kinds=["permutation"])
    moved = (g @ g.inverse() @ group.sample(1, factors=[0], kinds=["permutation"])).act(model.state_dict())
    assert group.subgroup(["permutation"]).log_order == group.log_order > 0
    assert moved.keys() == model.state_dict().keys() and group.moved_by(0)
    assert not group.is_solved
    assert group.dimension == 3
    assert group.is_solved


@pytest.mark.parametrize("ask", [lambda g: g.factors, lambda g: g.scales, lambda g: g.sample(0), lambda g: g.num_signs, str,
                                 lambda g: g.subgroup(["sign"]), lambda g: g.select(), lambda g: g.sample(0, factors=["scale of 0.weight"])])
def test_what_asks_for_scales(ask: Any) -> None:
    _, graph = compiled()
    assert not graph.symmetry.is_solved
    ask(graph.symmetry)
    assert graph.symmetry.is_solved


def test_copies_and_files_hold_scales(tmp_path: Path) -> None:
    model, graph = compiled("mlp, tanh")
    state = model.state_dict()
    graph.save(tmp_path / "a.pgraph")
    back = [pg.load(tmp_path / "a.pgraph"), pickle.loads(pickle.dumps(compiled("mlp, tanh")[1])), copy.deepcopy(compiled("mlp, tanh")[1])]
    for other in back:
        assert (other.symmetry.dimension, other.symmetry.num_signs) == (0, 3)
        acted, expected = other.symmetry.sample(4).act(state), graph.symmetry.sample(4).act(state)
        assert all(torch.equal(acted[name], expected[name]) for name in state)
        assert other.domain("0.linear") == ScaleDomain("none", "each")


def test_a_failure_gives_no_scales_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph = compiled()

    def fail(*_: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(deferred, "solve_scales", fail)
    group = graph.symmetry
    assert (group.dimension, group.num_signs, group.sample(0).tables) == (0, 0, {})
    (found,) = group.scales.diagnostics
    assert "no such thing" in found.cause
    assert "pass no scales" in str(group)


class Doubled(nn.Module):
    """Twice its input; a rule may or may not say that it is linear."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x


@pytest.mark.parametrize(
    ("finder", "kind"), [("find_offsets", "translations"), ("find_reflections", "reflections"), ("MatrixFinder", "matrices")]
)
def test_a_finder_that_fails_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch, finder: str, kind: str) -> None:
    """Two linear layers on end, a softmax and a sigmoid: matrices, translations and reflections, each found by a finder of its own."""
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3), nn.Softmax(-1))
    whole = pg.compile(net, torch.randn(2, 3)).symmetry.moves

    def fail(*args: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(deferred, finder, fail)
    group = pg.compile(net, torch.randn(2, 3)).symmetry
    found = {str(factor) for factor in group.moves}
    missing = [str(factor) for factor in whole if str(factor) not in found]
    # Where it is not known that anything may be added to a parameter, what others take to zero is asked.
    known = {str(factor) for factor in whole}
    assert missing and found and all(factor in known or "taken to zero" in factor for factor in found)
    (said,) = group.scales.diagnostics
    assert said.subject == kind and "a defect" in said.cause


@pytest.mark.parametrize("exact", [False, True])
def test_scales_pass_exact_rules_only(exact: bool) -> None:
    @rule(Doubled, exact=exact)
    def doubled(b: Any, module: nn.Module, params: Any, x: Any) -> Any:
        return b.elementwise("add", x, x)

    try:
        model = nn.Sequential(nn.Linear(4, 3), Doubled(), nn.Linear(3, 2))
        group = pg.compile(model, torch.randn(5, 4)).symmetry
    finally:
        unregister(Doubled)
    assert group.log_order > 0
    assert (group.dimension, len(group.scales.diagnostics)) == ((3, 0) if exact else (0, 1))


def test_constants_that_changed_since_are_not_trusted() -> None:
    """A mask of zeros scales as anything does; when it no longer is one, nothing is claimed."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)
            self.register_buffer("shift", torch.zeros(3), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x) + self.shift))

    model, x = Shifted(), torch.randn(5, 4)
    same, changed = pg.compile(model, x), pg.compile(model, x)
    assert same.symmetry.dimension == 3
    model.shift.add_(1.0)
    assert changed.symmetry.dimension == 0


def test_domains_of_node_sets() -> None:
    _, graph = compiled("residual block")
    assert graph.domain("stem.conv2d") == ScaleDomain("each", "each")
    assert str(graph.domain("add")) == "ℝ₊ each"
    assert str(graph.domain("o.linear")) == "1"
    network = graph.to_networkx()
    assert {(d["magnitude"], d["sign"]) for _, d in network.nodes(data=True) if d["set"] == "add"} == {("each", "none")}


class Shared(nn.Module):
    """All channels have one sign: layer norm passes only that."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.norm(self.a(x)))


def test_one_multiplier_for_a_whole_set() -> None:
    graph = pg.compile(Shared(), torch.randn(5, 4))
    assert graph.domain("a.linear") == ScaleDomain("none", "shared")


def test_characters_have_rational_exponents() -> None:
    _, graph = compiled("mlp, square")
    assert graph.symmetry.scales.character("2.weight") == "v0[]^-2 v1[1]^-2"
    assert graph.symmetry.scales.character("2.bias") == "1"


# -- bad input -----------------------------------------------------------------------------------------------------------------


def test_integers_are_not_scaled() -> None:
    """Weights that were rounded since cannot be multiplied; they can still be permuted."""
    model, graph = compiled()
    state = {name: tensor.to(torch.int8) for name, tensor in model.state_dict().items()}
    with pytest.raises(StateDictError, match="floating-point numbers to scale, got int8"):
        graph.symmetry.sample(0).act(state)
    assert graph.symmetry.sample(0, kinds=["permutation"]).act(state)["0.weight"].dtype == torch.int8


def test_quantized_and_sparse_tensors_are_refused() -> None:
    model, graph = compiled()
    state = model.state_dict()
    g = graph.symmetry.sample(0, kinds=["permutation"])
    for wrong in (state["0.weight"].to_sparse(), torch.quantize_per_tensor(state["0.weight"], 0.1, 0, torch.qint8)):
        with pytest.raises(StateDictError, match="expected a dense tensor"):
            g.act({**state, "0.weight": wrong})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.float64])
def test_multipliers_out_of_range(dtype: torch.dtype) -> None:
    model, graph = compiled()
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    with pytest.raises(StateDictError, match="range"):
        graph.symmetry.sample(0, kinds=["scale"], sigma=1e4).act(state)


def test_not_a_number_stays_where_it_is() -> None:
    model, graph = compiled()
    state = {name: torch.full_like(tensor, torch.nan) for name, tensor in model.state_dict().items()}
    moved = graph.symmetry.sample(0).act(state)
    assert all(tensor.isnan().all() for tensor in moved.values())


def test_frozen_and_trainable_tensors() -> None:
    """Gradients flow through an action on trainable tensors, and none are asked of frozen ones."""
    model, graph = compiled()
    names = dict(model.named_parameters())
    names["2.bias"].requires_grad_(False)
    g = graph.symmetry.sample(0)
    moved = g.act(names)
    assert not moved["2.bias"].requires_grad
    sum(tensor.sum() for tensor in moved.values()).backward()
    plain = g.act({name: tensor.detach() for name, tensor in names.items()})
    assert all(torch.equal(plain[name], moved[name]) for name in names)
    assert names["0.weight"].grad is not None and names["0.weight"].grad.abs().min() > 0


def test_large_tensors_are_worked_on_in_parts() -> None:
    """Rows at a time or all at once: the same numbers."""
    model = nn.Sequential(nn.Linear(700, 900), nn.ReLU(), nn.Linear(900, 5)).eval()
    graph = pg.compile(model, torch.randn(2, 700))
    state = model.state_dict()
    g = graph.symmetry.sample(0)
    trainable = {name: tensor.clone().requires_grad_() for name, tensor in state.items()}
    at_once, in_parts = g.act(trainable), g.act(state)
    assert all(torch.equal(at_once[name], in_parts[name]) for name in state)
    x = torch.randn(3, 700)
    assert torch.allclose(torch.func.functional_call(model, in_parts, x), model(x), atol=1e-5)


def test_channels_in_many_parts_keep_their_scales(torchvision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed spaces in many parts are taken as whole; single channels that shuffles have cut out are no fixed space."""
    model, x = torchvision.models.shufflenet_v2_x0_5().eval(), torch.randn(2, 3, 64, 64)
    traced = trace(model, x)
    known = compile_trace(traced).symmetry.dimension
    monkeypatch.setattr(scale_spaces, "MOST_FIXED", 1 << 30)
    assert known == compile_trace(traced).symmetry.dimension

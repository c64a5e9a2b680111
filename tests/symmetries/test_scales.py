"""Scales and signs: known groups, independent oracles, soundness, and the laws of the semidirect product."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev

import paramgraph as pg
from paramgraph import ParamGraph
from paramgraph.errors import StateDictError
from paramgraph.models.torchvision import import_torchvision
from tests.support import attention, branches, gathered, indexing, layers, layouts, values  # noqa: F401  registers the cases
from tests.support.cases import CASES
from tests.support.scales import SCALES

SEEDS = st.integers(0, 2**31 - 1)
State = dict[str, torch.Tensor]
# Steps of a recurrent network share one trace of the state: torch differentiates fused kernels once only.
FUSED = ("lstm", "gru")


@cache
def compiled(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], ParamGraph]:
    model, inputs = (SCALES if name in SCALES else CASES)[name].build()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return model.double(), inputs, pg.compile(model, inputs)


def random_state(model: nn.Module, graph: ParamGraph, seed: int) -> State:
    """Values away from 0 and 1; variances positive; tied tensors equal."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = tensor.clone()
            continue
        magnitude = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).abs() + 0.3
        sign = 1 if name.endswith("running_var") else torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
        state[name] = magnitude * sign
    return state | {name: alias.read(state) for name, alias in graph.aliases.items()}


def batch_norm(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, training: bool = False,
               momentum: float = 0.1, eps: float = 1e-5) -> torch.Tensor:
    """Inference by its formula: torch's own cannot be differentiated by its statistics."""
    if training:
        mean, var = x.mean((0, *range(2, x.ndim))), x.var((0, *range(2, x.ndim)), correction=0)
    mean, var, weight, bias = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (mean, var, weight, bias))
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def run(model: nn.Module, graph: ParamGraph, state: State, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    out = functional_call(model, {name: state[name] for name in graph.values}, inputs, tie_weights=True)  # networks may take derivatives
    return torch.utils._pytree.tree_map(lambda value: value.detach() if isinstance(value, torch.Tensor) else value, out)


def fresh_inputs(inputs: tuple[torch.Tensor, ...], count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Enough random inputs to reach every piece of piecewise functions."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(count, *x.shape[1:], generator=generator, dtype=torch.float64) * 1.5 if x.is_floating_point()
        else torch.randint(0, int(x.max()) + 1, (count, *x.shape[1:]), generator=generator) for x in inputs
    )  # fmt: skip


def nullity(model: nn.Module, graph: ParamGraph, inputs: tuple[torch.Tensor, ...]) -> int:
    """P − rank of the stacked J(θ)·diag(θ) over several random θ: the diagonal generators that leave the function unchanged at all of them."""
    names = [name for name, value in graph.values.items() if value.is_floating_point()]
    rows = []
    outputs_each = run(model, graph, random_state(model, graph, 0), inputs)[0].numel()
    # Many points for small networks: a unit that is dead at most of them hides in the others.
    for seed in range(8 if graph.num_parameters < 100 else 3):
        state = random_state(model, graph, seed)
        sizes = [state[name].numel() for name in names]
        x = fresh_inputs(inputs, min(48, sum(sizes) // outputs_each + 8), seed)

        def outputs(scale: torch.Tensor, state: State = state, x: Any = x, sizes: list[int] = sizes) -> torch.Tensor:
            parts = dict(zip(names, scale.split(sizes), strict=True))
            scaled = {name: state[name] * parts[name].view(state[name].shape) for name in names}
            return functional_call(model, scaled, x, tie_weights=True).reshape(-1)

        rows.append(jacrev(outputs)(torch.ones(sum(sizes), dtype=torch.float64)))
    singular = torch.linalg.svdvals(torch.cat(rows))
    rank = int((singular > singular[0] * 1e-9).sum())
    assert rank == len(singular) or singular[rank - 1] / singular[rank] > 1e4
    return sum(sizes) - rank


@pytest.mark.parametrize("name", SCALES)
def test_known_groups(name: str) -> None:
    *_, graph = compiled(name)
    assert (graph.symmetry.dimension, graph.symmetry.num_signs) == (SCALES[name].dimension, SCALES[name].signs)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in SCALES if name not in FUSED])
def test_magnitudes_against_the_jacobian(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "batch_norm", batch_norm)
    model, inputs, graph = compiled(name)
    assert nullity(model, graph, inputs) == graph.symmetry.dimension + SCALES[name].hidden


# Networks whose sign vectors can all be tried, by the number of parameters.
TINY: dict[str, tuple[Any, tuple[int, ...]]] = {
    "tanh": (lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), (16, 2)),
    "relu": (lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (16, 2)),
    "square": (lambda: nn.Sequential(nn.Linear(2, 2), SCALES["mlp, square"].make()[1], nn.Linear(2, 2)), (16, 2)),
    "cosine": (lambda: nn.Sequential(nn.Linear(2, 2), SCALES["mlp, cosine"].make()[1], nn.Linear(2, 1)), (16, 2)),
    "gelu": (lambda: nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)), (16, 2)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(1, 3, bias=False), nn.LayerNorm(3), nn.Linear(3, 1)), (16, 1)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(1, 3), nn.RMSNorm(3), nn.Linear(3, 1)), (16, 1)),
}


@pytest.mark.parametrize("name", TINY)
def test_signs_by_brute_force(name: str) -> None:
    """The sign vectors under which two random states both keep their outputs are 2 to the number of annotated signs."""
    make, shape = TINY[name]
    torch.manual_seed(0)
    model, x = make().eval().double(), torch.randn(*shape, dtype=torch.float64)
    graph = pg.compile(model, x)
    states = [random_state(model, graph, seed) for seed in range(2)]
    base = [run(model, graph, state, (x,)) for state in states]
    names = list(graph.values)
    sizes = [graph.values[n].numel() for n in names]
    assert sum(sizes) <= 20
    alive = torch.tensor(list(itertools.product((1.0, -1.0), repeat=sum(sizes))), dtype=torch.float64)

    for state, expected in zip(states, base, strict=True):
        def outputs(signs: torch.Tensor, state: State = state) -> torch.Tensor:
            parts = dict(zip(names, signs.split(sizes), strict=True))
            return functional_call(model, {n: state[n] * parts[n].view(state[n].shape) for n in names}, (x,))

        kept = [(torch.func.vmap(outputs)(chunk) - expected).abs().flatten(1).amax(1) < 1e-9 for chunk in alive.split(1 << 15)]
        alive = alive[torch.cat(kept)]
    assert len(alive) == 2**graph.symmetry.num_signs


@pytest.mark.parametrize("name", SCALES)  # those of the other cases are drawn when their groups are verified (tests/compiler/test_typing_cases.py)
def test_random_elements_leave_the_function_unchanged(name: str) -> None:
    model, inputs, graph = compiled(name)
    for seed in range(2):
        state = random_state(model, graph, seed)
        before = torch.utils._pytree.tree_leaves(run(model, graph, state, inputs))
        for kinds in (["scale", "sign"], None):
            after = torch.utils._pytree.tree_leaves(run(model, graph, graph.symmetry.sample(seed, kinds=kinds).act(state), inputs))
            for a, b in zip(before, after, strict=True):
                if isinstance(a, torch.Tensor) and a.is_floating_point():
                    assert float((a - b).abs().max()) <= 1e-10 * max(float(a.abs().max()), 1e-3)


# Products, wreath products, families, shuffled axes, tied and packed tensors, several indices in one function.
LAWS = ("mlp", "grouped-query attention", "packed attention", "channel shuffle", "shuffled concatenation", "group norm over a concatenation",
        "tied across a transpose", "llama block", "residual block", "linear attention")


def close(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=1e-10, atol=0) for name in a)


@pytest.mark.parametrize("name", LAWS)
@settings(deadline=None, max_examples=8)
@given(seeds=st.tuples(SEEDS, SEEDS, SEEDS))
def test_laws(name: str, seeds: tuple[int, int, int]) -> None:
    model, _, graph = compiled(name)
    group, theta = graph.symmetry, random_state(model, graph, 0)
    g, h, k = (group.sample(seed) for seed in seeds)
    assert close((g @ h).act(theta), g.act(h.act(theta)))
    assert close(g.inverse().act(g.act(theta)), theta)
    assert close(group.identity().act(theta), theta)
    assert (g @ h) @ k == g @ (h @ k)
    assert g @ group.identity() == g == group.identity() @ g
    assert (g @ g.inverse()).is_identity()
    assert (g.inverse() @ g).is_identity()
    assert (g @ h).inverse() == h.inverse() @ g.inverse()


def test_kinds() -> None:
    *_, graph = compiled("llama block")
    group = graph.symmetry
    assert group.sample(0, kinds=["permutation"]).tables == {}
    assert group.sample(0, kinds=["scale", "sign"]).permutations == {}
    assert (group.dimension, group.num_signs) == (26, 30)
    assert {f.kind for f in group.factors} == {"permutation", "scale", "sign"}
    assert sum(f.size for f in group.factors if f.kind == "scale") == 26
    only = group.subgroup(["sign"])
    assert (only.log_order, only.dimension, only.num_signs) == (0.0, 0, 30)


def test_approximate_scales_are_apart() -> None:
    """The ε of a normalisation forbids its input's scale exactly; it is reported, and is in no element."""
    *_, graph = compiled("linear, layer norm, linear, gelu")
    assert graph.symmetry.scales.approximate == 1
    assert (graph.symmetry.dimension, "approximately" in str(graph.symmetry)) == (6, True)


def test_printing() -> None:
    *_, graph = compiled("residual block")
    assert "scale group of 13 magnitudes and 8 signs" in str(graph.symmetry)
    assert any(str(f).startswith("ℝ₊^") for f in graph.symmetry.factors)


def test_integer_buffers_are_left_alone() -> None:
    model, _, graph = compiled("residual block")
    state = random_state(model, graph, 0)
    moved = graph.symmetry.sample(0).act(state)
    assert torch.equal(moved["n0.num_batches_tracked"], state["n0.num_batches_tracked"])
    assert bool((moved["n0.running_var"] > 0).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions(dtype: torch.dtype) -> None:
    model, _, graph = compiled("mlp, square")
    wide = random_state(model, graph, 0)
    state = {name: tensor.to(dtype) for name, tensor in wide.items()}
    g = graph.symmetry.sample(3)
    moved, exact = g.act(state), g.act({name: tensor.double() for name, tensor in state.items()})
    for name in state:
        assert moved[name].dtype == dtype
        assert torch.allclose(moved[name].double(), exact[name], rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_zeros_infinities_and_overflow() -> None:
    model, _, graph = compiled("mlp, relu")
    state = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    state["0.weight"][0, 0] = torch.inf
    g = graph.symmetry.sample(1, kinds=["scale"])
    moved = g.act(state)
    assert float(moved["0.weight"][0, 0]) == torch.inf
    assert not any(tensor.isnan().any() for tensor in moved.values())
    half = {name: torch.full_like(tensor, 60000.0, dtype=torch.float16) for name, tensor in state.items()}
    with pytest.raises(StateDictError, match="out of the range of float16"):
        graph.symmetry.sample(1, kinds=["scale"], sigma=3.0).act(half)


def test_saved_and_loaded(tmp_path: Any) -> None:
    model, _, graph = compiled("llama block")
    graph.save(tmp_path / "net.pgraph")
    back = pg.load(tmp_path / "net.pgraph")
    state = random_state(model, graph, 0)
    assert close(back.symmetry.sample(3).act(state), graph.symmetry.sample(3).act(state))


@pytest.mark.parametrize("name", ["mlp, tanh", "mlp, relu", "llama block", "residual block", "pre-norm attention block", "lstm"])
def test_verify(name: str) -> None:
    model, inputs, graph = compiled(name)
    report = pg.verify(graph, model, inputs, elements=2, inputs=2)
    assert report.passed, report
    assert len(report.factors) == len(graph.symmetry.factors)


# Known dimensions of magnitudes and signs, at full size.
@pytest.mark.parametrize(("name", "dimension", "signs"), [("resnet18", 7680, 4800), ("resnet50", 38016, 26560),
                                                          ("vit_b_16", 25 * 768 + 2 * 12 * 768, 37633)])
def test_whole_networks(name: str, dimension: int, signs: int) -> None:
    models = import_torchvision().models
    with torch.device("meta"):
        model, x = getattr(models, name)().eval(), torch.randn(1, 3, 224, 224)
    group = pg.compile(model, x).symmetry
    assert (group.dimension, group.num_signs) == (dimension, signs)


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_whole_networks_are_sound(name: str) -> None:
    models = import_torchvision().models
    torch.manual_seed(0)
    vit = dict(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    model = (models.resnet18(num_classes=5) if name == "resnet18" else models.VisionTransformer(**vit)).eval().double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    graph = pg.compile(model, x)
    for seed in range(2):
        state = random_state(model, graph, seed)
        before = run(model, graph, state, (x,))
        for kinds in (["scale", "sign"], None):
            moved = graph.symmetry.sample(seed, kinds=kinds).act(state)
            assert all(not torch.equal(moved[n], state[n]) for n in graph.symmetry.scales.blocks)
            after = run(model, graph, moved, (x,))
            assert float((before - after).abs().max()) <= 1e-10 * float(before.abs().max())


# Functions that look scalable and are not: nothing may be claimed through them.
TRAPS: dict[str, tuple[Any, int, int]] = {
    "rounding to integers": (lambda x: x.to(torch.int64).to(x.dtype), 0, 0),
    "copied into integers": (lambda x: torch.zeros(x.shape, dtype=torch.int64).copy_(8 * x).to(x.dtype), 0, 0),
    "summed as integers": (lambda x: (8 * x).detach()[:, None].sum(1, dtype=torch.int64).to(x.dtype), 0, 0),
    "multiplied as integers": (lambda x: (8 * x).detach()[:, None].prod(1, dtype=torch.int64).to(x.dtype), 0, 0),
    "cumulated as integers": (lambda x: (8 * x).detach().cumsum(0, dtype=torch.int64).to(x.dtype), 0, 0),
    "bits": (lambda x: (x.detach().view(torch.int64) >> 40).to(x.dtype) / 2**20, 0, 0),
    "bits as numbers": (lambda x: x.detach().view(torch.int64).to(x.dtype) / 2**60, 0, 0),
    "inverse deviation of a batch": (lambda x: x * torch.native_batch_norm(x, None, None, None, None, True, 0.1, 0.3)[2], 0, 3),
    "constant padding": (lambda x: x + F.pad(x[:, 1:], (1, 0), value=2.0), 2, 2),
    "zero padding": (lambda x: x + F.pad(x[:, 1:], (1, 0)), 3, 3),
    "floor": (torch.floor, 0, 0),
    "standard deviation of std_mean": (lambda x: x / torch.std_mean(x, dim=0)[0], 3, 3),
    "number of non-zeros": (lambda x: x + torch.linalg.vector_norm(x, 0, dim=0), 0, 0),
    "division with rounding": (lambda x: torch.div(x, 1.0, rounding_mode="floor"), 0, 0),
    "a small number added": (lambda x: x / (x.square().mean(0, keepdim=True) + 1e-3).sqrt(), 0, 3),
    "least and largest": (lambda x: x - torch.aminmax(x, dim=0)[0], 3, 0),
    "clamped above": (lambda x: x.clamp(max=1.0), 0, 0),
    "clamped on both sides": (lambda x: x.clamp(-2.0, 2.0), 0, 3),
    "comparison with one": (lambda x: torch.where(x > 1.0, x, 0.0), 0, 0),
    "comparison with zero": (lambda x: torch.where(x > 0.0, x, 0.0), 3, 0),
    "one in place of zero": (lambda x: torch.where(x > 0.0, x, 1.0), 0, 0),
    "reciprocal": (lambda x: 1.0 / x, 3, 3),
    "root of the absolute": (lambda x: x.abs() ** 0.5, 3, 3),
    "odd power": (lambda x: torch.pow(x, 3.0), 3, 3),
    "power of two": (lambda x: torch.pow(2.0, x), 0, 0),
    "softmax": (lambda x: x.softmax(-1), 0, 0),
    "cumulative sum": (lambda x: x.cumsum(-1), 1, 1),
    "sorted": (lambda x: x.sort(-1)[0], 1, 0),
    "flipped and added": (lambda x: x + x.flip(-1), None, None),
    "channel maximum": (lambda x: x + x.amax(-1, keepdim=True), 1, 0),
    "sign": (torch.sign, 3, 3),
    "step": (lambda x: (x > 0).to(x.dtype), 3, 0),
    "lerp": (lambda x: torch.lerp(x, x.abs(), 0.3), 3, 0),
    "outer product with itself": (lambda x: torch.einsum("bi,bj->bij", x, x).sum(1) + x * 0.0, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_functions_in_the_middle(name: str) -> None:
    function, dimension, signs = TRAPS[name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(function(self.a(x)))

    torch.manual_seed(0)
    model, x = Net().eval().double(), torch.randn(9, 4, dtype=torch.float64)
    graph = pg.compile(model, x)
    state = random_state(model, graph, 1)
    for seed in range(4):
        moved = graph.symmetry.sample(seed, kinds=["scale", "sign"]).act(state)
        before, after = run(model, graph, state, (x,)), run(model, graph, moved, (x,))
        assert float((before - after).abs().max()) <= 1e-10 * float(before.abs().max())
    if dimension is not None:
        assert (graph.symmetry.dimension, graph.symmetry.num_signs) == (dimension, signs)

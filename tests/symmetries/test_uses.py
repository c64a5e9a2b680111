"""What a group is for: canonical representatives, alignment, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import paramgraph as pg
from paramgraph.errors import GroupError
from paramgraph.models.torchvision import import_torchvision
from paramgraph.symmetries import align, augment, canonicalise
from tests.support import attention, layers, layouts  # noqa: F401  registers the cases
from tests.support.cases import CASES
from tests.support.scales import SCALES
from tests.symmetries.test_scales import compiled, random_state

# Layers of every kind: products, wreath products, joint spaces, families, tied tensors, normalisations, recurrences.
NETWORKS = ("mlp, relu", "mlp, tanh", "mlp, square", "residual block", "llama block", "linear attention", "grouped-query attention",
            "packed attention", "pre-norm attention block", "swiglu", "lstm", "channel shuffle", "group norm", "tied across a transpose",
            "weight times a mask of blocks", "activations times a mask")


def network(name: str, seed: int = 0) -> tuple[nn.Module, tuple[torch.Tensor, ...], pg.ParamGraph]:
    model, inputs, graph = compiled(name)
    return model, inputs, graph.with_values(random_state(model, graph, seed))


def difference(a: pg.ParamGraph, b: pg.ParamGraph) -> float:
    """Largest difference of any element, relative to the largest of its tensor."""
    pairs = [(a.values[name], b.values[name]) for name in a.values if a.values[name].is_floating_point()]
    return max(float((x - y).abs().max() / x.abs().max().clamp(min=1e-3)) for x, y in pairs)


def outputs(model: nn.Module, graph: pg.ParamGraph, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    out = functional_call(model, {name: graph.state_dict()[name] for name in graph.values}, inputs, tie_weights=True)
    return torch.utils._pytree.tree_leaves(out)[0].detach()  # networks may take derivatives


@pytest.mark.parametrize("name", NETWORKS)
def test_canonical_form(name: str) -> None:
    """The same for every point of an orbit; idempotent; the same function."""
    model, inputs, graph = network(name)
    canonical = canonicalise(graph)
    assert difference(canonicalise(canonical), canonical) < 1e-9
    for seed in range(3):
        assert difference(canonicalise(augment(graph, seed)), canonical) < 1e-9
    before, after = outputs(model, graph, inputs), outputs(model, canonical, inputs)
    assert float((before - after).abs().max()) <= 1e-10 * float(before.abs().max())
    other = canonicalise(network(name, seed=1)[2])
    assert difference(canonical, other) > 1e-3


class Unrolled(nn.Module):
    """A recurrent weight that comes before all else that its signs multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.into, self.out = nn.Linear(5, 5, bias=False), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.into(x))
        for _ in range(2):
            h = torch.tanh(self.again(h) + self.into(x))
        return self.out(h)


def test_canonical_signs_of_a_recurrent_weight() -> None:
    """`s W s`: sums over rows of W are no measure of the signs of its rows."""
    torch.manual_seed(0)
    model, x = Unrolled().double().eval(), torch.randn(4, 6, dtype=torch.float64)
    graph = pg.compile(model, x)
    assert graph.symmetry.num_signs == 5
    first = pg.symmetries.canonicalise(graph)
    assert difference(first, pg.symmetries.canonicalise(first)) < 1e-12
    for seed in range(3):
        assert difference(first, pg.symmetries.canonicalise(pg.symmetries.augment(graph, seed))) < 1e-12


def test_what_canonical_means() -> None:
    """Balanced: the geometric means of a neuron's ingoing and outgoing weights agree. Sorted: another order is another state."""
    _, _, graph = network("mlp, relu")
    values = canonicalise(graph).values
    ingoing = torch.cat([values["0.weight"], values["0.bias"][:, None]], dim=1).abs().log().sum(1)
    outgoing = values["2.weight"].abs().log().sum(0)
    assert torch.allclose(ingoing, outgoing, atol=1e-10)


def test_canonical_forms_by_kind() -> None:
    _, _, graph = network("mlp, tanh")
    signs = canonicalise(graph, kinds=["sign"])
    assert bool((signs.values["0.weight"].sum(1) > 0).all())
    assert torch.equal(signs.values["0.weight"].abs(), graph.values["0.weight"].abs())
    assert difference(canonicalise(graph, kinds=["scale"]), graph) == 0  # tanh has none


def test_dead_neurons() -> None:
    """Zeros carry no magnitude: nothing is divided by them."""
    _, _, graph = network("mlp, relu")
    state = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    state["0.weight"][1], state["0.bias"][1], state["2.weight"][:, 2] = 0, 0, 0
    dead = graph.with_values(state)
    canonical = canonicalise(dead)
    assert all(bool(value.isfinite().all()) for value in canonical.values.values())
    assert difference(canonicalise(augment(dead, 1, kinds=["permutation"])), canonical) < 1e-9
    zero = graph.with_values({name: torch.zeros_like(tensor) for name, tensor in state.items()})
    assert all(not value.any() for value in canonicalise(zero).values.values())
    found = align(graph, dead)
    assert all(bool(value.isfinite().all()) for value in found.graph.values.values())


@pytest.mark.parametrize("zeros", [slice(2, 3), slice(None)])
def test_gains_of_zero(zeros: slice) -> None:
    """What they multiply has signs all the same: offsets and readers tell them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()
    with torch.no_grad():
        model[1].bias.normal_()
        model[1].weight[zeros] = 0
    graph = pg.compile(model, torch.randn(3, 6, dtype=torch.float64))
    first = canonicalise(graph)
    for seed in range(3):
        moved = augment(graph, seed)
        assert difference(first, canonicalise(moved)) < 1e-12
        assert align(graph, moved).after < 1e-9


def test_numbers_whose_squares_are_too_large() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), torch.randn(3, 4)
    with torch.no_grad():
        model[0].weight.mul_(1e30)
    graph = pg.compile(model, x)
    found = align(graph, augment(graph, 0))
    assert found.after < 1e-5 * found.before
    wide = graph.with_values({name: value.double() * 1e200 for name, value in graph.state_dict().items()})
    with pytest.raises(GroupError, match="squares leave the range"):
        align(wide, wide)


def test_infinities_and_nan() -> None:
    """They count as zeros for a canonical form, and stay where they are; distances of what is not finite are none."""
    _, _, graph = network("mlp, relu")
    for value in (float("inf"), float("nan")):
        state = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
        state["0.weight"][1, 0] = value
        odd = graph.with_values(state)
        canonical = canonicalise(odd)
        assert [int((~tensor.isfinite()).sum()) for tensor in canonical.values.values()] == [1, 0, 0, 0]
        moved = canonicalise(augment(odd, 1, kinds=["permutation", "scale"])).values
        for name, tensor in canonical.values.items():
            assert torch.allclose(moved[name], tensor, rtol=1e-9, equal_nan=True)
        for pair in ((odd, graph), (graph, odd)):
            with pytest.raises(GroupError, match="finite"):
                align(*pair)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Computed in more precision, rounded at the end; integer buffers and what needs gradients are no obstacle."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).eval()
    graph = pg.compile(model, torch.randn(2, 2, 5, 5))
    a = graph.with_values({name: nn.Parameter(value.to(dtype)) if value.is_floating_point() else value for name, value in
                           random_state(model, graph, 0).items()})  # fmt: skip
    b = augment(a, 3)
    for made in (canonicalise(a), align(a, b).graph):
        for name, value in made.values.items():
            assert value.dtype == a.values[name].dtype and bool(value.isfinite().all()), name
    found = align(a, b)
    assert found.after < 0.02 * found.before
    assert torch.equal(canonicalise(a).values["1.num_batches_tracked"], a.values["1.num_batches_tracked"])


def test_canonical_form_of_a_vision_transformer() -> None:
    torchvision = import_torchvision()
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3)
    model, x = model.double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = pg.compile(model, x)
    graph = graph.with_values(random_state(model, graph, 0))
    canonical = canonicalise(graph)
    assert difference(canonicalise(canonical), canonical) < 1e-9
    for seed in range(2):
        assert difference(canonicalise(augment(graph, seed)), canonical) < 1e-9
    before, after = outputs(model, graph, (x,)), outputs(model, canonical, (x,))
    assert float((before - after).abs().max()) <= 1e-9 * float(before.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_points_of_one_orbit_align(name: str) -> None:
    model, inputs, graph = network(name)
    moved = augment(graph, 5)
    found = align(graph, moved)
    assert found.before > 1 and found.after < 1e-9 * found.before
    assert difference(graph, found.graph) < 1e-9
    acted = found.element.act(moved.state_dict())
    assert all(torch.equal(acted[key], value) for key, value in found.graph.state_dict().items())
    before, after = outputs(model, moved, inputs), outputs(model, found.graph, inputs)
    assert float((before - after).abs().max()) <= 1e-9 * float(before.abs().max())


@pytest.mark.parametrize("name", ["mlp, relu", "llama block", "grouped-query attention"])
def test_noise_beside_an_orbit(name: str) -> None:
    """A perturbed copy, permuted, comes back to within the perturbation."""
    _, _, graph = network(name)
    torch.manual_seed(0)
    near = {key: value + 1e-3 * torch.randn_like(value) if value.is_floating_point() else value for key, value in graph.state_dict().items()}
    near |= {key: alias.read(near) for key, alias in graph.aliases.items()}
    perturbed = graph.with_values(near)
    found = align(graph, augment(perturbed, 3, kinds=["permutation"]), kinds=["permutation"])
    assert difference(perturbed, found.graph) == 0


@pytest.mark.parametrize("kinds", [["permutation"], ["scale"], ["sign"], ["permutation", "sign"], None])
def test_other_networks_come_closer(kinds: list[str] | None) -> None:
    """Between unrelated networks no orbit is shared: the distance falls, by the chosen kinds only."""
    _, _, a = network("residual block", 0)
    _, _, b = network("residual block", 1)
    found = align(a, b, kinds=kinds)
    used = {found.element.group.factors[number].kind for number in found.element.parts}
    assert used <= set(kinds or ["permutation", "scale", "sign"])
    assert found.after < found.before or kinds == ["scale"] and found.after <= found.before
    assert "after alignment" in str(found)


@pytest.mark.parametrize("name", ["mlp, relu", "residual block", "llama block", "linear attention"])
def test_with_scales_networks_come_closer_than_without(name: str) -> None:
    _, _, a = network(name, 0)
    _, _, b = network(name, 1)
    without, found = (align(a, b, kinds=kinds) for kinds in (["permutation", "sign"], ["permutation", "sign", "scale"]))
    assert found.after < 0.999 * without.after


def test_magnitudes_are_the_closest() -> None:
    """One hidden layer of three neurons: as close as a general minimiser comes."""
    from scipy.optimize import minimize

    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double(), torch.randn(4, 3, dtype=torch.float64)
    graph = pg.compile(model, x)
    a, b = (graph.with_values(random_state(model, graph, seed)) for seed in (0, 1))

    def squared(logs: np.ndarray) -> float:
        s = torch.from_numpy(np.exp(logs))
        moved = (b.values["0.weight"] * s[:, None], b.values["0.bias"] * s, b.values["2.weight"] / s, b.values["2.bias"])
        return sum(float((m - a.values[n]).square().sum()) for m, n in zip(moved, ("0.weight", "0.bias", "2.weight", "2.bias"), strict=True))

    best = minimize(squared, np.zeros(3), tol=1e-12).fun
    assert best < 0.99 * squared(np.zeros(3))
    assert align(a, b, kinds=["scale"]).after ** 2 == pytest.approx(best, rel=1e-4)


def test_an_assignment_is_optimal() -> None:
    """One hidden layer: all permutations tried."""
    from itertools import permutations

    model, x = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)).double(), torch.randn(4, 3, dtype=torch.float64)
    graph = pg.compile(model, x)
    a, b = (graph.with_values(random_state(model, graph, seed)) for seed in (0, 1))
    best = min(
        sum(float((a.values[n] - v).square().sum()) for n, v in (
            ("0.weight", b.values["0.weight"][list(p)]), ("0.bias", b.values["0.bias"][list(p)]),
            ("2.weight", b.values["2.weight"][:, list(p)]), ("2.bias", b.values["2.bias"])))
        for p in permutations(range(5))
    )  # fmt: skip
    assert align(a, b).after ** 2 == pytest.approx(best, rel=1e-9)


def test_augment() -> None:
    model, inputs, graph = network("mlp, relu")
    assert difference(augment(graph, 0), graph) > 1e-3
    assert difference(augment(graph, 0), augment(graph, 0)) == 0
    assert difference(augment(graph), augment(graph)) > 0
    moved = augment(graph, 1, kinds=["scale"], sigma=2.0)
    before, after = outputs(model, graph, inputs), outputs(model, moved, inputs)
    assert torch.allclose(before, after, rtol=1e-10)
    assert torch.equal(graph.values["0.weight"], random_state(model, graph, 0)["0.weight"])


def test_errors() -> None:
    _, _, a = network("mlp, relu")
    _, _, b = network("mlp, tanh")
    with pytest.raises(GroupError, match="differ in structure"):
        align(a, network("residual block")[2])
    with pytest.raises(GroupError, match="differ in structure"):
        align(a, a.with_values({name: tensor.float() for name, tensor in a.state_dict().items()}))
    with pytest.raises(GroupError, match="unknown kinds"):
        canonicalise(a, kinds=["rotation"])
    with pytest.raises(GroupError, match="unknown kinds"):
        align(a, a, kinds=["rotation"])
    meta = a.with_values({name: tensor.to("meta") for name, tensor in a.state_dict().items()})
    for use in (lambda: canonicalise(meta), lambda: align(meta, meta)):
        with pytest.raises(GroupError, match="meta device"):
            use()
    assert b.symmetry.num_signs == 3


@pytest.mark.parametrize("name", [*(n for n in list(CASES)[::6] if n != "overlapping slices"), *SCALES])  # tracing takes long
def test_every_case_aligns_or_comes_closer(name: str) -> None:
    """Small networks of the suite: no error, the same function, and the distance to another point of the orbit never grows."""
    model, inputs, graph = network(name)
    if not any(f.kind == "permutation" for f in graph.symmetry.factors):
        return
    moved = augment(graph, 2, kinds=["permutation", "sign"])
    found = align(graph, moved, kinds=["permutation", "sign"])
    assert found.after <= found.before + 1e-9
    before, after = outputs(model, moved, inputs), outputs(model, found.graph, inputs)
    if before.is_floating_point():
        assert torch.allclose(before, after, rtol=1e-7, atol=1e-9 * float(before.abs().max()))

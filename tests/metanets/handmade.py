"""Parameter graphs made by hand, so that metanets are tested apart from the compiler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from paramgraph.graph import EdgeSet, NodeSet, ParameterView, ParamGraph


def view(name: str, shape: tuple[int, ...], use: int = 0) -> ParameterView:
    """The whole of a tensor, in its own layout."""
    return ParameterView(name, shape, tuple((0, size, 1) for size in shape), tuple(range(len(shape))), use=use)


def nodes(name: str, type: str, size: int, depth: int = 0, activation: str | None = None, pinned: bool = False) -> NodeSet:
    return NodeSet(name, type, size, depth=depth, activation=activation, order=range(size) if pinned else None)


def make_graph(name: str, node_sets: list[NodeSet], edge_sets: list[EdgeSet], values: dict[str, torch.Tensor]) -> ParamGraph:
    return ParamGraph(
        name, {n.name: n for n in node_sets}, {e.name: e for e in edge_sets}, symmetry=None, values=values, names=tuple(values)
    )


def mlp(seed: int = 0, widths: tuple[int, ...] = (3, 5, 2), dtype: torch.dtype = torch.float32, name: str = "mlp") -> ParamGraph:
    """A plain MLP: dense weights, and biases from one bias node per layer (one source index repeated)."""
    generator = torch.Generator().manual_seed(seed)
    last = len(widths) - 1
    node_sets = [nodes("input", "input", widths[0], pinned=True)]
    edge_sets, values = [], {}
    for layer in range(1, last + 1):
        m, k = widths[layer], widths[layer - 1]
        kind, act = ("output", None) if layer == last else ("neuron", "relu")
        node_sets += [nodes(f"bias{layer}", "bias", 1, layer), nodes(f"layer{layer}", kind, m, layer, act, pinned=layer == last)]
        before = "input" if layer == 1 else f"layer{layer - 1}"
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        values[weight] = torch.randn(m, k, generator=generator, dtype=torch.float64).to(dtype)
        values[bias] = torch.randn(m, generator=generator, dtype=torch.float64).to(dtype)
        edge_sets.append(EdgeSet(weight, "weight", before, f"layer{layer}", (1, m, k, 1), parameter=view(weight, (m, k)), depth=layer))
        zeros = np.zeros((m, 1), dtype=np.int64)
        edge_sets.append(
            EdgeSet(
                bias, "bias", f"bias{layer}", f"layer{layer}", (m, 1, 1, 1), source_index=zeros, parameter=view(bias, (m,)), depth=layer
            )
        )
    return make_graph(name, node_sets, edge_sets, values)


def everything(seed: int = 0, dtype: torch.dtype = torch.float32, name: str = "everything") -> ParamGraph:
    """Every connectivity at once: dense, grouped with positions, diagonal, explicit, structural, two parameters, a second use."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    values = {
        "stem": random(6, 3, 4),
        "grouped": random(6, 3, 9),
        "gain": random(6),
        "mask": random(7),
        "tied": random(2, 6),
        "steps": torch.arange(6),
    }
    node_sets = [
        nodes("in", "input", 3, pinned=True),
        nodes("a", "channel", 6, 1, "relu"),
        nodes("b", "channel", 6, 2, "gelu"),
        nodes("norm", "gain", 1, 2),
        nodes("out", "output", 2, 3, pinned=True),
    ]
    taps = np.stack(np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 3)), -1).reshape(9, 2)
    source, target = np.array([0, 2, 2, 5, 1, 0, 3]), np.array([1, 1, 0, 4, 4, 4, 5])
    edge_sets = [
        EdgeSet(
            "stem", "conv", "in", "a", (1, 6, 3, 4), parameter=view("stem", (6, 3, 4)), positions=np.linspace(-1, 1, 4)[:, None], depth=1
        ),
        EdgeSet("grouped", "conv", "a", "b", (2, 3, 3, 9), parameter=view("grouped", (6, 3, 9)), positions=taps, depth=2),
        EdgeSet("gain", "gain", "norm", "b", (6, 1, 1, 1), np.zeros((6, 1), np.int64), parameter=view("gain", (6,)), depth=2),
        EdgeSet("steps", "running", "norm", "b", (6, 1, 1, 1), np.zeros((6, 1), np.int64), parameter=view("steps", (6,)), depth=2),
        EdgeSet("skip", "residual", "a", "b", (6, 1, 1, 1), depth=2),
        EdgeSet("mask", "masked", "a", "b", (7, 1, 1, 1), source[:, None], target[:, None], view("mask", (7,)), explicit=True, depth=2),
        EdgeSet("tied", "weight", "b", "out", (1, 2, 6, 1), parameter=view("tied", (2, 6)), depth=3),
        EdgeSet("tied again", "weight", "a", "out", (1, 2, 6, 1), parameter=view("tied", (2, 6), use=1), depth=3),
    ]
    return make_graph(name, node_sets, edge_sets, values)


def permuted_mlp(graph: ParamGraph, permutation: torch.Tensor) -> ParamGraph:
    """The MLP with the neurons of its first hidden layer permuted: neuron i is the former `permutation[i]`."""
    values = dict(graph.values)
    values["1.weight"] = values["1.weight"][permutation]
    values["1.bias"] = values["1.bias"][permutation]
    values["2.weight"] = values["2.weight"][:, permutation]
    return replace(graph, values=values)


def relabelled(graph: ParamGraph, seed: int = 0) -> tuple[ParamGraph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same typed graph with all nodes of all sets numbered anew, as explicit edges in an arbitrary sequence.

    Returns:
        The graph; per node set the former number of each node; per edge set the former flat number of each edge.
    """
    rng = np.random.default_rng(seed)
    former = {name: rng.permutation(n.size) for name, n in graph.node_sets.items()}
    node_sets = [replace(n, order=n.order_array()[former[n.name]]) for n in graph.node_sets.values()]
    edge_sets, values, sequence = [], {}, {}
    for edges in graph.edge_sets.values():
        order = sequence[edges.name] = rng.permutation(edges.num_edges)
        source, target = (
            np.argsort(former[end])[index] for end, index in zip((edges.source, edges.target), edges.edge_index(), strict=True)
        )
        # Parallel edges keep a set per position, since explicit edge sets have no position per edge.
        position = np.broadcast_to(np.arange(edges.shape[3]), edges.shape).reshape(-1)
        for p in range(edges.shape[3]):
            picked = order[position[order] == p]
            name = f"{edges.name}@{p}"
            parameter = None
            if edges.parameter is not None:
                values[name] = graph.edge_values(edges).reshape(-1)[torch.as_tensor(picked)]
                parameter = view(name, (len(picked),))
            coordinates = None if edges.positions is None else edges.positions[p : p + 1]
            edge_sets.append(
                EdgeSet(
                    *(name, edges.type, edges.source, edges.target, (len(picked), 1, 1, 1)),
                    *(source[picked][:, None], target[picked][:, None], parameter, coordinates, edges.depth, True),
                )
            )
            sequence[name] = picked
    return make_graph(graph.name + " relabelled", node_sets, edge_sets, values), former, sequence

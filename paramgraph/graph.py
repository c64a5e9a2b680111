"""ParamGraph, NodeSet, EdgeSet: the typed parameter graph.

The central data structure. It knows no tracing and no GNN. Structure (sets, types, group) is separate from values, which are held by
reference to the network's own tensors. Indices of dense, diagonal and grouped edge sets are implied by four numbers and are
materialised on request only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgraph.errors import StateDictError

if TYPE_CHECKING:
    import torch

    from paramgraph.symmetries.group import SymmetryGroup

Array = np.ndarray
# How far a multiplier of a node set reaches: there is none, one for all nodes, or one for each.
EXTENTS = ("none", "shared", "each")


@dataclass(frozen=True)
class Diagnostic:
    """One thing that the compiler has to say: a pinned space and its cause, an unknown operation, an unused parameter.

    Attributes:
        kind: `"pinned"`, `"unknown-operation"`, `"unused"`, `"note"`.
        subject: what it is about: a parameter and axis, an operation, a parameter name.
        cause: why, in one sentence.
        where: the module path and source line of the network, where known.
    """

    kind: str
    subject: str
    cause: str
    where: str = ""

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        return f"{self.kind}: {self.subject}: {self.cause}{place}"


@dataclass(frozen=True)
class NodeSet:
    """A typed, ordered set of nodes: one occurrence of an index space in the network.

    Attributes:
        name: unique within the graph.
        type: the node type. Metanets share weights by it, and automorphisms preserve it.
        size: number of nodes.
        blocks: how the group moves the nodes: pairs `(node numbers, index spaces)`. Each block is the row-major product of the
            numbered spaces of the group; node numbers are None for the first nodes, in order.
        depth: longest path from an input, in operations.
        activation: name of the function applied to the nodes' values, or None.
        order: per-node order where (part of) the index is pinned: nodes with different order are distinct. None where no
            node is told apart by order.
    """

    name: str
    type: str
    size: int
    blocks: tuple[tuple[Array | None, tuple[int, ...]], ...] = ()
    depth: int = 0
    activation: str | None = None
    order: Array | range | None = None

    def order_array(self) -> Array:
        """Order per node, shape `(size,)`, int64; -1 for nodes that no order tells apart."""
        if self.order is None:
            return np.full(self.size, -1, dtype=np.int64)
        return np.asarray(self.order, dtype=np.int64)


@dataclass(frozen=True)
class ScaleDomain:
    """By what the nodes of a set are multiplied: `"none"`, `"shared"` (one multiplier for all nodes) or `"each"` (one for each node).

    Attributes:
        magnitude: positive multipliers.
        sign: ±1.
    """

    magnitude: str = "none"
    sign: str = "none"

    def __str__(self) -> str:
        parts = [f"{group} {extent}" for group, extent in (("ℝ₊", self.magnitude), ("±1", self.sign)) if extent != "none"]
        return " × ".join(parts) or "1"


@dataclass(frozen=True)
class ParameterView:
    """A strided view of one parameter or buffer: the values of an edge set.

    The view is `tensor.reshape(split)[slices].permute(order).reshape(edge_set.shape)`; no step copies unless the last must.

    Attributes:
        name: state-dict name of the base tensor.
        split: shape that the tensor is first viewed as.
        slices: per split dimension `(start, stop, step)`.
        order: permutation of the split dimensions.
        role: what the parameter is to its operation: `"weight"`, `"bias"`, `"gain"`, `"running_mean"`, …
        use: 0 for the use that owns the values, 1, 2, … for further uses of a shared parameter.
        index: explicit flat element numbers, for parts that no slicing expresses; else None.
    """

    name: str
    split: tuple[int, ...]
    slices: tuple[tuple[int, int, int], ...]
    order: tuple[int, ...]
    role: str = "weight"
    use: int = 0
    index: Array | None = None

    def read(self, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """The values as a tensor of `shape`, a view of `tensor` where strides allow."""
        if self.index is not None:
            import torch

            return tensor.reshape(-1)[torch.as_tensor(self.index, device=tensor.device)].reshape(shape)
        part = tensor.reshape(self.split)[tuple(slice(*s) for s in self.slices)]
        return part.permute(self.order).reshape(shape)

    def element_numbers(self, shape: tuple[int, ...]) -> Array:
        """Flat element numbers within the base tensor, in the layout of `read`."""
        if self.index is not None:
            return self.index.reshape(shape)
        numbers = np.arange(int(np.prod(self.split, dtype=np.int64)), dtype=np.int64).reshape(self.split)
        return numbers[tuple(slice(*s) for s in self.slices)].transpose(self.order).reshape(shape)


@dataclass(frozen=True)
class EdgeSet:
    """A typed set of edges between two node sets, carrying one parameter tensor, a part of one, or none (structural).

    Edges form `groups` dense blocks: edge `(g, i, j, p)` runs from node `source_index[g, j]` to node `target_index[g, i]` at position `p`.
    Without index arrays, block `g` takes nodes `g·k … g·k+k-1` of the source and `g·m … g·m+m-1` of the target.

    Attributes:
        name: unique within the graph.
        type: the edge type.
        source: name of the source node set.
        target: name of the target node set.
        shape: `(groups, m, k, positions)`: blocks, targets per block, sources per block, parallel edges per node pair.
        source_index: `(groups, k)` node numbers, or None for the implied ones.
        target_index: `(groups, m)` node numbers, or None for the implied ones.
        parameter: where the values come from; None for structural edges.
        positions: `(positions, r)` coordinates (kernel taps, flatten positions), or None where there is one position.
        depth: depth of the target.
        explicit: the index arrays enumerate edges one by one.
    """

    name: str
    type: str
    source: str
    target: str
    shape: tuple[int, int, int, int]
    source_index: Array | None = None
    target_index: Array | None = None
    parameter: ParameterView | None = None
    positions: Array | None = None
    depth: int = 0
    explicit: bool = False

    @property
    def num_edges(self) -> int:
        groups, m, k, p = self.shape
        return groups * m * k * p

    @property
    def connectivity(self) -> str:
        """`"dense"`, `"diagonal"`, `"grouped"` or `"explicit"`."""
        groups, m, k, _ = self.shape
        if self.explicit:
            return "explicit"
        if groups == 1:
            return "dense"
        return "diagonal" if m == k == 1 else "grouped"

    def sources(self) -> Array:
        """Source node of each block column, shape `(groups, k)`, int64."""
        groups, _, k, _ = self.shape
        return np.arange(groups * k).reshape(groups, k) if self.source_index is None else self.source_index

    def targets(self) -> Array:
        """Target node of each block row, shape `(groups, m)`, int64."""
        groups, m, _, _ = self.shape
        return np.arange(groups * m).reshape(groups, m) if self.target_index is None else self.target_index

    def edge_index(self) -> tuple[Array, Array]:
        """Materialised `(source, target)` node numbers of all edges, each of shape `(num_edges,)`, in the layout `(g, i, j, p)`."""
        source = np.broadcast_to(self.sources()[:, None, :, None], self.shape).reshape(-1)
        target = np.broadcast_to(self.targets()[:, :, None, None], self.shape).reshape(-1)
        return source, target

    def position_array(self) -> Array:
        """Coordinates per position, shape `(positions, 3)`, float32, padded with zeros and scaled into [-1, 1] by their maker."""
        out = np.zeros((self.shape[3], 3), dtype=np.float32)
        if self.positions is not None:
            out[:, : self.positions.shape[1]] = self.positions[:, :3]
        return out


@dataclass(frozen=True)
class ParamGraph:
    """A network as a typed parameter graph with its symmetry group. Immutable; values by reference.

    Attributes:
        name: the network's name, for people.
        node_sets: node sets by name, in dataflow order.
        edge_sets: edge sets by name, in dataflow order.
        symmetry: the group of parameter transformations that leave the function unchanged.
        values: base tensors by state-dict name (parameters and persistent buffers, each storage once).
        aliases: further state-dict names, each with the recipe of its view of a base tensor.
        names: all state-dict names, in the network's order.
        diagnostics: what was pinned and why, unknown operations, unused parameters.
    """

    name: str
    node_sets: Mapping[str, NodeSet]
    edge_sets: Mapping[str, EdgeSet]
    symmetry: SymmetryGroup
    values: Mapping[str, torch.Tensor]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

    @cached_property
    def num_nodes(self) -> int:
        return sum(nodes.size for nodes in self.node_sets.values())

    @cached_property
    def num_edges(self) -> int:
        return sum(edges.num_edges for edges in self.edge_sets.values())

    @cached_property
    def num_parameters(self) -> int:
        """Elements of parameters and persistent buffers, shared ones once."""
        return sum(value.numel() for value in self.values.values())

    def parameter_edges(self) -> Iterator[EdgeSet]:
        """Edge sets that own values: their elements partition the state dict."""
        for edges in self.edge_sets.values():
            if edges.parameter is not None and edges.parameter.use == 0:
                yield edges

    def edge_values(self, edges: EdgeSet) -> torch.Tensor:
        """Values of an edge set with a parameter, shape `edges.shape`; a view where strides allow."""
        if edges.parameter is None:
            raise ValueError(f"edge set {edges.name!r} is structural: it carries no values")
        return edges.parameter.read(self.values[edges.parameter.name], edges.shape)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Values under the network's own names, in its own order; bit for bit those that were compiled or set."""
        return {
            name: self.values[name] if name in self.values else self.aliases[name].read(self.values) for name in self.names
        }

    def domain(self, node_set: str) -> ScaleDomain:
        """By what the group's scales and signs multiply the nodes of a set; by nothing where they hold no tensor of the network."""
        domains = {} if self.symmetry is None else self.symmetry.scales.domains
        return domains.get(node_set, ScaleDomain())

    def with_values(self, state_dict: Mapping[str, torch.Tensor]) -> ParamGraph:
        """The same structure over other values.

        Args:
            state_dict: a tensor for every base name, of the shape compiled. Names of shared parameters may be given too, if they agree.

        Raises:
            StateDictError: names are missing or unknown, shapes differ, or two names of one shared parameter disagree.
        """
        check_state_dict(self, state_dict)
        values = {name: state_dict[name] for name in self.values}
        return replace(self, values=values)

    def save(self, path: str | Path) -> None:
        """Write structure, group and values to one file, whole or not at all. See `paramgraph.load`."""
        from paramgraph.exchange.pgraph import save

        save(self, path)

    def to_dgl(self, **options: Any) -> Any:
        """A heterogeneous `dgl.DGLGraph`; see `paramgraph.exchange.dgl.to_dgl`."""
        from paramgraph.exchange.dgl import to_dgl

        return to_dgl(self, **options)

    def to_networkx(self, **options: Any) -> Any:
        """A `networkx.MultiDiGraph`; see `paramgraph.exchange.networkx.to_networkx`."""
        from paramgraph.exchange.networkx import to_networkx

        return to_networkx(self, **options)

    def __str__(self) -> str:
        lines = [
            f"ParamGraph {self.name}: {self.num_nodes:,} nodes in {len(self.node_sets)} sets, "
            f"{self.num_edges:,} edges in {len(self.edge_sets)} sets, {self.num_parameters:,} parameters",
            str(self.symmetry),
        ]
        if self.diagnostics:
            lines.append(f"{len(self.diagnostics)} diagnostics (graph.diagnostics)")
        return "\n".join(lines)

    __repr__ = __str__


@dataclass(frozen=True)
class Alias:
    """A state-dict name that is a strided view of a base tensor (tied weights: transposed, sliced, reshaped).

    Attributes:
        base: state-dict name of the base tensor.
        size: shape of the view.
        stride: strides, in elements.
        offset: storage offset relative to the base, in elements.
    """

    base: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def read(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        base = values[self.base]
        if not base.is_contiguous():
            base = base.contiguous()
        return base.as_strided(self.size, self.stride, base.storage_offset() + self.offset)


def check_state_dict(graph: ParamGraph, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Raise `StateDictError` unless `state_dict` fits `graph`."""
    import torch

    missing = [name for name in graph.values if name not in state_dict]
    unknown = [name for name in state_dict if name not in graph.values and name not in graph.aliases]
    if missing or unknown:
        raise StateDictError(
            f"state dict does not fit {graph.name}: expected {len(graph.values)} tensors; "
            f"missing {missing[:5]}{'…' if len(missing) > 5 else ''}, unknown {unknown[:5]}{'…' if len(unknown) > 5 else ''}. "
            "Pass the state dict of the compiled network, or compile the network it belongs to."
        )
    for name, base in graph.values.items():
        given = state_dict[name]
        if not isinstance(given, torch.Tensor):
            raise StateDictError(f"{name}: expected a tensor of shape {tuple(base.shape)}, got {type(given).__name__}.")
        if given.shape != base.shape:
            raise StateDictError(
                f"{name}: expected shape {tuple(base.shape)}, got {tuple(given.shape)}. "
                "Values may change, shapes may not: compile the network with the new shapes."
            )
    for name, alias in graph.aliases.items():
        if name in state_dict:
            given, expected = state_dict[name], alias.read(state_dict)
            if given.shape != expected.shape or (
                given.data_ptr() != expected.data_ptr() and given.device.type != "meta" and not torch.equal(given, expected)
            ):
                raise StateDictError(
                    f"{name} shares storage with {alias.base}, but the two disagree in the given state dict. "
                    "Give both the same values, or leave the alias out."
                )

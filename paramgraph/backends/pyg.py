"""The engine for users of PyTorch Geometric: `MessagePassing` over an `edge_index` with one entry per edge.

Edge-wise terms are gathered by PyG's `edge_updater`, and sums run through its `propagate`. PyG's node axis is the second to last, so the
graphs of one structure keep their leading batch axis and share one index.
"""

from __future__ import annotations

from collections import OrderedDict
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from paramgraph.backends.protocol import Block, End, Op
from paramgraph.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable


class PyGBackend:
    """Message passing with PyTorch Geometric, on any device that torch runs on.

    Args:
        cache_edges: edges that the kept indices may have together; they are found again by shape (implied indices) or by block.

    Raises:
        MissingDependencyError: PyTorch Geometric is not installed.
    """

    name = "pyg"

    def __init__(self, cache_edges: int = 2**22) -> None:
        self._passing = _message_passing(import_pyg())
        self._cache_edges = cache_edges
        self._indices: OrderedDict[tuple[Any, ...], torch.Tensor] = OrderedDict()
        self._cached = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._cache_edges,)  # copies and pickles start with an empty cache

    def check_device(self, device: torch.device) -> None:
        """Every torch device will do: PyG's own compiled extensions are not needed."""

    def combine(
        self,
        block: Block,
        source: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
        edge: torch.Tensor | None = None,
        op: Op = "add",
        overwrite: bool = False,
    ) -> torch.Tensor:
        """See `Backend.combine`."""
        given = next(term for term in (source, target, edge) if term is not None)
        full = (given.shape[0], *block.shape, given.shape[-1])
        flat = (full[0], block.num_edges, full[-1])
        if edge is not None:
            edge = edge.expand(full).reshape(flat)
        if block.num_edges == 0:
            return given.new_zeros(full)
        if source is None and target is None:
            assert edge is not None
            return edge.reshape(full).clone()
        size = (block.num_sources, block.num_targets)
        index = self._index(block, given.device)
        found: torch.Tensor = self._passing.at_edges(index, (source, target), edge, op, size)
        return found.reshape(full)

    def to_nodes(self, block: Block, edge: torch.Tensor, end: End = "target") -> torch.Tensor:
        """See `Backend.to_nodes`."""
        batch, width = edge.shape[0], edge.shape[-1]
        size = (block.num_sources, block.num_targets)
        if block.num_edges == 0:
            return edge.new_zeros(batch, size[1] if end == "target" else size[0], width)
        index = self._index(block, edge.device)
        if end == "source":
            index, size = index.flip(0), (size[1], size[0])
        found: torch.Tensor = self._passing.at_nodes(index, edge.reshape(batch, block.num_edges, width), size)
        return found

    def to_graph(self, block: Block, edge: torch.Tensor) -> torch.Tensor:
        """See `Backend.to_graph`; a plain sum, as PyG's global pooling is over equal segments."""
        return edge.reshape(edge.shape[0], block.num_edges, edge.shape[-1]).sum(1)

    def _index(self, block: Block, device: torch.device) -> torch.Tensor:
        """`edge_index`, `(2, edges)`; those used last are kept."""
        key = (block.shape if block.implied else block, str(device))
        if key in self._indices:
            self._indices.move_to_end(key)
            return self._indices[key]
        index = self._indices[key] = _edge_index(block, device)
        self._cached += index.shape[1]
        while self._cached > self._cache_edges and len(self._indices) > 1:
            self._cached -= self._indices.popitem(last=False)[1].shape[1]
        return index


def import_pyg() -> ModuleType:
    """The module `torch_geometric.nn`.

    Raises:
        MissingDependencyError: PyTorch Geometric is not installed.
    """
    try:
        import torch_geometric.nn
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"backend 'pyg' needs PyTorch Geometric, which cannot be imported ({error}). Install it with `pip install 'paramgraph[pyg]'`, "
            "or choose backend='torch', which needs nothing more."
        ) from error
    module: ModuleType = torch_geometric.nn
    return module


def _message_passing(pyg: ModuleType) -> Any:
    """A PyG layer without parameters whose messages are edge states. Made here, so that importing this file does not import PyG."""
    base: Callable[..., Any] = pyg.MessagePassing

    class Passing(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__(aggr="sum", node_dim=-2)

        # PyG reads the arguments of its two calls off the class's source.
        def at_edges(self, edge_index: Any, x: Any, edge: Any, op: Any, size: Any) -> Any:
            return self.edge_updater(edge_index, x=x, edge=edge, op=op, size=size)

        def at_nodes(self, edge_index: Any, edge: Any, size: Any) -> Any:
            return self.propagate(edge_index, edge=edge, size=size)

        def message(self, edge: Any) -> Any:
            return edge

        def edge_update(self, x_j: Any, x_i: Any, edge: Any, op: Any) -> Any:
            terms = [term for term in (x_j, x_i, edge) if term is not None]
            result = terms[0]
            for term in terms[1:]:
                result = result * term if op == "mul" else result + term
            return result

    return Passing()


def _edge_index(block: Block, device: torch.device) -> torch.Tensor:
    groups, m, k, _ = block.shape
    source, target = block.source_index, block.target_index
    if source is None:
        source = torch.arange(groups * k, device=device).reshape(groups, k)
    if target is None:
        target = torch.arange(groups * m, device=device).reshape(groups, m)
    ends = (source.reshape(groups, 1, k, 1), target.reshape(groups, m, 1, 1))
    return torch.stack([end.to(device).expand(block.shape).reshape(-1) for end in ends])

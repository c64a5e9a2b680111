"""The reference message-passing engine: DGL graphs with one materialised edge per parameter element.

A block becomes a real bipartite `dgl.DGLGraph`; edge-wise terms are DGL's generalised sampled dense-dense products (`apply_edges`) and
sums its generalised sparse products (`update_all`). Graphs of one structure are batched as disjoint copies, as `dgl.batch` does.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from paramgraph.backends.protocol import Block, End, Op
from paramgraph.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator


class DGLBackend:
    """Message passing on DGL graphs.

    Args:
        cache_edges: edges that the kept graphs may have together; they are found again by shape (implied indices) or by block.

    Raises:
        MissingDependencyError: DGL is not installed.
    """

    name = "dgl"

    def __init__(self, cache_edges: int = 2**22) -> None:
        self._dgl = import_dgl()
        self._cache_edges = cache_edges
        self._graphs: OrderedDict[tuple[Any, ...], _Pair] = OrderedDict()
        self._cached = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._cache_edges,)  # copies and pickles start with an empty cache

    def check_device(self, device: torch.device) -> None:
        """Raise unless this build of DGL can place graphs on `device`."""
        if device.type == "cpu":
            return
        try:
            self._dgl.graph(([0], [0])).to(device)
        except (self._dgl.DGLError, RuntimeError, AssertionError, NotImplementedError) as error:
            raise MissingDependencyError(
                f"the installed DGL {self._dgl.__version__} cannot run on {device}: it is a CPU build, as all builds on PyPI are. "
                "Install a CUDA build of DGL for your torch, or choose backend='torch', which runs on every torch device."
            ) from error

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
        batch, width = given.shape[0], given.shape[-1]
        full = (batch, *block.shape, width)
        if source is None and target is None:
            return given.expand(full).clone()
        if block.num_edges == 0:
            return given.new_zeros(full)
        function, graph = self._dgl.function, self._graph(block, batch, given.device).forward
        with graph.local_scope():
            if source is not None:
                graph.srcdata["s"] = source.reshape(batch * block.num_sources, width)
            if target is not None:
                graph.dstdata["t"] = target.reshape(batch * block.num_targets, width)
            if source is not None and target is not None:
                graph.apply_edges(getattr(function, f"u_{op}_v")("s", "t", "z"))
            elif source is not None:
                graph.apply_edges(function.copy_u("s", "z"))
            else:
                # DGL has no message function that copies the target; on the reversed graph it is the source.
                return self._from_target(block, graph.dstdata["t"], edge, op, full)
            return _join(graph.edata["z"].reshape(full), edge, op)

    def to_nodes(self, block: Block, edge: torch.Tensor, end: End = "target") -> torch.Tensor:
        """See `Backend.to_nodes`."""
        batch, width = edge.shape[0], edge.shape[-1]
        size = block.num_targets if end == "target" else block.num_sources
        if block.num_edges == 0 or size == 0:
            return edge.new_zeros(batch, size, width)
        pair = self._graph(block, batch, edge.device)
        graph = pair.forward if end == "target" else pair.backward()
        function = self._dgl.function
        with graph.local_scope():
            graph.edata["e"] = edge.reshape(batch * block.num_edges, width)
            graph.update_all(function.copy_e("e", "m"), function.sum("m", "h"))
            collected: torch.Tensor = graph.dstdata["h"]
        return collected.reshape(batch, size, width)

    def to_graph(self, block: Block, edge: torch.Tensor) -> torch.Tensor:
        """See `Backend.to_graph`; a plain sum, as DGL's own `readout_edges` is over equal segments."""
        return edge.reshape(edge.shape[0], block.num_edges, edge.shape[-1]).sum(1)

    def _from_target(self, block: Block, state: torch.Tensor, edge: torch.Tensor | None, op: Op, full: tuple[int, ...]) -> torch.Tensor:
        graph = self._graph(block, full[0], state.device).backward()
        with graph.local_scope():
            graph.srcdata["t"] = state
            graph.apply_edges(self._dgl.function.copy_u("t", "z"))
            return _join(graph.edata["z"].reshape(full), edge, op)

    def _graph(self, block: Block, batch: int, device: torch.device) -> _Pair:
        """The DGL graph of `batch` disjoint copies of a block; those used last are kept."""
        key = (block.shape if block.implied else block, batch, str(device))
        if key in self._graphs:
            self._graphs.move_to_end(key)
            return self._graphs[key]
        pair = self._graphs[key] = self._build(block, batch, device)
        self._cached += pair.num_edges
        while self._cached > self._cache_edges and len(self._graphs) > 1:
            self._cached -= self._graphs.popitem(last=False)[1].num_edges
        return pair

    def _build(self, block: Block, batch: int, device: torch.device) -> _Pair:
        groups, m, k, positions = block.shape
        small = max(batch * block.num_sources, batch * block.num_targets, batch * block.num_edges) < 2**31
        dtype = torch.int32 if small else torch.int64
        copies = torch.arange(batch, dtype=dtype, device=device).reshape(batch, 1, 1, 1, 1)
        source = _numbers(block.source_index, (groups, k), dtype, device).reshape(1, groups, 1, k, 1) + copies * block.num_sources
        target = _numbers(block.target_index, (groups, m), dtype, device).reshape(1, groups, m, 1, 1) + copies * block.num_targets
        full = (batch, *block.shape)
        graph = self._dgl.heterograph(
            {("source", "edge", "target"): (source.expand(full).reshape(-1), target.expand(full).reshape(-1))},
            num_nodes_dict={"source": batch * block.num_sources, "target": batch * block.num_targets},
        )
        return _Pair(self._dgl, graph)


class _Pair:
    """A bipartite graph and, once asked for, its reverse (edges keep their numbers)."""

    def __init__(self, dgl: Any, graph: Any) -> None:
        self._dgl = dgl
        self.forward = graph
        self.num_edges: int = graph.num_edges()
        self._backward: Any = None

    def backward(self) -> Any:
        if self._backward is None:
            self._backward = self._dgl.reverse(self.forward, copy_ndata=False, copy_edata=False)
        return self._backward


def import_dgl() -> Any:
    """The `dgl` module.

    Raises:
        MissingDependencyError: DGL is not installed, or does not fit the installed torch.
    """
    try:
        with _engine_named():
            import dgl
            import dgl.function
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"backend 'dgl' needs DGL, which cannot be imported ({error}). Install it with `pip install 'paramgraph[dgl]'`, "
            "or choose backend='torch', which needs nothing more."
        ) from error
    return dgl


@contextmanager
def _engine_named() -> Iterator[None]:
    """While DGL is imported, tell it its framework: else it prints and writes a file in the user's home."""
    before = os.environ.get("DGLBACKEND")
    os.environ["DGLBACKEND"] = before or "pytorch"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DGLBACKEND"]


def _join(ends: torch.Tensor, edge: torch.Tensor | None, op: Op) -> torch.Tensor:
    if edge is None:
        return ends
    return ends * edge if op == "mul" else ends.add_(edge)


def _numbers(index: torch.Tensor | None, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if index is not None:
        return index.to(device=device, dtype=dtype)
    return torch.arange(shape[0] * shape[1], dtype=dtype, device=device)

"""What a metanet keeps of its edges in memory, and how many it works on at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paramgraph.backends.protocol import Backend
from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParamGraph
from paramgraph.metanets.batch import Batch, Networks, Planner, check_graphs, count_edges, structures_of
from paramgraph.metanets.embeddings import TypeEmbeddings
from paramgraph.metanets.layout import Limits
from paramgraph.metanets.stack import Stack
from paramgraph.metanets.structure import Structure
from paramgraph.metanets.vocabulary import Vocabulary

WHOLE = 2**62
# Numbers in the edge states that are kept, over all layers, unless a metanet is told otherwise; fewer where as many intermediate results are.
KEPT, KEPT_WITH_ALL = 2**28, 2**27
# Numbers in the edge states, over all layers, up to which nothing is computed twice unless a metanet is told to.
SMALL = 2**23
# Numbers in a tile of edge states for engines that say nothing of their own.
TILE = 2**20
# Numbers in the edge states up to which edge sets are computed together; fewer where a call costs little beside gathering.
PACKED, PACKED_IN_TILES = 2**19, 2**15


@dataclass(frozen=True)
class Plan:
    """How the edges of one batch are passed over.

    Attributes:
        keep: edge states are kept between passes; else they are made again from the values.
        tiled: passes run tile by tile, and again in backward, so that they keep nothing of their own.
        recompute: a pass that is not tiled is computed again in backward as a whole.
        limits: of the layout.
    """

    keep: bool
    tiled: bool
    recompute: bool
    limits: Limits


class Reader(nn.Module):
    """What all metanets over edge states share: how a batch is checked, learned from, and planned.

    A subclass has `embeddings`.

    Args:
        backend: the engine.
        hidden: length of edge states.
        layers: number of layers that advance them.
        keep_edges: edges of a batch up to which edge states are kept; 0 always streams. None keeps about 1 GiB of states in
            float32, or half as much if all intermediate results are kept too.
        tile_edges: edges per tile. None asks the engine, which knows what fits in a processor's cache.
        pack_edges: edge sets up to this size are computed together, with explicit indices. None chooses by `hidden`; 0 packs none.
        recompute: keep edge states and nothing else of a layer, and compute the rest again in backward (checkpointing). None does for large
            batches where the engine works in tiles, and on all engines if edges have `many_results`.

    Raises:
        MetanetError: a size makes no sense.
    """

    embeddings: TypeEmbeddings
    # Whether functions of edges have many more intermediate results than edge states.
    many_results = False

    def __init__(
        self,
        backend: Backend,
        hidden: int,
        layers: int,
        keep_edges: int | None = None,
        tile_edges: int | None = None,
        pack_edges: int | None = None,
        recompute: bool | None = None,
    ) -> None:
        super().__init__()
        if hidden < 1 or layers < 0:
            raise MetanetError(f"expected hidden ≥ 1 and layers ≥ 0, got hidden={hidden} and layers={layers}.")
        self.backend = backend
        alone = self.many_results or hasattr(backend, "cached_numbers") if recompute is None else recompute
        kept = (KEPT if alone else KEPT_WITH_ALL) // (hidden * max(layers, 1))
        self.keep_edges = max(1, kept) if keep_edges is None else keep_edges
        self.tile_edges = None if tile_edges is None else max(1, tile_edges)
        self.pack_edges = pack_edges
        self.recompute = recompute
        self._hidden = hidden
        self._layers = layers
        self._planner = Planner()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The types this metanet knows, or None before its first batch."""
        return self.embeddings.vocabulary

    def _types(self, graphs: list[ParamGraph]) -> Vocabulary:
        """The types of graphs, to learn from a first batch."""
        return Vocabulary.from_graphs(graphs)

    def _prepared(self, network: ParamGraph | Stack) -> ParamGraph | Stack:
        """A network as the metanet sees it."""
        return network

    def _batch(
        self, graphs: Networks | Stack, like: torch.Tensor, kind: Callable[[Structure, EdgeSet], Hashable] | None, fold: bool = False
    ) -> tuple[Batch, Plan]:
        """The checked batch and its plan.

        Args:
            graphs: as given.
            like: a parameter of the metanet, for dtype and device.
            kind: see `Limits`.
            fold: see `Limits`.
        """
        if torch.compiler.is_compiling():
            # Compilers would trace how batches are laid out, numpy and all.
            planned: tuple[Batch, Plan] = torch.compiler.disable(self._planned)(graphs, like, kind, fold, whole=True)
            return planned
        return self._planned(graphs, like, kind, fold)

    def _planned(
        self, graphs: Networks | Stack, like: torch.Tensor, kind: Callable[[Structure, EdgeSet], Hashable] | None, fold: bool, whole: bool = False
    ) -> tuple[Batch, Plan]:
        networks = [self._prepared(network) for network in check_graphs(graphs)]
        self.backend.check_device(like.device)
        vocabulary = self.vocabulary or self._types(structures_of(networks))
        plan = self._plan(networks, like.device, kind, fold, whole)
        batch = self._planner(networks, vocabulary, plan.limits, like.dtype, like.device)
        self.embeddings.learn(vocabulary, batch)
        return batch, plan

    def _plan(
        self, networks: Networks, device: torch.device, kind: Callable[[Structure, EdgeSet], Hashable] | None, fold: bool, whole: bool
    ) -> Plan:
        """The plan for a batch; `whole`: no tiles but where edge states are not kept, which compilers would unroll."""
        cached = cached_numbers(self.backend, device)
        tile = self.tile_edges or max(1, (cached or TILE) // self._hidden)
        keep = count_edges(networks) <= self.keep_edges
        in_cache = cached is not None and not whole
        large = count_states(networks, fold) * self._hidden * self._layers > SMALL
        wanted = large and (in_cache or self.many_results) if self.recompute is None else self.recompute
        tiled = not keep or (wanted and in_cache)
        pack = (PACKED_IN_TILES if tiled and in_cache else PACKED) // self._hidden
        pack = pack if self.pack_edges is None else self.pack_edges
        return Plan(keep, tiled, wanted, Limits(tile if tiled else WHOLE, pack, fold=fold, kind=kind))

    def extra_repr(self) -> str:
        return f"backend={self.backend.name!r}, keep_edges={self.keep_edges}, tile_edges={self.tile_edges}"


def count_states(networks: Networks, fold: bool) -> int:
    """Edge states of all networks together: one per edge, or per pair of nodes if positions are folded."""
    total = 0
    for network in networks:
        graph, count = (network.graph, len(network)) if isinstance(network, Stack) else (network, 1)
        total += count * sum(edges.num_edges // (max(edges.shape[3], 1) if fold else 1) for edges in graph.edge_sets.values())
    return total


def cached_numbers(backend: Backend, device: torch.device) -> int | None:
    """What an engine says of itself, see `Backend`; engines need not say anything."""
    said: Any = getattr(backend, "cached_numbers", None)
    return None if said is None else said(device)

"""GMN: the graph metanetwork of Lim et al. 2023 (arXiv:2312.04501), section 3, on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from paramgraph.backends.protocol import Backend
from paramgraph.backends.registry import get_backend
from paramgraph.errors import UnknownNameError
from paramgraph.graph import ParamGraph
from paramgraph.metanets.batch import Batch, Planner, check_graphs
from paramgraph.metanets.embeddings import TypeEmbeddings
from paramgraph.metanets.encoders import EdgeEncoder, NodeEncoder
from paramgraph.metanets.gmn_layer import GMNLayer, State
from paramgraph.metanets.heads import HEADS, Prediction
from paramgraph.metanets.layout import Limits
from paramgraph.metanets.passes import EdgeStates
from paramgraph.metanets.vocabulary import Vocabulary

WHOLE = 2**62


class GMN(nn.Module):
    """A graph metanetwork: reads parameter graphs of any architectures, and is equivariant under their permutation symmetries.

    Every layer computes, with two-layer MLPs and one global state u per graph,

        v_i  ← MLP(v_i, Σ_j MLP(v_i, v_j, e_ij, u), u)
        e_ij ← MLP(v_i, v_j, e_ij, u)
        u    ← MLP(Σ v, Σ e, u)

    where sums may be means. Called with a list of `ParamGraph`s it returns

    - `head="graph"`: a tensor `(graphs, out)`, an MLP of the mean edge state, the mean node state and u;
    - `head="node"`: per graph a dict from node set names to `(size, out)`;
    - `head="edge"`: per graph a dict from names of edge sets with a parameter to `(*edge_set.shape, out)`.

    Gradients reach the graphs' values if those require them.

    Memory: edge states are kept for small batches. For batches of more than `keep_edges` edges they are recomputed in each pass from the
    values, tile by tile, and only node states are kept; under autograd, every tile is a checkpoint. Both give the same results and
    gradients; streaming costs time quadratic in `layers`.

    Args:
        hidden: length of node, edge and global states.
        layers: number of layers.
        backend: name of an engine or an instance.
        head: `"graph"`, `"node"` or `"edge"`.
        out: length of each prediction.
        aggregation: `"mean"` or `"sum"`, in messages and in the update of u.
        updates: `"nodes-first"` as in the equations above, or `"edges-first"` as in the released code: edges are updated first, and
            messages take the new edges. When streamed, this takes one pass per layer instead of two.
        direction: `"forward"` sends messages along the edges, `"both"` also against them, with weights of their own.
        use_global: whether there is a u.
        residual: the released residual variant: states are layer-normalised where they enter an update, updates are added, and begin
            at zero.
        vocabulary: the types to know; None takes those of the first batch, and then stays at that (make the optimiser afterwards).
        keep_edges: edges of a batch up to which edge states are kept; 0 always streams. None keeps about 0.5 GiB of states per
            intermediate result in float32.
        tile_edges: edges per tile when streaming. None takes tiles that fit in a processor's cache.
        pack_edges: edge sets up to this size are computed together, with explicit indices. None chooses by `hidden`; 0 packs none.

    Raises:
        UnknownNameError: backend, head or an option is not known.
        MissingDependencyError: the backend's engine is not installed.
    """

    def __init__(
        self,
        hidden: int = 64,
        layers: int = 4,
        backend: str | Backend = "dgl",
        head: Literal["graph", "node", "edge"] = "graph",
        out: int = 1,
        *,
        aggregation: Literal["mean", "sum"] = "mean",
        updates: Literal["nodes-first", "edges-first"] = "nodes-first",
        direction: Literal["forward", "both"] = "forward",
        use_global: bool = True,
        residual: bool = False,
        vocabulary: Vocabulary | None = None,
        keep_edges: int | None = None,
        tile_edges: int | None = None,
        pack_edges: int | None = None,
    ) -> None:
        super().__init__()
        _one_of("head", head, tuple(HEADS))
        _one_of("aggregation", aggregation, ("mean", "sum"))
        _one_of("updates", updates, ("nodes-first", "edges-first"))
        _one_of("direction", direction, ("forward", "both"))
        self.backend = get_backend(backend)
        self.keep_edges = max(1, 2**27 // (hidden * max(layers, 1))) if keep_edges is None else keep_edges
        self.tile_edges = max(1, 2**20 // hidden) if tile_edges is None else max(1, tile_edges)
        self.pack_edges = 2**19 // hidden if pack_edges is None else pack_edges
        self.embeddings = TypeEmbeddings(hidden, vocabulary)
        self.node_encoder = NodeEncoder(hidden)
        self.edge_encoder = EdgeEncoder(hidden)
        self.initial_global = nn.Parameter(torch.zeros(hidden)) if use_global else None
        self.layers = nn.ModuleList(
            GMNLayer(
                hidden,
                head=head if number == layers - 1 else None,
                mean=aggregation == "mean",
                nodes_first=updates == "nodes-first",
                both=direction == "both",
                use_global=use_global,
                residual=residual,
            )
            for number in range(layers)
        )
        self.head = HEADS[head](hidden, out, use_global)
        self._planner = Planner()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The types this metanet knows, or None before its first batch."""
        return self.embeddings.vocabulary

    def forward(self, graphs: Sequence[ParamGraph]) -> Prediction:
        """Predictions for a batch of graphs, in the order given; see the class.

        Raises:
            MetanetError: the batch is empty, a type is not in the vocabulary, or values are NaN, on another device or of another
                dtype. The message names graph and set.
            MissingDependencyError: the backend cannot run on the metanet's device.
        """
        batch, keep = self._batch(graphs)
        layout = batch.layout
        codes = self.edge_encoder.codes(self.embeddings, layout.edges)
        state = State(
            nodes=self.node_encoder(self.embeddings, layout.nodes),
            edges=EdgeStates(self.backend, batch, self.edge_encoder, codes, keep),
            globals_=None if self.initial_global is None else self.initial_global.expand(layout.num_graphs, -1),
        )
        for layer in self.layers:
            state = layer(state)
        return self.head(state)

    def _batch(self, graphs: Sequence[ParamGraph]) -> tuple[Batch, bool]:
        """The checked batch, and whether its edge states are kept."""
        graphs = check_graphs(graphs)
        reference = self.node_encoder.no_order
        self.backend.check_device(reference.device)
        vocabulary = self.vocabulary or Vocabulary.from_graphs(graphs)
        keep = sum(graph.num_edges for graph in graphs) <= self.keep_edges
        limits = Limits(WHOLE if keep else self.tile_edges, self.pack_edges)
        batch = self._planner(graphs, vocabulary, limits, reference.dtype, reference.device)
        if self.vocabulary is None:
            self.embeddings.materialize(vocabulary)
        return batch, keep

    def extra_repr(self) -> str:
        return f"backend={self.backend.name!r}, keep_edges={self.keep_edges}, tile_edges={self.tile_edges}"


def _one_of(argument: str, given: Any, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UnknownNameError(f"unknown {argument} {given!r}; known are {', '.join(map(repr, known))}.")

"""GMN: the graph metanetwork of Lim et al. 2023 (arXiv:2312.04501), section 3, on any backend."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from paramgraph.backends.protocol import Backend
from paramgraph.backends.registry import get_backend
from paramgraph.errors import MetanetError, UnknownNameError
from paramgraph.metanets.batch import Networks
from paramgraph.metanets.embeddings import TypeEmbeddings
from paramgraph.metanets.encoders import EdgeEncoder, NodeEncoder
from paramgraph.metanets.gmn_layer import GMNLayer, LayerOptions, State, collected_features
from paramgraph.metanets.heads import HEADS, GraphHead, Prediction
from paramgraph.metanets.layout import feature_kind
from paramgraph.metanets.memory import Reader
from paramgraph.metanets.options import Remembers
from paramgraph.metanets.passes import EdgeStates, Encoding
from paramgraph.metanets.stack import Stack
from paramgraph.metanets.vocabulary import Vocabulary


class GMN(Remembers, Reader):
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
    gradients; streaming costs time quadratic in `layers`. Only what is neither streamed nor recomputed can be differentiated twice.

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
        norm: `"layer"`: states are layer-normalised where they enter an update; `"batch"`: new node and global states are normalised over the
            batch, as in the released code; `"none"`. None is `"layer"` for the residual variant, and else `"none"`.
        attention: heads of an attention over the edges at a node, which takes the place of the aggregation in messages; 0 for none.
        bias_layout: `"nodes"`: biases, gains and running statistics are edges from nodes of their own, as in GMN; `"features"`: they are features
            of the nodes at their other ends, and no messages run along them, as in the code of ScaleGMN and Neural Graphs.
        readout_norm: batch-normalise what the graph head reads; populations of one architecture train faster.
        vocabulary: the types to know; None takes those of the first batch, and then stays at that (make the optimiser afterwards).
        keep_edges: edges of a batch up to which edge states are kept; 0 always streams. None keeps about 1 GiB of states in
            float32, or half as much if all intermediate results are kept too.
        tile_edges: edges per tile. None asks the engine, which knows what fits in a processor's cache.
        pack_edges: edge sets up to this size are computed together, with explicit indices. None chooses by `hidden`; 0 packs none.
        recompute: where edge states are kept, keep nothing else of a layer, and compute the rest again in backward (checkpointing). None does for
            large batches where the engine works in tiles.

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
        norm: Literal["layer", "batch", "none"] | None = None,
        attention: int = 0,
        bias_layout: Literal["nodes", "features"] = "nodes",
        readout_norm: bool = False,
        vocabulary: Vocabulary | None = None,
        keep_edges: int | None = None,
        tile_edges: int | None = None,
        pack_edges: int | None = None,
        recompute: bool | None = None,
    ) -> None:
        super().__init__(get_backend(backend), hidden, layers, keep_edges, tile_edges, pack_edges, recompute)
        one_of("head", head, tuple(HEADS))
        one_of("aggregation", aggregation, ("mean", "sum"))
        one_of("updates", updates, ("nodes-first", "edges-first"))
        one_of("direction", direction, ("forward", "both"))
        norm = ("layer" if residual else "none") if norm is None else norm
        one_of("norm", norm, ("layer", "batch", "none"))
        one_of("bias_layout", bias_layout, ("nodes", "features"))
        if attention < 0 or (attention and hidden % attention):
            raise MetanetError(f"expected a number of attention heads that divides hidden={hidden}, or 0; got {attention}.")
        self.embeddings = TypeEmbeddings(hidden, vocabulary)
        self.node_encoder = NodeEncoder(hidden)
        self.edge_encoder = EdgeEncoder(hidden)
        self.initial_global = nn.Parameter(torch.zeros(hidden)) if use_global else None
        options = LayerOptions(
            width=hidden,
            mean=aggregation == "mean",
            nodes_first=updates == "nodes-first",
            both=direction == "both",
            use_global=use_global,
            residual=residual,
            norm=norm,
            heads=attention,
        )
        self.layers = nn.ModuleList(GMNLayer(options, head if number == layers - 1 else None) for number in range(layers))
        self.head = GraphHead(hidden, out, use_global, readout_norm) if head == "graph" else HEADS[head](hidden, out, use_global)
        self.bias_layout = bias_layout

    def forward(self, graphs: Networks | Stack) -> Prediction:
        """Predictions for a batch of graphs and stacks, one per network, in the order given; see the class.

        Raises:
            MetanetError: the batch is empty, a type is not in the vocabulary, or values are NaN, on another device or of another
                dtype. The message names graph and set.
            MissingDependencyError: the backend cannot run on the metanet's device.
        """
        prediction: Prediction = self.head(self.states(graphs))
        return prediction

    def states(self, graphs: Networks | Stack) -> State:
        """The states after the last layer, for heads of your own."""
        kind = feature_kind if self.bias_layout == "features" else None
        batch, plan = self._batch(graphs, self.node_encoder.no_order, kind)
        layout = batch.layout
        codes = self.edge_encoder.codes(self.embeddings, layout.edges)
        encoding = Encoding(self.edge_encoder, self.edge_encoder.edge_tensors(codes, self.embeddings, layout.edges), codes.shape[-1])
        edges = EdgeStates(self.backend, batch, encoding, plan)
        nodes = self.node_encoder(self.embeddings, layout.nodes)
        if self.bias_layout == "features":
            nodes = nodes + collected_features(edges, nodes)
        state = State(nodes, edges, None if self.initial_global is None else self.initial_global.expand(layout.num_graphs, -1))
        for layer in self.layers:
            state = layer(state)
        return state


def one_of(argument: str, given: Any, known: tuple[str, ...]) -> None:
    """Raise `UnknownNameError` unless an option has one of its known values."""
    if given not in known:
        raise UnknownNameError(f"unknown {argument} {given!r}; known are {', '.join(map(repr, known))}.")

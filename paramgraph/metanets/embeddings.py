"""Embedding tables of a vocabulary, made at once or at the first batch, as torch's lazy modules are; and sizes of values per edge type."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from paramgraph.metanets.batch import Batch
from paramgraph.metanets.vocabulary import Vocabulary

_TABLES = ("node_type", "activation", "edge_type")


class TypeEmbeddings(nn.Module):
    """One learned vector per node type, activation and edge type, and the usual size of the values of each edge type.

    The vocabulary travels with the state dict, so a saved metanet can be loaded into one that has seen no batch yet. Until a vocabulary
    is known the tables are `UninitializedParameter`s: make the optimiser after the first batch, or give the vocabulary.

    Encoders divide values by their type's size: weights of trained networks are of the order 0.01 to 1, and one that is small beside the
    vectors of its type and depth would hardly be seen. A type's size is taken from the first batch with values of it in training mode, and then
    stays; 0 stands for none yet, and counts as 1.

    Args:
        width: length of the vectors.
        vocabulary: the types, or None to take those of the first batch.
    """

    node_type: nn.Parameter
    activation: nn.Parameter
    edge_type: nn.Parameter
    value_size: torch.Tensor

    def __init__(self, width: int, vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        self.width = width
        self.vocabulary: Vocabulary | None = None
        for name in _TABLES:
            setattr(self, name, UninitializedParameter())
        self.register_buffer("value_size", torch.zeros(0))
        self._measured: set[str] = set()
        if vocabulary is not None:
            self.materialize(vocabulary)

    @torch.no_grad()
    def materialize(self, vocabulary: Vocabulary) -> None:
        """Freeze the vocabulary and make its tables, normally distributed, on the device and in the dtype of the module."""
        rows = (len(vocabulary.node_types), len(vocabulary.activations) + 1, len(vocabulary.edge_types))
        for name, count in zip(_TABLES, rows, strict=True):
            table = getattr(self, name)
            if isinstance(table, UninitializedParameter):
                table.materialize((count, self.width))
            else:
                table = nn.Parameter(table.new_empty(count, self.width), requires_grad=table.requires_grad)
                setattr(self, name, table)
            # Four or five vectors are added per node or edge: the sum has about unit variance.
            table.normal_(std=0.5)
        self.value_size = self.edge_type.new_zeros(rows[2])
        self._measured = set()
        self.vocabulary = vocabulary

    def learn(self, vocabulary: Vocabulary, batch: Batch) -> None:
        """Before a batch is encoded: freeze the vocabulary, if that is not done yet, and measure what was not met before."""
        if self.vocabulary is None:
            self.materialize(vocabulary)
        if self.training:
            self._measure(batch)

    @torch.no_grad()
    def _measure(self, batch: Batch) -> None:
        """Take the root mean square of a type's values for their size, for types that have none yet. Types whose values are zero wait."""
        assert self.vocabulary is not None
        if len(self._measured) == len(self.vocabulary.edge_types):
            return
        found: dict[str, list[tuple[float, int]]] = {}
        for group in batch.groups:
            for edges in group.graph.edge_sets.values():
                if edges.type not in self._measured and edges.parameter is not None:
                    for value in group.read(edges):
                        norm = torch.linalg.vector_norm(value.to(self.value_size.dtype))
                        found.setdefault(edges.type, []).append((float(norm), value.numel()))
        for name, norms in found.items():
            size = (sum(norm**2 for norm, _ in norms) / max(sum(count for _, count in norms), 1)) ** 0.5
            if size > 0:
                self.value_size[self.vocabulary.edge_type_rows[name]] = size
                self._measured.add(name)

    def get_extra_state(self) -> dict[str, list[str]] | None:
        """The vocabulary, as plain lists."""
        if self.vocabulary is None:
            return None
        known = self.vocabulary
        return {"node_types": list(known.node_types), "activations": list(known.activations), "edge_types": list(known.edge_types)}

    def set_extra_state(self, state: Any) -> None:
        """Taken care of before the tables are loaded."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "_extra_state")
        if saved is not None:
            vocabulary = Vocabulary(tuple(saved["node_types"]), tuple(saved["activations"]), tuple(saved["edge_types"]))
            if vocabulary != self.vocabulary:
                self.materialize(vocabulary)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.vocabulary is not None:
            self._measured = {name for name, size in zip(self.vocabulary.edge_types, self.value_size.tolist(), strict=True) if size > 0}

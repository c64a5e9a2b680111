"""Embedding tables of a vocabulary, made at once or at the first batch, as torch's lazy modules are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from paramgraph.metanets.vocabulary import Vocabulary

_TABLES = ("node_type", "activation", "edge_type")


class TypeEmbeddings(nn.Module):
    """One learned vector per node type, activation and edge type.

    The vocabulary travels with the state dict, so a saved metanet can be loaded into one that has seen no batch yet. Until a vocabulary
    is known the tables are `UninitializedParameter`s: make the optimiser after the first batch, or give the vocabulary.

    Args:
        width: length of the vectors.
        vocabulary: the types, or None to take those of the first batch.
    """

    node_type: nn.Parameter
    activation: nn.Parameter
    edge_type: nn.Parameter

    def __init__(self, width: int, vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        self.width = width
        self.vocabulary: Vocabulary | None = None
        for name in _TABLES:
            setattr(self, name, UninitializedParameter())
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
        self.vocabulary = vocabulary

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

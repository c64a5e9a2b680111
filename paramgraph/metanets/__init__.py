"""Metanets: models that read, score or edit other networks, written once over the backends' primitives.

Importing this package does not import torch; names are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paramgraph.lazy import lazily

if TYPE_CHECKING:
    from paramgraph.metanets.data import Population, collate
    from paramgraph.metanets.edit import edited_state_dict
    from paramgraph.metanets.editor import Editor, run
    from paramgraph.metanets.equivariance import equivariance_error
    from paramgraph.metanets.gmn import GMN
    from paramgraph.metanets.phases import wrap_phases
    from paramgraph.metanets.saving import load_metanet, save_metanet
    from paramgraph.metanets.scalegmn import ScaleGMN
    from paramgraph.metanets.stack import Stack
    from paramgraph.metanets.to_onnx import export_onnx
    from paramgraph.metanets.vocabulary import Vocabulary

_CONTENTS = {
    "Editor": "paramgraph.metanets.editor",
    "GMN": "paramgraph.metanets.gmn",
    "Population": "paramgraph.metanets.data",
    "ScaleGMN": "paramgraph.metanets.scalegmn",
    "Stack": "paramgraph.metanets.stack",
    "Vocabulary": "paramgraph.metanets.vocabulary",
    "collate": "paramgraph.metanets.data",
    "edited_state_dict": "paramgraph.metanets.edit",
    "equivariance_error": "paramgraph.metanets.equivariance",
    "export_onnx": "paramgraph.metanets.to_onnx",
    "load_metanet": "paramgraph.metanets.saving",
    "run": "paramgraph.metanets.editor",
    "save_metanet": "paramgraph.metanets.saving",
    "wrap_phases": "paramgraph.metanets.phases",
}

__all__ = [
    "GMN",
    "Editor",
    "Population",
    "ScaleGMN",
    "Stack",
    "Vocabulary",
    "collate",
    "edited_state_dict",
    "equivariance_error",
    "export_onnx",
    "load_metanet",
    "run",
    "save_metanet",
    "wrap_phases",
]

__getattr__, __dir__ = lazily(__name__, _CONTENTS)

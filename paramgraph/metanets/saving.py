"""Trained metanets on disk: one safetensors file with the weights, and what they were made with as its metadata."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paramgraph.backends.protocol import Backend
from paramgraph.errors import FileFormatError, MetanetError, first_line
from paramgraph.exchange.files import written_whole
from paramgraph.metanets.editor import Editor
from paramgraph.metanets.vocabulary import Vocabulary

FORMAT = "paramgraph-metanet"
VERSION = 1
# What can be saved: names, and where they are defined.
_KINDS = {
    "GMN": "paramgraph.metanets.gmn",
    "ScaleGMN": "paramgraph.metanets.scalegmn",
    "DeepSets": "paramgraph.metanets.baselines.deepsets",
    "NGGNN": "paramgraph.metanets.baselines.neural_graphs",
    "DMC": "paramgraph.metanets.baselines.convolution",
    "Editor": "paramgraph.metanets.editor",
}


def save_metanet(metanet: nn.Module, path: str | Path) -> None:
    """Write a metanet to a file: weights, options and vocabulary. See `load_metanet`.

    Args:
        metanet: a GMN, ScaleGMN, DeepSets, NGGNN, DMC, or an Editor of one that edits the sets it does by default.
        path: of the file.

    Raises:
        MetanetError: the metanet is of another class, or has seen no batch yet and so has no vocabulary.
        FileFormatError: the file cannot be written there; a file of that name stays as it was.
    """
    from safetensors.torch import save_file

    header = {"format": FORMAT, "version": VERSION, **_description(metanet)}
    tensors = {name: value.detach().contiguous() for name, value in metanet.state_dict().items() if isinstance(value, torch.Tensor)}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={"paramgraph": json.dumps(header)})


def load_metanet(path: str | Path, backend: str | Backend | None = None, device: str | torch.device = "cpu") -> nn.Module:
    """A metanet from a file of `save_metanet`, in evaluation mode and in the dtype that it was saved in.

    Args:
        path: of the file.
        backend: engine to run it on; None for the one it had.
        device: where to put it.

    Raises:
        FileFormatError: the file is no metanet, or of an unknown version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {}).get("paramgraph", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileFormatError(f"{path}: expected a metanet written by `save_metanet`; the file cannot be read ({error}).") from error
    found = header if isinstance(header, dict) else {}
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise FileFormatError(
            f"{path}: expected a metanet written by `save_metanet`, version {VERSION}; "
            f"found format {found.get('format')!r}, version {found.get('version')!r}."
        )
    try:
        metanet = _made(header, backend)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: its description is not as `save_metanet` writes it ({first_line(error)}); save the metanet again.") from error
    for value in tensors.values():
        if value.is_floating_point():
            metanet.to(value.dtype)
            break
    state = metanet.state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise FileFormatError(f"{path}: the weights do not fit the options; {odd[:5]} are missing or unknown.")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise FileFormatError(f"{path}: the weights do not fit the options; expected {name} of shape {shape}, got {tuple(tensors[name].shape)}.")
    extra = {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}
    metanet.load_state_dict({**tensors, **extra})
    return metanet.to(device).eval()


def _description(metanet: nn.Module) -> dict[str, Any]:
    kind = type(metanet).__name__
    if kind not in _KINDS or type(metanet).__module__ != _KINDS[kind]:
        raise MetanetError(f"expected one of {', '.join(_KINDS)} to save, got {kind}; save its `state_dict()` with torch.")
    if isinstance(metanet, Editor):
        if not metanet.edits_by_default:
            raise MetanetError("an editor with a function `edits` of your own cannot be written; save `editor.metanet`, and make it again.")
        return {"kind": kind, "options": {"mode": metanet.mode}, "metanet": _description(metanet.metanet)}
    options = dict(metanet._options)  # type: ignore[arg-type]
    vocabulary = getattr(metanet, "vocabulary", None)
    if "vocabulary" in inspect.signature(type(metanet).__init__).parameters and vocabulary is None:
        raise MetanetError(f"this {kind} has seen no batch yet and knows no types; run it once, or give it a vocabulary.")
    options.pop("vocabulary", None)
    if "backend" in options and not isinstance(options["backend"], str):
        options["backend"] = options["backend"].name
    known = None if vocabulary is None else [list(names) for names in (vocabulary.node_types, vocabulary.activations, vocabulary.edge_types)]
    return {"kind": kind, "options": options, "vocabulary": known}


def _made(header: dict[str, Any], backend: str | Backend | None) -> nn.Module:
    kind = header.get("kind")
    if kind not in _KINDS:
        raise FileFormatError(f"the file holds a metanet of unknown kind {kind!r}; known are {', '.join(_KINDS)}.")
    options = dict(header["options"])
    if kind == "Editor":
        return Editor(_made(header["metanet"], backend), **options)
    made = getattr(import_module(_KINDS[kind]), kind)
    if "vocabulary" in inspect.signature(made.__init__).parameters:
        options["vocabulary"] = Vocabulary(*(tuple(names) for names in header["vocabulary"]))
    if backend is not None and "backend" in options:
        options["backend"] = backend
    metanet: nn.Module = made(**options)
    return metanet

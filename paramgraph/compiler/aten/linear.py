"""Linear maps and products: linear, matmul, einsum, bilinear, weight norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paramgraph.compiler.aten.algebra import diagonal
from paramgraph.compiler.builder import Builder, parse_einsum
from paramgraph.compiler.program import Labels, Value
from paramgraph.compiler.rules import exact_rule as rule


@rule("aten.linear")
def linear(b: Builder, x: Value, weight: Value, bias: Value | None = None) -> Value:
    return b.linear(x, weight, bias)


@rule("aten.addmm")
def addmm(b: Builder, bias: Value, x: Value, weight: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return b.elementwise("add", b.contract("bi,io->bo", x, weight, name="linear"), bias, role="bias", scale=(alpha, beta))


@rule("aten.baddbmm")
def baddbmm(b: Builder, bias: Value, x: Value, y: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return b.elementwise("add", b.contract("bij,bjk->bik", x, y, name="matmul"), bias, scale=(alpha, beta))


@rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot")
def matmul(b: Builder, x: Value, y: Value) -> Value:
    """`matmul` with its broadcasting: the last axis of `x` with the last but one of `y`."""
    if y.ndim == 1:
        batch = tuple(range(x.ndim - 1))
        return b.contract(([(*batch, "k"), ("k",)], batch), x, y, name="matmul")
    if x.ndim == 1:
        batch = tuple(range(y.ndim - 2))
        return b.contract(([("k",), (*batch, "k", "j")], (*batch, "j")), x, y, name="matmul")
    rank = max(x.ndim, y.ndim) - 2
    batch = tuple(range(rank))
    left, right = batch[rank - (x.ndim - 2) :], batch[rank - (y.ndim - 2) :]
    return b.contract(([(*left, "i", "k"), (*right, "k", "j")], (*batch, "i", "j")), x, y, name="matmul")


@rule("aten.einsum")
def einsum(b: Builder, equation: str, operands: Sequence[Value], **_: Any) -> Value:
    if "." in equation:
        equation = _expand_ellipsis(equation, [value.ndim for value in operands])
    labels, out = parse_einsum(equation)
    terms, values = zip(*(_without_diagonals(b, term, value) for term, value in zip(labels, operands, strict=True)), strict=True)
    return b.contract((terms, out), *values, name="einsum")


def _without_diagonals(b: Builder, term: Labels, value: Value) -> tuple[Labels, Value]:
    """A term in which every label occurs once: of axes that share one, the diagonal."""
    while len(set(term)) < len(term):
        label = next(label for label in term if term.count(label) > 1)
        first, second = [d for d, other in enumerate(term) if other == label][:2]
        value = diagonal(b, value, first, second)
        term = (*(other for d, other in enumerate(term) if d not in (first, second)), label)
    return term, value


def _expand_ellipsis(equation: str, ranks: Sequence[int]) -> str:
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widths = [rank - (len(term) - 3) for term, rank in zip(terms, ranks, strict=True) if "..." in term]
    batch = "".join(spare[: max(widths)])
    new = []
    for term, rank in zip(terms, ranks, strict=True):
        width = rank - (len(term) - 3)
        new.append(term.replace("...", batch[len(batch) - width :]) if "..." in term else term)
    return ",".join(new) + (f"->{right.replace('...', batch)}" if arrow else "")


@rule("aten.bilinear")
def bilinear(b: Builder, x: Value, y: Value, weight: Value, bias: Value | None = None) -> Value:
    batch = tuple(range(x.ndim - 1))
    out = b.contract(([(*batch, "i"), (*batch, "j"), ("o", "i", "j")], (*batch, "o")), x, y, weight, name="bilinear")
    return out if bias is None else b.elementwise("add", out, bias, role="bias")


@rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(b: Builder, v: Value, g: Value, dim: int = 0) -> Value | tuple[Value, Value]:
    """g · v / ‖v‖, the norm over all axes but `dim` (Salimans & Kingma 2016, section 2); over all of them where `dim` is -1."""
    norm = b.reduce(v, [d for d in range(v.ndim) if d != dim], keepdim=True, name="norm")
    weight = b.elementwise("mul", b.elementwise("div", v, norm), g)
    return weight if len(b.shapes) == 1 else (weight, norm)


@rule("aten.cdist", "aten._cdist_forward", "aten._euclidean_dist")
def distances(b: Builder, x: Value, y: Value, *args: Any, **kwargs: Any) -> Value:
    """Distances between all rows of `x` and all rows of `y`: symmetric in the coordinates."""
    rank = max(x.ndim, y.ndim) - 2
    batch = tuple(range(rank))
    left, right = batch[rank - (x.ndim - 2) :], batch[rank - (y.ndim - 2) :]
    return b.contract(([(*left, "i", "k"), (*right, "j", "k")], (*batch, "i", "j")), x, y, name="distance")


@rule("aten.cosine_similarity")
def cosine_similarity(b: Builder, x: Value, y: Value, dim: int = 1, eps: float = 1e-8) -> Value:
    """A product of two normalised vectors, summed along one axis."""
    rank = max(x.ndim, y.ndim)
    axes = tuple(range(rank))
    kept = tuple(d for d in axes if d != dim % rank)
    labels = [axes[rank - value.ndim :] for value in (x, y)]
    return b.contract((labels, kept), x, y, name="cosine similarity")


@rule("aten.outer")
def outer(b: Builder, x: Value, y: Value) -> Value:
    return b.contract("i,j->ij", x, y, name="outer", product=True)


@rule("aten.linalg_cross")
def cross(b: Builder, x: Value, y: Value, *, dim: int = -1) -> Value:
    """The cross product along an axis of three ordered coordinates."""
    if x.ndim != y.ndim:
        raise ValueError("cross product of tensors of different ranks")
    x, y = (b.mix("coordinates", value, [dim], ordered=True) for value in (x, y))
    return b.elementwise("cross", x, y)


@rule("aten.cross")
def cross_of_first(b: Builder, x: Value, y: Value, dim: int | None = None) -> Value:
    """Without an axis: along the first of three elements."""
    return cross(b, x, y, dim=b.shapes[0].index(3) if dim is None else dim)

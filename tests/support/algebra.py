"""Small networks with linear algebra on their weights, diagonals, bags, histograms, and less usual pooling and pointwise functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.support.cases import lam
from tests.support.indexing import between, images

# Rows and columns of a matrix that is inverted: the units before and behind it.
between("inverse", 2 * lam(6), lambda h, p: h @ torch.linalg.inv(p), (5, 4), tables=[(6, 6)])
between("pseudo-inverse", lam(6) + lam(5), lambda h, p: h @ torch.linalg.pinv(p), (5, 4), tables=[(5, 6)], out=5)
# Said to be symmetric, one triangle of it is read: rows and columns are in order.
between("pseudo-inverse of one triangle", 0.0, lambda h, p: h @ torch.linalg.pinv(p, hermitian=True), (5, 4), tables=[(6, 6)])
# Rows of the matrix and of the right side; columns of the matrix are the units before, those of the right side the units behind.
between("solution", 3 * lam(6), lambda h, p, q: h @ torch.linalg.solve(p, q), (5, 4), tables=[(6, 6), (6, 6)])
between("solution from the right", 3 * lam(6), lambda h, p, q: h @ torch.linalg.solve(p, q, left=False), (5, 4), tables=[(6, 6), (6, 6)])
# Three systems of five equations: systems are exchanged, and the equations and unknowns of each.
between("solution for vectors", lam(6) + lam(3) + 6 * lam(5), lambda h, p, q: h * torch.linalg.solve(p, q).sum(), (5, 4), tables=[(3, 5, 5), (3, 5)])
between("logarithm of a determinant", 2 * lam(6), lambda h, p: h @ p + torch.linalg.slogdet(p).logabsdet, (5, 4), tables=[(6, 6)])
between("determinant", 2 * lam(6), lambda h, p: h * torch.linalg.det(p), (5, 4), tables=[(6, 6)])  # rows and columns move alike
between("trace by einsum", 2 * lam(6), lambda h, p: h * torch.einsum("ii", p), (5, 4), tables=[(6, 6)])
between("exponential of a matrix", lam(6), lambda h, p: h @ torch.matrix_exp(p), (5, 4), tables=[(6, 6)])
between("largest singular value", lam(6) + lam(5) + lam(3), lambda h, p: h * torch.linalg.svdvals(p)[0], (5, 4), tables=[(5, 3)])
# One triangle is read: both sides of the factor are in order. Columns that are summed before are not.
between("cholesky factor", lam(3), lambda h, p: h @ torch.linalg.cholesky(p @ p.T + torch.eye(6)), (5, 4), tables=[(6, 3)])
between("orthogonal factor", 0.0, lambda h, p: h @ torch.linalg.qr(p).Q, (5, 4), tables=[(6, 6)])
between("triangular solution", lam(6), lambda h, p, q: h @ torch.linalg.solve_triangular(p, q, upper=False), (5, 4), tables=[(6, 6), (6, 6)])

# The third result of these functions is the inverse of the deviation.
between("inverse deviation", 3 * lam(6), lambda h, p, q: q * torch.native_layer_norm(h @ p, [6], None, None, 0.1)[2] / (h @ p).std(1, keepdim=True),
        (5, 4), tables=[(6, 6), (6,)])  # fmt: skip

# A triangle tells rows and columns apart, but those of which it keeps the same elements: some of the first or last, where it is wide.
for _name, _triangle, _diagonal, _alike in (("above the diagonal", torch.triu, 1, 1), ("below the diagonal", torch.tril, -1, 1),
                                            ("upper triangle with two more diagonals", torch.triu, -2, 3),
                                            ("lower triangle with one more diagonal", torch.tril, 1, 2)):  # fmt: skip
    between(_name, 2 * lam(_alike), lambda h, p, f=_triangle, d=_diagonal: h @ (1 + f(p, d).sin()).pow(3), (5, 4), tables=[(6, 6)])

between("diagonal of a table", lam(6), lambda h, p: h * p.diagonal(), (5, 4), tables=[(6, 6)])
between("diagonal by einsum", lam(6), lambda h, p: h * torch.einsum("ii->i", p), (5, 4), tables=[(6, 6)])
between("units on a diagonal", 2 * lam(6), lambda h, p: (torch.diag_embed(h) @ p).sin().sum(1), (5, 4), tables=[(6, 6)])
between("units beside a diagonal", 2 * lam(6), lambda h, p: (torch.diag_embed(h, 1)[:, :6, 1:] @ p).sin().sum(1), (5, 4), tables=[(6, 6)])
between("trace of a product", lam(6), lambda h: h * torch.trace(h.T @ h.sin()), (5, 4))
between("diagonal of positions", lam(6), lambda h: (h @ h.mT).diagonal(dim1=1, dim2=2)[..., None] * h, (3, 7, 4))
between("cosine of an angle", lam(6) + lam(5), lambda h, t: F.cosine_similarity(h[:, None], t, dim=-1), (5, 4), tables=[(5, 6)], out=5)

for _mode in ("sum", "mean", "max"):
    between(f"bags by {_mode}", lam(6), lambda h, i, t, m=_mode: h + F.embedding_bag(i, t, mode=m), (5, 4), (7, (5, 3)), tables=[(7, 6)])
# Padding that is one of the codes: it counts in no bag, and the other four are exchanged.
between("bags of the nearest codes without padding", lam(6) + lam(4),
        lambda h, t: h + F.embedding_bag(torch.stack([(h @ t.mT).argmax(-1), (h.sin() @ t.mT).argmax(-1)], 1), t, mode="sum", padding_idx=2),
        (5, 4), tables=[(5, 6)])  # fmt: skip
between("weighted bags", lam(6), lambda h, i, w, t: h + F.embedding_bag(i, t, mode="sum", per_sample_weights=w), (5, 4), (7, (5, 3)), (5, 3),
        tables=[(7, 6)])  # fmt: skip
# How often each unit is the largest, and sums of units at those places.
between("counts of the largest", lam(6), lambda h: h * torch.bincount(h.argmax(-1), minlength=6), (5, 4))
between("sums by the largest", lam(6), lambda h: h * torch.bincount(h.argmax(-1), h.sum(-1), minlength=6), (5, 4))
between("one unit overwritten", lam(5), lambda h: h.index_fill(1, torch.tensor([2]), 0.3), (5, 4))  # what it was is read by nothing
between("the largest overwritten", lam(6), lambda h: h.index_fill(0, h.sum(1).argmax(0, keepdim=True), 0.3), (5, 4))
# Rows of another layer put into the places of a mask that is the same for all units: the units of both are one space.
between("rows scattered under a mask", lam(6), lambda h, m, r, t: h.masked_scatter((m < 2)[..., None].expand_as(h), r @ t), (3, 7, 4), (3, (3, 7)),
        (21, 5), tables=[(5, 6)])  # fmt: skip
between("units scattered under a mask", 0.0, lambda h: h.masked_scatter(h > 0, h.sin()), (5, 4))  # each in its turn
between("quantiles of units", lam(6), lambda h: h * h.quantile(torch.tensor([0.25, 0.75]).to(h.dtype), 1).sin().sum(0)[:, None], (5, 4))
between("median over all", lam(6), lambda h: h * h.quantile(0.5), (5, 4))
between("whether all are below a number", lam(6), lambda h: h * torch.ops.aten._is_all_true(h < 0.9), (5, 4))
between("sorted search", lam(6) + lam(3), lambda h, t: h * torch.searchsorted(t.sort().values, h), (5, 4), tables=[(3,)])
between("histogram", lam(6), lambda h: h * torch.histc(h.detach(), 3, -1.0, 1.0)[1], (5, 4))
between("means by index", lam(6), lambda h, i: torch.zeros_like(h).index_reduce(0, i, h, "mean", include_self=False), (5, 4), (5, (5,)))
between("windows transformed", lam(6), lambda h: torch.stft(h.T, 4, 2, window=torch.ones(4), return_complex=True).abs().mean(2).T, (20, 4))
# Two columns are read apart.
between("grid of units", lam(6) + lam(4), lambda h, t: (lambda a, b: h @ (a - b).sin() @ t)(*torch.meshgrid(t[:, 0], t[:, 1], indexing="ij")), (5, 4),
        tables=[(6, 6)])  # fmt: skip
# torch tags these functions as pointwise; there is no table of them.
between("pointwise by its tag", lam(6), lambda h: torch.special.erfcx(h) + torch.special.xlog1py(h, h.abs()) + torch.special.entr(h.abs()), (5, 4))

images("fractional pooling", lam(6),
       lambda h: F.fractional_max_pool2d(h, 2, 3, _random_samples=torch.full((2, 6, 2), 0.4, dtype=h.dtype)).flatten(2).mT, 6)
images("unpooling", lam(6), lambda h: F.max_unpool2d(*F.max_pool2d(h, 2, return_indices=True), 2).flatten(2).mT, 6)
images("nearest positions", lam(6), lambda h: F.interpolate(h, size=(5, 3), mode="nearest-exact").flatten(2).mT, 6)
images("turned by learned angles", lam(6), lambda h, t: F.grid_sample(h, F.affine_grid((h.mean((2, 3)) @ t).view(-1, 2, 3), h.shape)).flatten(2).mT,
       6, tables=[(6, 6)])  # fmt: skip

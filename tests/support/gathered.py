"""Networks whose weights are chosen by an index: what depends on the chosen element, and what must not."""

from __future__ import annotations

import torch
from torch import nn

from tests.support.cases import case, lam
from tests.support.values import EXPERTS, Experts

ALIKE = lam(8) + lam(4) + lam(6)  # the inner units of all experts move alike


@case("gathered in one row of tokens and ranks", EXPERTS, (7, 5))  # tokens and ranks flattened, and both matrices in batched products
class Flattened(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        chosen = chosen.reshape(-1)
        repeated = x[:, None].expand(-1, 2, -1).reshape(-1, 8)
        inner = torch.relu(torch.bmm(repeated[:, None], self.up[chosen]))
        out = torch.bmm(inner, self.down[chosen]).reshape(7, 2, 3)
        return (out * share.softmax(-1)[..., None]).sum(1)


@case("gathered with biases", EXPERTS, (7, 5))
class Biased(Experts):
    def __init__(self) -> None:
        super().__init__()
        self.bias, self.scale = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        inner = torch.einsum("bi,bkij->bkj", x, self.up[chosen]) * self.scale[chosen][..., None]
        inner = torch.tanh(inner + self.bias[chosen])
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[chosen])


@case("gathered gate and up, packed", lam(8) + lam(4) + 4 * lam(3), (7, 5))  # both halves of what one matrix makes, and their product
class Packed(Experts):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(4, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        gate, up = torch.einsum("bi,bkij->bkj", x, self.up[chosen]).chunk(2, -1)
        return torch.einsum("bk,bkj,bkjo->bo", share, torch.sigmoid(gate) * up, self.down[chosen])


@case("gathered with one bias for all", ALIKE, (7, 5))
class SharedBias(Experts):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        inner = torch.tanh(torch.einsum("bi,bkij->bkj", x, self.up[chosen]) + self.bias)
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[chosen])


@case("gathered by the other ranks", ALIKE, (7, 5))  # what the first expert makes goes through the second's matrix
class Swapped(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        inner = torch.relu(torch.einsum("bi,bkij->bkj", x, self.up[chosen]))
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[chosen.flip(-1)])


@case("gathered and summed over ranks", ALIKE, (7, 5))
class SummedEarly(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        inner = torch.relu(torch.einsum("bk,bi,bkij->bj", share, x, self.up[chosen]))
        return torch.einsum("bj,bkjo->bo", inner, self.down[chosen])


@case("gathered by two choices", ALIKE, (7, 5))
class TwoChoices(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        scores = self.router(x)
        share, most = scores.topk(2, -1)
        least = scores.topk(2, -1, largest=False).indices
        inner = torch.relu(torch.einsum("bi,bkij->bkj", x, self.up[most]))
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[least])


@case("gathered with tokens for ranks", ALIKE, (2, 5))  # two tokens and two ranks: aligned the wrong way round
class Turned(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        inner = torch.relu(torch.einsum("bi,bkij->kbj", x, self.up[chosen]))
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[chosen])


@case("inner layer over the units of the chosen expert", EXPERTS, (7, 5))
class InnerNorm(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        inner = torch.einsum("bi,bkij->bkj", x, self.up[chosen]).softmax(-1)
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[chosen])


@case("mixing over the ranks", ALIKE, (7, 5))
class RankMixing(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).topk(2, -1)
        inner = torch.einsum("bi,bkij->bkj", x, self.up[chosen]).softmax(1)
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[chosen])


# The classes are given: they do not move, but the inner units of each do.
@case("inner units of a given class", lam(8) + 4 * lam(6), (7, 5), (4, (7,)))
class GivenClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.up, self.down = nn.Linear(5, 8), nn.Parameter(torch.randn(4, 8, 6)), nn.Parameter(torch.randn(4, 6, 3))

    def forward(self, x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        inner = torch.relu(torch.einsum("bi,bij->bj", x, self.up[given]))
        return torch.einsum("bj,bjo->bo", inner, self.down[given])


# Softmax over 4 blocks of 6 against 3 groups of 8: the stream is cut into 6, 2, 4, 4, 2, 6, and the groups are told apart. Exchanging the cells
# end for end, with the groups, is missed. The position table has more rows than are read.
@case("position table on a cut stream", 3 * lam(12) + 2 * (lam(6) + lam(2) + lam(4)), (11, (2, 7)))
class CutStream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 24), nn.Embedding(9, 24)
        self.up, self.down, self.o = nn.Conv1d(24, 36, 1, groups=3), nn.Conv1d(36, 24, 1, groups=3), nn.Linear(24, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = (self.tokens(x) + self.places(torch.arange(7))[None]).transpose(1, 2)
        share = self.down(torch.tanh(self.up(h))).view(2, 4, 6, 7).softmax(2).reshape(2, 24, 7)
        return self.o((h + share).transpose(1, 2))

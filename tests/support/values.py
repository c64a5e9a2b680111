"""Small networks whose values index a space, and networks that share or leave parameters."""

from __future__ import annotations

import torch
from torch import nn

from tests.support.cases import case, lam


class Experts(nn.Module):
    """Four experts of six inner units each behind a router."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.router = nn.Linear(5, 8), nn.Linear(8, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 6)), nn.Parameter(torch.randn(4, 6, 3))


EXPERTS = lam(8) + lam(4) + 4 * lam(6)  # hidden layer, experts, inner units of each


@case("soft mixture of experts", EXPERTS, (7, 5))
class Soft(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        inner = torch.relu(torch.einsum("bi,eij->bej", x, self.up))
        return torch.einsum("be,beo->bo", self.router(x).softmax(-1), torch.einsum("bei,eio->beo", inner, self.down))


# Gathered by one index, both matrices keep the expert as a virtual factor: the units of each expert move apart.
@case("top-k mixture by gathering", EXPERTS, (7, 5))
class TopK(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).softmax(-1).topk(2, -1)
        inner = torch.relu(torch.einsum("bi,bkij->bkj", x, self.up[chosen]))
        return torch.einsum("bk,bkj,bkjo->bo", share, inner, self.down[chosen])


@case("top-k mixture by one-hot", EXPERTS, (7, 5))
class OneHot(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        share, chosen = self.router(x).softmax(-1).topk(2, -1)
        gate = torch.einsum("bk,bke->be", share, nn.functional.one_hot(chosen, 4).to(share.dtype))
        inner = torch.relu(torch.einsum("bi,eij->bej", x, self.up))
        return torch.einsum("be,beo->bo", gate, torch.einsum("bei,eio->beo", inner, self.down))


@case("top-1 mixture by comparison", EXPERTS, (7, 5))  # `arange == index` is an indicator over the experts
class Compared(Experts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.i(x))
        scores = self.router(x)
        gate = (torch.arange(4) == scores.argmax(-1, keepdim=True)).to(x.dtype)
        inner = torch.relu(torch.einsum("bi,eij->bej", x, self.up))
        return torch.einsum("be,beo->bo", gate, torch.einsum("bei,eio->beo", inner, self.down))


@case("index as an output", lam(8), (7, 5))  # which class is the largest is an output: the classes are fixed
class ArgMax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x))).argmax(-1)


@case("arithmetic on an index", lam(8), (7, 5))
class IndexSum(ArgMax):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 0.5 + 1


@case("codebook", lam(6) + lam(4), (7, 5))  # nearest of 6 codes: rows move with the distances, the width is the latent's
class Codebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.codes, self.o = nn.Linear(5, 4), nn.Embedding(6, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        distance = (x[:, None] - self.codes.weight[None]).pow(2).sum(-1)
        return self.o(self.codes(distance.argmin(-1)))


@case("tied across a transpose", lam(6), (7, 4))  # an encoder whose decoder is its transpose
class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)
        self.b.weight = nn.Parameter(self.a.weight.detach().t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)))


@case("a layer used twice", lam(6), (7, 4))
class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.a(x))
        return self.o(torch.tanh(self.b(torch.tanh(self.b(x)))))


@case("unused parameters", lam(6), (7, 4))  # a layer that nothing reads belongs to no group
class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.spare = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


@case("two outputs", lam(6) + lam(5), (7, 4))
class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor | tuple[torch.Tensor, ...]]:
        x = torch.relu(self.a(x))
        return {"near": self.b(x), "far": (self.d(torch.relu(self.c(x))),)}


@case("hidden layer as an output", 0.0, (7, 4))  # its order is seen
class SeenHidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.a(x))
        return x, self.b(x)

"""Small networks that take derivatives in their forward, and layers of torch that ask their masks what they hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.cases import case, lam


class Slope(nn.Module):
    """The gradient of an energy by the input."""

    def __init__(self, energy: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.energy = energy
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_(True)
        return torch.autograd.grad(self.energy(self, x).sum(), x, create_graph=True)[0]


class Transformed(Slope):
    """A function's derivative by one of torch's function transforms."""

    def __init__(self, transform: Callable[..., Callable[..., torch.Tensor]], energy: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__(energy, **parts)
        self.transform = transform

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(self.transform(lambda row: self.energy(self, row)))(x)


def _perceptron(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net.b(torch.tanh(net.a(x))).sum(-1)


case("gradient of an energy", lam(6), (5, 4))(lambda: Slope(_perceptron, a=nn.Linear(4, 6), b=nn.Linear(6, 1)))
for _name in ("grad", "jacrev", "jacfwd", "hessian"):
    case(f"derivative by {_name}", lam(6), (5, 4))(
        lambda name=_name: Transformed(getattr(torch.func, name), _perceptron, a=nn.Linear(4, 6), b=nn.Linear(6, 1)))
case("gradient through attention", 2 * lam(6), (3, 5, 4))(lambda: Slope(
    lambda net, x: ((net.q(x) @ net.k(x).mT).softmax(-1) @ net.o(x)).relu() ** 2, q=nn.Linear(4, 6), k=nn.Linear(4, 6), o=nn.Linear(4, 6)))
case("gradient through a layer norm", lam(6), (5, 4))(lambda: Slope(
    lambda net, x: net.b(F.gelu(net.n(net.a(x)))), a=nn.Linear(4, 6), n=nn.LayerNorm(6), b=nn.Linear(6, 1)))
# Two groups of three channels.
case("gradient through a convolution", lam(2) + 2 * lam(3), (2, 3, 5, 5))(lambda: Slope(
    lambda net, x: net.b(F.silu(net.n(net.a(x))).mean((2, 3))), a=nn.Conv2d(3, 6, 3), n=nn.GroupNorm(2, 6), b=nn.Linear(6, 1)))


# One layer: width 8 is the inputs'; heads, query-key and value-output dimensions of both attentions; inner units.
@case("decoder under a causal mask", 2 * (lam(2) + 2 * lam(4) + 2 * lam(4)) + lam(10), (2, 5, 8), (2, 7, 8))
class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 10, batch_first=True), 1)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.decoder(x, memory, tgt_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]))

"""ScaleGMN under sampled elements of the full annotated group of full-size networks: relative deviations from equivariance in float64.

    python benchmarks/scalegmn_exactness.py                                  siren small_cnn lstm resnet18_cifar vit_small_image
    python benchmarks/scalegmn_exactness.py mobilenet_v2 convnext            depthwise convolutions; mobilenet_v2 a quarter as wide
    python benchmarks/scalegmn_exactness.py resnet18 --sigma 1 6 --hidden 4
    python benchmarks/scalegmn_exactness.py vit_tiny --direction both        takes minutes

"invariance" is that of predictions per graph, "equivariance" that of predictions per parameter. So that one sees that there is something to be
invariant under and something to lose: "GMN" is how far predictions of an ordinary GMN move under the same element, "others" how far those of
ScaleGMN do if each value is multiplied by a random number between 0.7 and 1.3. Exits with 1 if a deviation is over 1e-10.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from metanet_speed import Siren, small_cnn
from torch import nn

import paramgraph as pg
from paramgraph.metanets import GMN, ScaleGMN, equivariance_error
from paramgraph.models.torchvision import import_torchvision

LIMIT = 1e-10


class Recurrent(nn.Module):
    """Two layers of LSTM and a linear readout."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 64, num_layers=2, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def resnet18(cifar: bool) -> nn.Module:
    """torchvision's, or its form for images of 32 pixels and ten classes: a 3×3 stem without pooling."""
    model = import_torchvision().models.resnet18(num_classes=10 if cifar else 1000)
    if cifar:
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def vit(image: int, patch: int, layers: int, heads: int, width: int, classes: int) -> nn.Module:
    """torchvision's vision transformer of any size."""
    make = import_torchvision().models.VisionTransformer
    return make(image, patch, layers, heads, width, 4 * width, num_classes=classes)


def convnext() -> nn.Module:
    """torchvision's ConvNeXt with two stages of narrow blocks: depthwise convolutions, layer norms, layer scales."""
    models = import_torchvision().models
    stages = [models.convnext.CNBlockConfig(16, 32, 2), models.convnext.CNBlockConfig(32, None, 2)]
    return models.convnext.ConvNeXt(stages, num_classes=10)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "siren": (Siren, (4, 2)),
    "small_cnn": (small_cnn, (2, 1, 28, 28)),
    "lstm": (Recurrent, (2, 5, 16)),
    "resnet18_cifar": (lambda: resnet18(cifar=True), (1, 3, 32, 32)),
    "vit_small_image": (lambda: vit(32, 4, 6, 4, 64, 10), (1, 3, 32, 32)),
    "mobilenet_v2": (lambda: import_torchvision().models.mobilenet_v2(width_mult=0.25, num_classes=10), (1, 3, 64, 64)),
    "convnext": (convnext, (1, 3, 64, 64)),
    "resnet18": (lambda: resnet18(cifar=False), (1, 3, 224, 224)),
    "vit_tiny": (lambda: vit(224, 16, 12, 3, 192, 1000), (1, 3, 224, 224)),
}
DEFAULT = ("siren", "small_cnn", "lstm", "resnet18_cifar", "vit_small_image")


def compiled(name: str) -> pg.ParamGraph:
    """The graph of a network whose norms have statistics and whose gains and biases are not all alike."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make().double().eval()
    for key, value in model.state_dict().items():
        if "running_var" in key:
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and (value.ndim == 1 or not value.any()):
            value.add_(0.2 * torch.randn_like(value))
    return pg.compile(model, torch.randn(*shape, dtype=torch.float64), name=name)


def made(kind: Callable[..., nn.Module], graph: pg.ParamGraph, hidden: int, layers: int, **options: object) -> nn.Module:
    """A metanet that knows the graph, with no parameter at its initial zero."""
    torch.manual_seed(0)
    net = kind(hidden, layers, backend="torch", out=2, **options).double()
    with torch.no_grad():
        net([graph])
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


@torch.no_grad()
def changed(net: nn.Module, graph: pg.ParamGraph) -> float:
    """How far predictions move for other values."""
    other = {n: v * (0.7 + 0.6 * torch.rand_like(v)) if v.is_floating_point() else v for n, v in graph.values.items()}
    before, after = net([graph]), net([graph.with_values(other)])
    return float((after - before).abs().max() / before.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=DEFAULT, metavar="NAME", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--sigma", type=float, nargs="*", default=[1.0, 6.0], help="of log-scales")
    parser.add_argument("--direction", nargs="*", choices=("forward", "both"), default=["forward", "both"])
    parser.add_argument("--hidden", type=int, default=8)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    worst = 0.0
    columns = ("network", 16), ("parameters", 11), ("scales", 7), ("signs", 6), ("direction", 9), ("sigma", 5)
    found = ("invariance", 11), ("equivariance", 13), ("GMN", 9), ("others", 9)
    print(" ".join(f"{name:>{width}s}" for name, width in (*columns, *found)))
    for name in options.names:
        graph = compiled(name)
        kinds = sorted({factor.kind for factor in graph.symmetry.factors} & {"permutation", "scale", "sign"})
        plain = made(GMN, graph, options.hidden, 1)
        for direction in options.direction:
            nets = [made(ScaleGMN, graph, options.hidden, options.layers, head=head, direction=direction) for head in ("graph", "edge")]
            for sigma in options.sigma:
                start = time.perf_counter()
                element = graph.symmetry.sample(1, kinds=kinds, sigma=sigma)
                invariance, equivariance = (equivariance_error(net, graph, element) for net in nets)
                moved = equivariance_error(plain, graph, element)
                others = changed(nets[0], graph)
                worst = max(worst, invariance, equivariance)
                print(
                    f"{name:>16s} {graph.num_parameters:11,} {graph.symmetry.dimension:7,} {graph.symmetry.num_signs:6,} "
                    f"{direction:>9s} {sigma:5.1f} "
                    f"{invariance:11.1e} {equivariance:13.1e} {moved:9.1e} {others:9.1e}   {time.perf_counter() - start:5.0f} s",
                    flush=True,
                )
    if worst > LIMIT:
        sys.exit(f"a deviation is over {LIMIT}: {worst:.1e}")


if __name__ == "__main__":
    main()

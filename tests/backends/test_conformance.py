"""The engines that ship pass the suite that ships; and the suite can fail."""

from dataclasses import replace

import pytest
import torch

from paramgraph.backends import get_backend
from paramgraph.backends.conformance import CASES, DTYPES, check_mixture, check_primitives
from paramgraph.backends.torch import TorchBackend
from paramgraph.errors import MissingDependencyError
from paramgraph.graph import EdgeSet

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=["torch", "dgl", "pyg"], scope="module")
def backend(request):
    if request.param != "torch":
        pytest.importorskip({"dgl": "dgl", "pyg": "torch_geometric"}[request.param])
    return get_backend(request.param)


@pytest.fixture(params=DEVICES)
def device(request, backend):
    try:
        backend.check_device(torch.device(request.param))
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_primitives_agree_with_a_loop_over_edges(backend, case, dtype, device):
    check_primitives(backend, case, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_are_kept_apart(backend, dtype, device):
    check_mixture(backend, dtype, device)


class Transposed(TorchBackend):
    """Sums at the wrong end."""

    def to_nodes(self, block, edge, end="target"):
        return super().to_nodes(block, edge, "source" if end == "target" else "target")


class Detached(TorchBackend):
    """Right values, no gradients."""

    def combine(self, block, *terms, **options):
        return super().combine(block, *terms, **options) + 0.0 * sum(t.sum() for t in terms[:2] if t is not None).detach()

    def to_nodes(self, block, edge, end="target"):
        return super().to_nodes(block, edge.detach(), end) + 0.0 * edge.sum()


class Forgetful(TorchBackend):
    """Keeps the first index array that it meets for a shape."""

    def __init__(self):
        self.blocks = {}

    def to_nodes(self, block, edge, end="target"):
        return super().to_nodes(self.blocks.setdefault((block.shape, block.num_sources, block.num_targets), block), edge, end)


def test_the_suite_finds_blocks_that_are_mixed_up():
    index = [torch.tensor([[0, 1]]), torch.tensor([[1, 0]])]
    mixed = [replace(CASES[0], edges=EdgeSet("e", "t", "s", "t", (1, 2, 3, 1), None, i.numpy()), num_targets=2) for i in index]
    for case in mixed:
        check_primitives(Forgetful(), case, torch.float64)
    with pytest.raises(AssertionError, match="mixture"):
        check_mixture(Forgetful(), torch.float64, cases=mixed)


@pytest.mark.parametrize("wrong", [Transposed, Detached])
def test_the_suite_can_fail(wrong):
    with pytest.raises(AssertionError):
        check_primitives(wrong(), CASES[0], torch.float64)

"""The engines that ship pass the suite that ships; and the suite can fail."""

import pytest
import torch

from paramgraph.backends import get_backend
from paramgraph.backends.conformance import CASES, DTYPES, check_primitives
from paramgraph.backends.torch import TorchBackend


@pytest.fixture(params=["torch", "dgl"], scope="module")
def backend(request):
    if request.param == "dgl":
        pytest.importorskip("dgl")
    return get_backend(request.param)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_primitives_agree_with_a_loop_over_edges(backend, case, dtype):
    check_primitives(backend, case, dtype)


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


@pytest.mark.parametrize("wrong", [Transposed, Detached])
def test_the_suite_can_fail(wrong):
    with pytest.raises(AssertionError):
        check_primitives(wrong(), CASES[0], torch.float64)

"""Random points of a network's orbit, as training data for whatever reads networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from paramgraph.symmetries.group import SIGMA

if TYPE_CHECKING:
    import torch

    from paramgraph.graph import ParamGraph


def augment(
    graph: ParamGraph,
    seed: int | torch.Generator | None = None,
    *,
    factors: Iterable[int | str] | None = None,
    kinds: Iterable[str] | None = None,
    sigma: float = SIGMA,
) -> ParamGraph:
    """The same function with other parameters: a random element of the group applied to the graph's values.

    Args:
        graph: the network.
        seed: as of `SymmetryGroup.sample`; None draws from torch's default generator, so that every call differs.
        factors: factors to draw; None for all.
        kinds: kinds to draw (`"permutation"`, `"scale"`, `"sign"`); None for all.
        sigma: standard deviation of the logarithms of magnitudes.

    Raises:
        GroupError: a factor or kind is not in the group.
        StateDictError: a magnitude leaves the range of its tensor's type.
    """
    return graph.with_values(graph.symmetry.sample(seed, factors, kinds, sigma).act(graph.state_dict()))

"""Editor: a metanet that gives a network new parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, overload

import torch
from torch import nn

from paramgraph.errors import MetanetError
from paramgraph.graph import EdgeSet, ParamGraph
from paramgraph.metanets.batch import Batch, Networks
from paramgraph.metanets.edit import changes
from paramgraph.metanets.stack import Stack

Mode = Literal["residual", "mask", "both"]


def is_trained(edges: EdgeSet) -> bool:
    """Whether an edge set carries what gradient descent changes: anything but running statistics."""
    return edges.parameter is not None and not edges.parameter.role.startswith("running")


class Editor(nn.Module):
    """New values for every parameter of a network: `θ + s·δ`, `θ·(1 + s·μ)`, or both, where δ and μ come from a metanet.

    It begins as the identity. What it returns is differentiable, so that a loss on the edited network's outputs trains it:

        editor = Editor(GMN(64, 4, head="edge", out=1, residual=True))
        edited = editor(stack)                                    # a Stack again
        outputs = paramgraph.metanets.run(model, edited, inputs)  # through torch.func.functional_call
        loss(outputs).backward()

    Masks of an equivariant metanet are equivariant under any scales; residuals are under those that the metanet knows (all of them for
    ScaleGMN, permutations for GMN).

    Args:
        metanet: one with an edge head of `out=1`, or `out=2` for `mode="both"` (residuals, then masks).
        mode: `"residual"`, `"mask"` or `"both"`.
        scale: initial s, a learned number.
        edits: which edge sets are edited; None takes all but running statistics.

    Raises:
        MetanetError: the metanet has no edge head, or one of another width.
    """

    def __init__(self, metanet: nn.Module, mode: Mode = "residual", scale: float = 0.01, edits: Callable[[EdgeSet], bool] | None = None) -> None:
        super().__init__()
        wanted = 2 if mode == "both" else 1
        head = getattr(metanet, "head", None)
        if mode not in ("residual", "mask", "both") or not hasattr(head, "begin_at_zero") or getattr(head, "out", None) != wanted:
            raise MetanetError(f"an editor of mode {mode!r} needs a metanet with `head='edge', out={wanted}`; got {type(metanet).__name__}.")
        self.metanet = metanet
        self.mode = mode
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self._edits = is_trained if edits is None else edits
        self.edits_by_default = edits is None
        # Residuals are multiplied as the parameters are, masks are not; a head that tells them apart is told which columns are masks.
        if hasattr(head, "masks"):
            head.masks = {"residual": (), "mask": (0,), "both": (1,)}[mode]  # type: ignore[union-attr]
        head.begin_at_zero()  # type: ignore[union-attr]

    @overload
    def forward(self, networks: Stack) -> Stack: ...

    @overload
    def forward(self, networks: Networks) -> list[ParamGraph | Stack]: ...

    def forward(self, networks: Stack | Networks) -> Stack | list[ParamGraph | Stack]:
        """Edited networks, in the order and grouping given: a graph for a graph, a stack for a stack.

        Raises:
            MetanetError: as for the metanet.
        """
        items: Sequence[ParamGraph | Stack] = [networks] if isinstance(networks, Stack) else networks
        state = self.metanet.states(items)  # type: ignore[operator]
        batch: Batch = state.edges.batch
        stacked = self.metanet.head.stacked(state)  # type: ignore[operator, union-attr]
        edited = [self._edited(group.graph, group.bases(), found) for group, found in zip(batch.groups, stacked, strict=True)]
        places = [(number, row) for number, group in enumerate(batch.groups) for row in range(group.count)]
        result: list[ParamGraph | Stack] = []
        first = 0
        for item in items:
            count = len(item) if isinstance(item, Stack) else 1
            number, start = places[batch.order[first]] if count else (0, 0)
            first += count
            made = {name: change[start : start + count] for name, change in edited[number].items()}
            if isinstance(item, Stack):
                result.append(Stack(item.graph, {**item.values, **made}))
            else:
                result.append(item.with_values({**item.values, **{name: change[0] for name, change in made.items()}}))
        only = result[0]
        return only if isinstance(networks, Stack) and isinstance(only, Stack) else result

    def _edited(self, graph: ParamGraph, bases: object, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """New base tensors `(networks, *shape)` of one group, as far as they are edited."""
        assert isinstance(bases, dict)
        chosen = {name: values for name, values in found.items() if self._edits(graph.edge_sets[name])}
        residuals = changes(graph, {n: v[..., 0] for n, v in chosen.items()}) if self.mode != "mask" else {}
        masks = changes(graph, {n: v[..., -1] for n, v in chosen.items()}) if self.mode != "residual" else {}
        edited = {}
        for name in residuals | masks:
            old = bases[name][0] if bases[name][0].ndim > graph.values[name].ndim else torch.stack(bases[name])
            new = old * (1 + self.scale * masks[name]) if name in masks else old
            edited[name] = new + self.scale * residuals[name] if name in residuals else new
        return edited


def run(model: nn.Module, network: ParamGraph | Stack, *inputs: torch.Tensor) -> torch.Tensor:
    """Outputs of a network at the values of a graph, or of all networks of a stack with a leading axis; differentiable in the values.

    The networks of a stack are computed together, or one after the other where torch cannot (recurrent layers).

    Args:
        model: the module that the graph was compiled from, or one with the same state dict.
        network: the values.
        inputs: of the module, the same for all networks.

    Raises:
        MetanetError: the module has no such parameters.
    """
    graph = network if isinstance(network, ParamGraph) else network.graph
    names = _places(model, graph)

    def one(values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        state = {n: values[n] if n in values else graph.aliases[n].read(values) for n in names}
        out: torch.Tensor = torch.func.functional_call(model, state, inputs, tie_weights=False)
        return out

    if isinstance(network, ParamGraph):
        return one(network.values)

    try:
        with _differentiable_attention():
            outputs: torch.Tensor = torch.func.vmap(one)(dict(network.values))
    except RuntimeError:
        # Not all that torch computes can it compute for many networks at once: recurrent layers, random numbers, statistics that are updated.
        outputs = torch.stack([run(model, network[number], *inputs) for number in range(len(network))])
    return outputs


def _places(model: nn.Module, graph: ParamGraph) -> list[str]:
    """The names of a graph's tensors, one for each place in a module that holds one.

    A parameter of two modules has two places, and both are given its value. A module of two names has one: torch would put the value there
    twice, and then leave one of them behind.
    """
    places: dict[tuple[int, str], str] = {}
    for name in graph.names:
        path, _, attribute = name.rpartition(".")
        try:
            module = model.get_submodule(path)
            getattr(module, attribute)
        except AttributeError as error:
            raise MetanetError(
                f"graph {graph.name!r}: {type(model).__name__} has no parameter {name!r}; pass the module that the graph was compiled from."
            ) from error
        places.setdefault((id(module), attribute), name)
    return list(places.values())


@contextmanager
def _differentiable_attention() -> Iterator[None]:
    """Without torch's attention for inference, which has no derivative, and which torch takes where it does not see that one is wanted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

"""Finds normalisations by running statistics, in which one parameter makes up for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from paramgraph.compiler.program import Op, Program, Value
from paramgraph.symmetries.statistics import CentreFactor, SpreadFactor


def find_statistics(program: Program) -> Iterator[SpreadFactor | CentreFactor]:
    """Variances with their gains, and means with their offsets, that nothing but one normalisation reads: at any number of places.

    Args:
        program: the program.
    """
    uses = Counter([value for op in program.ops for value in op.inputs])
    uses.update([value for pair in program.outputs for value in pair if value is not None])
    alike: dict[Any, list[Op]] = {}
    for op in program.ops:
        if op.kind == "normalize" and op.exact and not op.attrs["mixed"] and op.attrs.get("epsilon") is not None:
            alike.setdefault((op.attrs["epsilon"], tuple(op.attrs["roles"]), tuple(op.inputs[1:])), []).append(op)
    for ops in alike.values():
        yield from _of(ops[0], len(ops), uses)


def _of(op: Op, times: int, uses: Counter[Value]) -> Iterator[SpreadFactor | CentreFactor]:
    roles = {role: op.inputs[slot] for slot, role in enumerate(op.attrs["roles"], 1)}
    labels = {role: tuple(op.labels[slot]) for slot, role in enumerate(op.attrs["roles"], 1)}
    if not {"running_mean", "running_var"} <= roles.keys():
        return
    variance, epsilon = roles["running_var"], float(op.attrs["epsilon"])
    alike = [role for role, value in roles.items() if labels[role] == labels["running_var"] and value.shape == variance.shape
             and value.kind in ("parameter", "buffer")]  # fmt: skip
    alone = [role for role in alike if uses[roles[role]] == times]  # no other operation sees what is done, and no two roles are one tensor
    if "running_var" not in alike or 0 in variance.shape:
        return
    gain = roles.get("gain")
    if gain is not None and {"gain", "running_var"} <= set(alone):
        yield SpreadFactor(f"deviations of {variance.name} with {gain.name}", variance.name, gain.name, epsilon, variance.shape)
    if {"running_mean", "offset"} <= set(alone) and (gain is None or "gain" in alike):
        mean, offset = roles["running_mean"], roles["offset"]
        name = f"additions to {mean.name}, made up for by {offset.name}"
        yield CentreFactor(name, mean.name, offset.name, variance.name, gain.name if gain is not None else "", epsilon, variance.shape)

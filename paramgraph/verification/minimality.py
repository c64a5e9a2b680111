"""Minimality and strictness: what is left out of an action must change the outputs, and so must permutations outside the group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from paramgraph.verification.compare import deviation
from paramgraph.verification.execute import Outputs
from paramgraph.verification.runs import OUTSIDE, Runs, State
from paramgraph.verification.states import Acted

# Under how many other states something is tried that changed nothing under one.
AGAIN = 4


class Minimality(Runs):
    """Checks that no tensor can be left out of the group's actions, and that permutations outside it are none of it."""

    def _leave_out(self, count: int, state: State, inputs: Sequence[Any], base: Outputs) -> None:
        """One tensor left out of a permutation must change the outputs, unless its values have no influence at all.

        It is left out of the action of g⁻¹ on gθ, which gives θ but for this tensor: so the outputs under θ are what is compared with.
        Not so for scales: a common factor or sign may well be without consequence (behind a comparison, say) where two tensors share it.
        """
        if not count:
            if self.movable:
                self.report.notes.append("no tensor was left out of the action: whether every tensor must move was not checked")
            return
        shared = self._shared()
        coupled = [name for name in self.movable if any(name in self.moved_by[number] for number in shared)]
        order = torch.randperm(len(coupled), generator=self.generator).tolist()
        chosen = [coupled[i] for i in sorted(order[:count])]
        if len(chosen) < len(coupled):
            self.report.notes.append(f"{len(chosen)} of {len(coupled)} tensors were left out of the action; the others were not checked so")
        if len(coupled) < len(self.movable):
            alone = ", ".join(name for name in self.movable if name not in coupled)
            self.report.notes.append(f"factors that move them move nothing else, so there is nothing to leave them out of: {alone}")
        permutations = [number for number, factor in enumerate(self.group.factors) if factor.kind == "permutation"]
        element = self._element(permutations, state)
        idle, added = [], []
        for name in chosen:
            image = Acted(element, state)(name)
            out = self._run(self._with(state, {name: image}), inputs, f"without {name}", base, {name})
            change = self._change(base, out, {name})
            if change > self.least_change:
                self.report.left_out[name] = change
            elif self._influence(name, state, inputs, base) <= self.least_change:
                idle.append(name)
            elif self._merely_added(name, state, image, inputs, base):
                added.append(name)
            else:
                change = self._elsewhere(name, change, lambda other, name=name: Acted(element, other)(name))  # type: ignore[misc]
                self.report.left_out[name] = change
                if change > self.least_change:
                    continue
                self._problem(f"leaving {name} out of the action changes the outputs by {change:.1e} only: the group may be too small")
        self.report.without_influence = tuple(idle)
        if added:
            self.report.notes.append(f"elements of {', '.join(added)} are merely added to each other, so there is nothing to leave out")
        if idle:
            self.report.notes.append(f"without influence on the outputs, so nothing to leave out: {', '.join(idle)}")

    def _change(self, base: Outputs, out: Outputs, but: set[str]) -> float:
        """How much the outputs changed, and new values of buffers other than those that were changed themselves."""
        names = [name for name in base.buffers if name not in but]
        return max(deviation(base.values, out.values),
                   deviation([base.buffers[name] for name in names], [out.buffers[name] for name in names]))

    def _influence(self, name: str, state: State, inputs: Sequence[Any], base: Outputs) -> float:
        """How much other values of one tensor change the outputs."""
        other = self.randomiser.draw(name, self.generator)
        return self._change(base, self._run(self._with(state, {name: other}), inputs, f"influence of {name}", base, {name}), {name})

    def _merely_added(self, name: str, state: State, image: torch.Tensor, inputs: Sequence[Any], base: Outputs) -> bool:
        """Whether the outputs stay the same all along the line from a tensor to its image: what one element loses, another gains.

        Exchanges of what is merely added are no symmetries that a graph annotates. Any other exchange holds at the two ends of the line only.
        """
        if not state[name].is_floating_point():
            return False  # there is nothing between integers
        for share in (0.37, -0.81):
            between = torch.lerp(state[name], image, share)
            if self._change(base, self._run(self._with(state, {name: between}), inputs, f"sums of {name}", base, {name}), {name}) > self.least_change:
                return False
        return True

    def _elsewhere(self, name: str, change: float, image: Callable[[State], torch.Tensor]) -> float:
        """How much putting a tensor's image in its place changes the outputs under other states, if it has not under one.

        What one state does not show, another may: units may never be active, or all of them at once.
        """
        for _ in range(AGAIN):
            if change > self.least_change:
                break
            state, inputs, base = self._start()
            out = self._run(self._with(state, {name: image(state)}), inputs, f"{name} once more", base, {name})
            change = self._change(base, out, {name})
        return change

    def _outside(self, state: State, inputs: Sequence[Any], base: Outputs) -> None:
        """Permute one axis of one tensor alone, where the group moves other tensors along with it: the outputs must change."""
        candidates, certain = self._axes()
        order = torch.randperm(len(candidates), generator=self.generator).tolist()
        for name, dim in (candidates[i] for i in order):
            if len(self.report.outside) >= OUTSIDE:
                break
            size = state[name].shape[dim]
            permutation = torch.roll(torch.arange(size), int(torch.randint(1, size, (), generator=self.generator)))
            image = state[name].index_select(dim, permutation)
            change = self._change(base, self._run(self._with(state, {name: image}), inputs, "outside", base, {name}), {name})
            if change <= self.least_change and (self._influence(name, state, inputs, base) <= self.least_change
                                                or self._merely_added(name, state, image, inputs, base)):
                continue
            change = self._elsewhere(name, change, lambda other, name=name, dim=dim, to=permutation: other[name].index_select(dim, to))  # type: ignore[misc]
            what = f"permuting axis {dim} of {name} alone is outside the group, but changes the outputs by {change:.1e} only"
            if change > self.least_change or certain:
                self.report.outside[f"axis {dim} of {name} alone"] = change
            if change <= self.least_change and certain:
                self._problem(what)
            elif change <= self.least_change:  # nothing says that an axis is fixed for a reason
                self.report.notes.append(f"{what}: the group may be too small")
        if not self.report.outside:
            self.report.notes.append("no permutation outside the group was found to try")

    def _shared(self) -> set[int]:
        """Permutations that move more than one tensor."""
        permutations = [number for number, factor in enumerate(self.group.factors) if factor.kind == "permutation"]
        return {number for number in permutations if len(self.moved_by[number]) > 1}

    def _axes(self) -> tuple[list[tuple[str, int]], bool]:
        """Axes that cannot be permuted alone, as every space along them moves other tensors too; if there are none, fixed axes (False)."""
        # A factor of one stack alone may well permute one of its tensors alone.
        actions = [{self.group.spaces[s].factor for s in self.group.actions[name].spaces()} for name in self.actions]
        shared = {number for number in self._shared() if sum(number in own for own in actions) > 1}
        found, others = [], []
        for key, action in self.group.actions.items():
            name = self.group.members(key)[0]
            lead = len(action.shape) - len(self.group.member_shape(key))
            if name not in self.read:
                continue
            along: list[set[int]] = [set() for _ in action.shape]
            for dims, blocks in action.components:
                for block in blocks:
                    for dim, spaces in zip(dims, block.spaces, strict=True):
                        along[dim] |= {self.group.spaces[s].factor for s in spaces}
            for dim, factors in enumerate(along[lead:]):
                if action.shape[lead + dim] > 1 and factors and factors <= shared:
                    found.append((name, dim))
                elif action.shape[lead + dim] > 1 and not factors - {-1}:
                    others.append((name, dim))
        return (found, True) if found else (others, False)

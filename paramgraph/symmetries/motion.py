"""What the group moves beyond permutations and scales: words of matrices, turns, translations and reflections, applied one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paramgraph.errors import GroupError, StateDictError

if TYPE_CHECKING:
    import torch

    from paramgraph.symmetries.group import SymmetryGroup


@dataclass(frozen=True)
class Motion:
    """A product of elements of the factors in `moves`.

    Attributes:
        group: the group it belongs to.
        steps: `(number of the factor in `moves`, its element)`, the first applied first.
    """

    group: SymmetryGroup
    steps: tuple[tuple[int, torch.Tensor], ...]

    def act(self, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A new state dict with the motion applied; tensors are computed in float64 and rounded to their own type.

        Raises:
            StateDictError: a tensor is missing, has another shape, leaves the range of its type, or holds neither floating-point nor complex numbers.
        """
        moved = self.moved(state_dict)
        left = [name for name, tensor in moved.items() if tensor.device.type != "meta" and not bool(tensor.isfinite().all())]
        if left and all(bool(state_dict[name].isfinite().all()) for name in moved):
            raise StateDictError(f"{left[0]}: what it is moved to leaves the range of {moved[left[0]].dtype}. Draw with a smaller sigma.")
        bases = {name: moved.get(name, tensor).detach().clone() for name, tensor in state_dict.items()}
        aliases = self.group.aliases
        return {name: aliases[name].read(bases) if name in aliases else bases[name] for name in state_dict}

    def moved(self, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors that the motion moves, without a copy of the others; the members of a stack share memory.

        Raises:
            StateDictError: a tensor is missing, has another shape, or holds neither floating-point nor complex numbers.
        """
        import torch

        group = self.group
        names = {name for number, _ in self.steps for name in group.moves[number].tensors}
        read = {name for number, _ in self.steps for name in group.moves[number].read}
        current = {}
        for name in names | read:
            for member in group.members(name):
                if member not in state_dict or tuple(state_dict[member].shape) != group.member_shape(name):
                    raise StateDictError(f"expected a tensor {member!r} of shape {group.member_shape(name)} in the state dict.")
                if not (state_dict[member].is_floating_point() or state_dict[member].is_complex()):
                    raise StateDictError(f"{member}: expected floating-point numbers, got {state_dict[member].dtype}. Convert the tensor first.")
            tensors = [state_dict[member].detach() for member in group.members(name)]
            current[name] = tensors[0] if name not in group.stacks else torch.stack(tensors).reshape(group.actions[name].shape)
        for number, step in self.steps:
            current.update(group.moves[number].act(step, current))
        out: dict[str, torch.Tensor] = {}
        for name in names:
            parts = [current[name]] if name not in group.stacks else current[name].reshape(-1, *group.member_shape(name)).unbind()
            out.update(zip(group.members(name), parts, strict=True))
        return out

    def inverse(self) -> Motion:
        return Motion(self.group, tuple((number, self.group.moves[number].inverse(step)) for number, step in reversed(self.steps)))

    def __matmul__(self, other: Motion) -> Motion:
        """Composition: `(g @ h).act(x) == g.act(h.act(x))`; neighbouring steps of one factor become one."""
        if not isinstance(other, Motion):
            return NotImplemented
        if other.group is not self.group:
            raise GroupError("motions of two different groups cannot be composed: draw both from one graph's symmetry.")
        steps = list(other.steps)
        for number, step in self.steps:
            if steps and steps[-1][0] == number:
                steps[-1] = (number, self.group.moves[number].product(steps[-1][1], step))
            else:
                steps.append((number, step))
        return Motion(self.group, tuple(steps))

    def __str__(self) -> str:
        return f"motion by {len(self.steps)} of {len(self.group.moves)} factors"

    __repr__ = __str__

"""The permutation group of a network: factors, elements, and their action on state dicts.

The group is a product of symmetric groups with dependencies. A factor is a joint space of n elements whose permutation may differ for
each of the m elements of the spaces that it depends on: it contributes S_n^m, and together with what it depends on a wreath product.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.errors import GroupError, StateDictError

if TYPE_CHECKING:
    import torch

    from paramgraph.graph import Alias

Array = np.ndarray


@dataclass(frozen=True)
class IndexSpace:
    """An atomic index space: `size` elements, moved by one factor, or by none where it is pinned.

    Attributes:
        size: number of elements.
        label: where it comes from, for people.
        factor: number of the factor that moves it; -1 where it is pinned.
        cause: why it is pinned; empty where it is free.
    """

    size: int
    label: str
    factor: int = -1
    cause: str = ""

    @property
    def pinned(self) -> bool:
        return self.factor < 0


@dataclass(frozen=True)
class Factor:
    """S_n to the power m: a joint space of n elements, permuted separately for each element of what it depends on.

    Attributes:
        name: for people and for selecting factors.
        spaces: numbers of the index spaces whose product is permuted.
        over: numbers of the index spaces that it depends on.
        size: n.
        copies: m, the product of the sizes of `over`.
        kind: `"permutation"`.
    """

    name: str
    spaces: tuple[int, ...]
    over: tuple[int, ...]
    size: int
    copies: int
    kind: str = "permutation"

    @property
    def log_order(self) -> float:
        """Natural logarithm of (n!)^m."""
        return self.copies * math.lgamma(self.size + 1)

    def __str__(self) -> str:
        power = f"^{self.copies}" if self.copies > 1 else ""
        return f"S_{self.size}{power} on {self.name}"


@dataclass(frozen=True)
class ActionBlock:
    """A part of a tensor (restricted to some dimensions) on which every dimension is a product of index spaces.

    Attributes:
        index: per dimension, the positions of its elements; None for the first ones, in order.
        spaces: per dimension, numbers of its index spaces, row-major.
    """

    index: tuple[Array | None, ...]
    spaces: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TensorAction:
    """How group elements permute one tensor: for each set of dimensions that move together, its blocks.

    Attributes:
        shape: of the tensor.
        components: `(dimensions, blocks)` for each set of coupled dimensions that anything moves.
        unread: flat numbers of elements that no operation reads: they stay where they are.
    """

    shape: tuple[int, ...]
    components: tuple[tuple[tuple[int, ...], tuple[ActionBlock, ...]], ...]
    unread: Array | None = None

    def spaces(self) -> set[int]:
        return {s for _, blocks in self.components for block in blocks for dim in block.spaces for s in dim}


@dataclass(frozen=True)
class SymmetryGroup:
    """The exact group of parameter permutations that leave a network's function unchanged.

    Attributes:
        spaces: the atomic index spaces, numbered.
        factors: the factors, largest order first within what the network's order allows.
        actions: how each base tensor is permuted, by state-dict name; base tensors that are exchanged with others have one action
            together, by the name of their stack.
        aliases: state-dict names that are views of base tensors.
        stacks: state-dict names of tensors that are acted on together, by a name for them all: those of parallel branches, laid side by
            side in row-major order of the action's leading axes.
    """

    spaces: tuple[IndexSpace, ...]
    factors: tuple[Factor, ...]
    actions: Mapping[str, TensorAction]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    stacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def log_order(self) -> float:
        """Natural logarithm of the order of the group: the sum over factors of m · ln n!."""
        return math.fsum(factor.log_order for factor in self.factors)

    def identity(self) -> GroupElement:
        return GroupElement(self, {})

    def sample(
        self,
        seed: int | torch.Generator | None = None,
        factors: Iterable[int | str] | None = None,
        kinds: Iterable[str] | None = None,
    ) -> GroupElement:
        """A uniformly random element.

        Args:
            seed: an integer, a CPU `torch.Generator`, or None for torch's default generator.
            factors: numbers or names of the factors to sample; the others stay the identity. None for all.
            kinds: kinds of factors to sample (`"permutation"`). None for all.

        Raises:
            GroupError: a factor or kind is not in the group.
        """
        import torch

        generator = seed if isinstance(seed, torch.Generator) else None
        if isinstance(seed, int):
            generator = torch.Generator().manual_seed(seed)
        parts: dict[int, Array] = {}
        for number in self.select(factors, kinds):
            factor = self.factors[number]
            noise = torch.rand((factor.copies, factor.size), generator=generator, dtype=torch.float64, device="cpu")
            parts[number] = noise.argsort(dim=1).numpy()
        return GroupElement(self, parts)

    def select(self, factors: Iterable[int | str] | None = None, kinds: Iterable[str] | None = None) -> list[int]:
        """Numbers of the chosen factors."""
        known = {factor.kind for factor in self.factors} | {"permutation"}
        wanted = known if kinds is None else set([kinds] if isinstance(kinds, str) else kinds)
        if not wanted <= known:
            raise GroupError(f"unknown kinds {sorted(wanted - known)}; this group has {sorted(known)}.")
        names: dict[int | str, int | str] = {factor.name: number for number, factor in enumerate(self.factors)}
        chosen = list(range(len(self.factors))) if factors is None else [names.get(f, f) for f in factors]
        for number in chosen:
            if not isinstance(number, int) or not 0 <= number < len(self.factors):
                raise GroupError(f"unknown factor {number!r}: pass a number below {len(self.factors)} or a name from symmetry.factors.")
        return [int(number) for number in chosen if self.factors[int(number)].kind in wanted]

    def members(self, name: str) -> tuple[str, ...]:
        """The state-dict names of the tensors that an action is about: one, or those of a stack."""
        return self.stacks.get(name, (name,))

    def member_shape(self, name: str) -> tuple[int, ...]:
        """The shape of each of those tensors."""
        shape = self.actions[name].shape
        count, lead = len(self.stacks.get(name, ())), 0
        while math.prod(shape[:lead]) < count:
            lead += 1
        return shape[lead:]

    def moved_by(self, number: int) -> list[str]:
        """Names of the tensors that a factor moves."""
        own = set(self.factors[number].spaces)
        return [member for name in self.actions for member in self._moved(name, own)]

    def _moved(self, name: str, spaces: set[int]) -> list[str]:
        """The tensors of one action that some spaces move: of a stack, those in which a block with such a space lies."""
        action, members = self.actions[name], self.members(name)
        lead = action.shape[: len(action.shape) - len(self.member_shape(name))]
        held = np.zeros(lead, dtype=bool)
        for dims, blocks in action.components:
            for block in blocks:
                if not any(s in spaces for dim in block.spaces for s in dim):
                    continue
                inside = []
                for d, n in enumerate(lead):
                    index = block.index[dims.index(d)] if d in dims else None
                    count = math.prod(self.spaces[s].size for s in block.spaces[dims.index(d)]) if d in dims else n
                    inside.append(np.arange(count) if index is None else index)
                held[np.ix_(*inside)] = True
        return [member for member, moves in zip(members, held.reshape(-1).tolist(), strict=True) if moves]

    def __str__(self) -> str:
        head = f"permutation group of ln order {self.log_order:.2f}, {len(self.factors)} factors"
        classes: dict[tuple[int, int], int] = {}
        for factor in self.factors:
            classes[factor.size, factor.copies] = classes.get((factor.size, factor.copies), 0) + 1
        largest = sorted(classes.items(), key=lambda item: -item[1] * item[0][1] * math.lgamma(item[0][0] + 1))
        lines = [
            f"  {times} × S_{size}{f'^{copies}' if copies > 1 else ''}  (ln order {times * copies * math.lgamma(size + 1):.2f})"
            for (size, copies), times in largest[:8]
        ]
        if len(largest) > 8:
            lines.append(f"  … and {len(largest) - 8} more sizes")
        return "\n".join([head, *lines])


@dataclass(frozen=True)
class GroupElement:
    """An element of a symmetry group.

    Attributes:
        group: the group it belongs to.
        parts: per factor number, permutations of shape `(copies, size)`: element j of copy i goes to `part[i, j]` (in the copy that i
            goes to). Factors left out are the identity.
    """

    group: SymmetryGroup
    parts: Mapping[int, Array]

    def act(self, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A new state dict with the element applied; shared parameters are acted on once.

        Args:
            state_dict: tensors under the network's names, of the compiled shapes. Names that belong to no action are copied.

        Raises:
            StateDictError: a tensor of the group is missing or has another shape.
        """
        import torch

        out: dict[str, torch.Tensor] = {}
        for name, action in self.group.actions.items():
            members = self.group.members(name)
            tensors = [self._checked(state_dict, member, self.group.member_shape(name)) for member in members]
            if name not in self.group.stacks:
                out[name] = self._act_on(tensors[0], action)
                continue
            moved = self._act_on(torch.stack(tensors).reshape(action.shape), action).reshape(len(members), *tensors[0].shape)
            out.update((member, part.clone()) for member, part in zip(members, moved.unbind(), strict=True))
        result = {}
        for name, tensor in state_dict.items():
            if name in out:
                result[name] = out[name]
            elif name in self.group.aliases:
                result[name] = self.group.aliases[name].read(out)
            else:
                result[name] = tensor.detach().clone()
        return result

    @staticmethod
    def _checked(state_dict: Mapping[str, torch.Tensor], name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name not in state_dict:
            raise StateDictError(f"expected a tensor {name!r} of shape {shape}; the state dict has none.")
        if tuple(state_dict[name].shape) != shape:
            raise StateDictError(f"{name}: expected shape {shape}, got {tuple(state_dict[name].shape)}.")
        return state_dict[name]

    def _act_on(self, tensor: torch.Tensor, action: TensorAction) -> torch.Tensor:
        import torch

        moved = tensor
        for dims, blocks in action.components:
            source = self.source(action, dims, blocks)
            if source is None:
                continue
            index = torch.from_numpy(source).to(tensor.device)
            if len(dims) == 1:
                moved = moved.index_select(dims[0], index)
                continue
            rest = [d for d in range(tensor.ndim) if d not in dims]
            order = [*dims, *rest]
            front = moved.permute(order)
            flat = front.reshape(len(source), -1).index_select(0, index).reshape(front.shape)
            moved = flat.permute(np.argsort(order).tolist())
        moved = moved.clone() if moved is tensor else moved.contiguous()
        if action.unread is not None:
            unread = torch.from_numpy(action.unread).to(tensor.device)
            moved.view(-1)[unread] = tensor.reshape(-1)[unread]
        return moved

    def source(self, action: TensorAction, dims: tuple[int, ...], blocks: Sequence[ActionBlock]) -> Array | None:
        """For each flat position along `dims`, the position that its new value comes from; None for the identity."""
        touched = {self.group.spaces[s].factor for block in blocks for dim in block.spaces for s in dim}
        if touched.isdisjoint(self.parts):
            return None
        sizes = [action.shape[d] for d in dims]
        source = np.arange(math.prod(sizes))
        for block in blocks:
            images = self.images(block.spaces)
            place, target = np.zeros((), dtype=np.int64), np.zeros((), dtype=np.int64)
            for d, (size, index, image) in enumerate(zip(sizes, block.index, images, strict=True)):
                count = math.prod(self.group.spaces[s].size for s in block.spaces[d])
                here = np.arange(count).reshape([-1 if e == d else 1 for e in range(len(sizes))])
                if index is not None:
                    here, image = index[here], index[image]
                place = place * size + here
                target = target * size + image
            shape = np.broadcast_shapes(place.shape, target.shape)
            source[np.broadcast_to(target, shape).reshape(-1)] = np.broadcast_to(place, shape).reshape(-1)
        return source

    def images(self, dims: Sequence[Sequence[int]]) -> list[Array]:
        """Where the elements of a product of index spaces go.

        Args:
            dims: per dimension, numbers of the spaces whose row-major product indexes it.

        Returns:
            Per dimension, the new index along it, broadcastable over all dimensions.
        """
        spaces = self.group.spaces
        flat = [s for dim in dims for s in dim]
        rank = len(flat)
        coordinate = [np.arange(spaces[s].size).reshape([-1 if e == i else 1 for e in range(rank)]) for i, s in enumerate(flat)]
        place = {s: i for i, s in enumerate(flat)}
        image: list[Array] = list(coordinate)
        for i, s in enumerate(flat):
            number = spaces[s].factor
            part = self.parts.get(number) if number >= 0 else None
            if part is None:
                continue
            factor = self.group.factors[number]
            copy: Array | int = 0
            for other in factor.over:
                copy = copy * spaces[other].size + coordinate[place[other]]
            if factor.spaces == (s,):
                image[i] = part[copy, coordinate[i]]
                continue
            joint: Array | int = 0
            for other in factor.spaces:
                joint = joint * spaces[other].size + coordinate[place[other]]
            new = part[copy, joint]
            after = math.prod(spaces[other].size for other in factor.spaces[factor.spaces.index(s) + 1 :])
            image[i] = new // after % spaces[s].size
        out, start = [], 0
        shape = [math.prod(spaces[s].size for s in dim) for dim in dims]
        for dim in dims:
            index: Array = np.zeros([1] * rank, dtype=np.int64)
            for i in range(start, start + len(dim)):
                index = index * spaces[flat[i]].size + image[i]
            start += len(dim)
            out.append(_collapse(index, dims, [spaces[s].size for s in flat], shape))
        return out

    def permutation_of(self, spaces: Sequence[int]) -> Array:
        """Where the elements of one product of index spaces go, shape `(size,)`; e.g. of a node set's `units`."""
        return self.images([tuple(spaces)])[0].reshape(-1)

    def inverse(self) -> GroupElement:
        parts = {}
        for number, part in self.parts.items():
            factor = self.group.factors[number]
            to = self._copies(factor)
            inverse = np.empty_like(part)
            inverse[to[:, None], part] = np.arange(factor.size)
            parts[number] = inverse
        return GroupElement(self.group, parts)

    def _copies(self, factor: Factor) -> Array:
        """Where the copies of a factor go under this element, shape `(copies,)`."""
        if not factor.over:
            return np.zeros(1, dtype=np.int64)
        return np.broadcast_to(self.permutation_of(factor.over), (factor.copies,))

    def __matmul__(self, other: GroupElement) -> GroupElement:
        """Composition: `(g @ h).act(x) == g.act(h.act(x))`."""
        if not isinstance(other, GroupElement):
            return NotImplemented
        if other.group is not self.group:
            raise GroupError("elements of two different groups cannot be composed: sample both from one graph's symmetry.")
        parts = {}
        for number in {*self.parts, *other.parts}:
            factor = self.group.factors[number]
            plain = np.broadcast_to(np.arange(factor.size), (factor.copies, factor.size))
            first, second = other.parts.get(number, plain), self.parts.get(number, plain)
            parts[number] = np.take_along_axis(second[other._copies(factor)], first, axis=1)
        return GroupElement(self.group, parts)

    def is_identity(self) -> bool:
        return all((part == np.arange(part.shape[1])).all() for part in self.parts.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GroupElement) or other.group is not self.group:
            return NotImplemented
        return (self @ other.inverse()).is_identity()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        moved = sum(not (part == np.arange(part.shape[1])).all() for part in self.parts.values())
        return f"group element that moves {moved} of {len(self.group.factors)} factors"

    __repr__ = __str__


def _collapse(index: Array, dims: Sequence[Sequence[int]], sizes: Sequence[int], shape: Sequence[int]) -> Array:
    """Merge the axes of each dimension; dimensions that the index does not vary over stay of size 1."""
    out, start = [], 0
    target = list(index.shape)
    for dim in dims:
        span = range(start, start + len(dim))
        varies = any(index.shape[i] != 1 for i in span)
        for i in span:
            target[i] = sizes[i] if varies else 1
        out.append(math.prod(sizes[i] for i in span) if varies else 1)
        start += len(dim)
    return np.broadcast_to(index, target).reshape(out)

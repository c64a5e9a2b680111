"""Elements of a symmetry group: how they act, compose and invert."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from paramgraph.errors import GroupError, StateDictError
from paramgraph.symmetries.action import ActionBlock, Array, Factor, TensorAction

if TYPE_CHECKING:
    import torch

    from paramgraph.symmetries.acting import Multipliers
    from paramgraph.symmetries.group import SymmetryGroup
    from paramgraph.symmetries.multipliers import Multiplied

# Tables of a factor's scales or signs, one per variable.
Tables = tuple[Array, ...]
Part = Array | Tables

# Logarithms of magnitudes that differ by less are the same.
SAME = 1e-9
# An element that multiplies less than one tensor in so many is not laid out for all.
FEW = 4


@dataclass(frozen=True)
class GroupElement:
    """An element of a symmetry group.

    Attributes:
        group: the group it belongs to.
        parts: per factor number, permutations of shape `(copies, size)`: element j of copy i goes to `part[i, j]` (in the copy that i
            goes to); for scales and signs, a table per variable. Factors left out are the identity.
    """

    group: SymmetryGroup
    parts: Mapping[int, Part]

    @classmethod
    def of_tables(cls, group: SymmetryGroup, tables: Mapping[int, Array]) -> GroupElement:
        """The scales and signs with these tables, by variable."""
        parts: dict[int, Part] = {}
        for number, factor in enumerate(group.factors if tables else ()):
            if factor.kind != "permutation" and any(v in tables for v in factor.variables):
                empty = bool if factor.kind == "sign" else np.float64
                own = [(v, group.scales.variables[v].shape) for v in factor.variables]
                parts[number] = tuple(tables[v] if v in tables else np.zeros(shape, dtype=empty) for v, shape in own)
        return cls(group, parts)

    @cached_property
    def permutations(self) -> dict[int, Array]:
        """The parts that are permutations."""
        return {number: part for number, part in self.parts.items() if not isinstance(part, tuple)}

    @cached_property
    def tables(self) -> dict[int, Array]:
        """Tables of the scales and signs, by variable: logarithms of magnitudes, and which signs are negative."""
        out: dict[int, Array] = {}
        for number, part in self.parts.items():
            if isinstance(part, tuple):
                out.update(zip(self.group.factor(number).variables, part, strict=True))
        return out

    def act(self, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A new state dict with the element applied; shared parameters are acted on once.

        Args:
            state_dict: tensors under the network's names, of the compiled shapes. Names that belong to no action are copied.

        Raises:
            StateDictError: a tensor of the group is missing or has another shape.
        """
        import torch

        out: dict[str, torch.Tensor] = {}
        single = {}
        for name, action in self.group.actions.items():
            members = self.group.members(name)
            tensors = [self._checked(state_dict, member, self.group.member_shape(name)) for member in members]
            if name not in self.group.stacks:
                single[name] = tensors[0]
                continue
            moved = self._act_on(name, torch.stack(tensors).reshape(action.shape), action).reshape(len(members), *tensors[0].shape)
            out.update((member, part.clone()) for member, part in zip(members, moved.unbind(), strict=True))
        out.update(self.act_on(single))
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

    def act_on(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The action on some tensors alone, by the names of the actions: base tensors, and stacks of them in one tensor each."""
        from paramgraph.symmetries.vectors import act_on_vectors

        together = act_on_vectors(self, tensors)
        alone = {name: self._act_on(name, tensor, self.group.actions[name]) for name, tensor in tensors.items() if name not in together}
        return {name: together[name] if name in together else alone[name] for name in tensors}

    def act_on_rows(self, name: str, rows: torch.Tensor, read: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor | None:
        """Some rows of what the action makes of one tensor; None where no row is made of one row, and the whole must be acted on.

        Args:
            name: of the action.
            rows: numbers of the rows, along the first axis.
            read: gives rows of the tensor by their numbers.
        """
        import torch

        from paramgraph.symmetries.acting import acted, multipliers_of_rows

        action = self.group.actions[name]
        sources = self.sources(action)
        if action.unread is not None or not action.shape or any(0 in dims and len(dims) > 1 for dims, _ in sources):
            return None
        first = next((source for dims, source in sources if dims == (0,)), None)
        tensor = read(rows if first is None else torch.from_numpy(first)[rows])
        arrays, parts = self.multiplying(name, tensor.dtype)
        inner = [(dims, source) for dims, source in sources if dims != (0,)]
        return acted(name, tensor, inner, *multipliers_of_rows(arrays, parts, rows, action.shape[0]))

    def _act_on(self, name: str, tensor: torch.Tensor, action: TensorAction) -> torch.Tensor:
        import torch

        from paramgraph.symmetries.acting import acted

        out = acted(name, tensor, self.sources(action), *self.multiplying(name, tensor.dtype))
        if action.unread is not None:
            unread = torch.from_numpy(action.unread).to(tensor.device)
            out.view(-1)[unread] = tensor.reshape(-1)[unread]
        return out

    def multiplying(self, name: str, dtype: torch.dtype) -> tuple[Sequence[torch.Tensor], Sequence[Multipliers]]:
        """What multiplies a tensor of some type: arrays, and multipliers of parts of it."""
        from paramgraph.symmetries.acting import computed_in, out_of_range

        if not self.tables:
            return (), ()
        if self._is_restricted:
            return (), self.group.scales.multipliers(name, self.tables)
        multiplied = self._multiplied(computed_in(dtype))
        if name in multiplied.beyond:
            raise out_of_range(name, dtype)
        parts = self.group.scales.multipliers(name, self.tables) if name in self.group.multipliers.wide else ()
        return multiplied.arrays.get(name, ()), parts

    @cached_property
    def _is_restricted(self) -> bool:
        """Whether few tensors are multiplied, by the group or by this element: then what multiplies each is computed by itself."""
        scales = self.group.scales
        if len(self.tables) * FEW <= len(scales.variables):
            touched = {name for v in self.tables for name in scales.tensors.get(v, ())}
            if len(touched) * FEW <= len(scales.blocks):
                return True
        return 2 * sum(name in self.group.actions for name in scales.blocks) < len(scales.blocks)

    def _multiplied(self, dtype: torch.dtype) -> Multiplied:
        """What multiplies all tensors, in one type; computed once."""
        if dtype not in self._arrays:
            self._arrays[dtype] = self.group.multipliers.of(self.tables, dtype)
        return self._arrays[dtype]

    @cached_property
    def _arrays(self) -> dict[torch.dtype, Multiplied]:
        return {}

    def sources(self, action: TensorAction) -> list[tuple[tuple[int, ...], Array]]:
        """For each set of a tensor's dimensions that are permuted, the flat position along them that each new value comes from."""
        out = []
        for dims, blocks in action.components:
            key = (id(blocks), tuple(action.shape[d] for d in dims))  # tensors with the same dimensions share their blocks
            if key not in self._sources:
                self._sources[key] = [(own, self.source(action, tuple(dims[i] for i in own), part)) for own, part in self._apart(blocks, key[1])]
            out += [(tuple(dims[i] for i in own), source) for own, source in self._sources[key] if source is not None]
        return out

    @cached_property
    def _sources(self) -> dict[tuple[int, tuple[int, ...]], list[tuple[tuple[int, ...], Array | None]]]:
        return {}

    def _apart(self, blocks: Sequence[ActionBlock], sizes: tuple[int, ...]) -> list[tuple[tuple[int, ...], Sequence[ActionBlock]]]:
        """Blocks as those of sets of their dimensions: one that all blocks have whole, and that nothing else depends on, moves by itself."""
        rank = len(sizes)
        covered = sum(math.prod(self.group.spaces[s].size for spaces in block.spaces for s in spaces) for block in blocks)
        alone = [d for d in range(rank) if rank > 1 and covered == math.prod(sizes) and self._is_apart(blocks, d)]
        rest = tuple(d for d in range(rank) if d not in alone)
        out: list[tuple[tuple[int, ...], Sequence[ActionBlock]]] = [
            ((d,), [ActionBlock((None,), (blocks[0].spaces[d],))]) for d in alone
        ]
        if rest:
            out.append((rest, [ActionBlock(tuple(b.index[d] for d in rest), tuple(b.spaces[d] for d in rest)) for b in blocks]))
        return out

    def _is_apart(self, blocks: Sequence[ActionBlock], d: int) -> bool:
        own = set(blocks[0].spaces[d])
        if any(block.index[d] is not None or block.spaces[d] != blocks[0].spaces[d] for block in blocks):
            return False
        others = {s for block in blocks for e, spaces in enumerate(block.spaces) if e != d for s in spaces}
        return all(self._needed(s) <= own for s in own) and all(self._needed(s).isdisjoint(own) for s in others)

    def _needed(self, space: int) -> set[int]:
        """A space and all that must be known to say where its elements go."""
        number = self.group.spaces[space].factor
        return {space} if number < 0 else {space, *self.group.factor(number).spaces, *self.group.factor(number).over}

    def source(self, action: TensorAction, dims: tuple[int, ...], blocks: Sequence[ActionBlock]) -> Array | None:
        """For each flat position along `dims`, the position that its new value comes from; None for the identity."""
        touched = {self.group.spaces[s].factor for block in blocks for dim in block.spaces for s in dim}
        if touched.isdisjoint(self.permutations):
            return None
        sizes = [action.shape[d] for d in dims]
        source = np.arange(math.prod(sizes))
        for block in blocks:
            if len(dims) == 1 and self._is_still(block):
                continue
            images = self.images(block.spaces)
            if len(dims) == 1:
                (image,), (index,) = images, block.index
                source[image if index is None else index[image]] = np.arange(len(image)) if index is None else index
                continue
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

    def _is_still(self, block: ActionBlock) -> bool:
        """Whether nothing moves the elements of a block."""
        return all([self.group.spaces[s].factor not in self.permutations for spaces in block.spaces for s in spaces])

    def images(self, dims: Sequence[Sequence[int]]) -> list[Array]:
        """Where the elements of a product of index spaces go.

        Args:
            dims: per dimension, numbers of the spaces whose row-major product indexes it.

        Returns:
            Per dimension, the new index along it, broadcastable over all dimensions.
        """
        spaces = self.group.spaces
        flat = [s for dim in dims for s in dim]
        if len(flat) == 1 == len(dims):  # by far the most
            alone = self.permutations.get(spaces[flat[0]].factor)
            if alone is None:
                return [np.arange(spaces[flat[0]].size)]
            if len(alone) == 1 and self.group.factor(spaces[flat[0]].factor).spaces == (flat[0],):
                return [alone[0]]
        rank = len(flat)
        coordinate = [np.arange(spaces[s].size).reshape([-1 if e == i else 1 for e in range(rank)]) for i, s in enumerate(flat)]
        place = {s: i for i, s in enumerate(flat)}
        image: list[Array] = list(coordinate)
        for i, s in enumerate(flat):
            number = spaces[s].factor
            part = self.permutations.get(number) if number >= 0 else None
            if part is None:
                continue
            factor = self.group.factor(number)
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
        parts: dict[int, Part] = {}
        for number, part in self.permutations.items():
            factor = self.group.factor(number)
            to = self._copies(factor)
            inverse = np.empty_like(part)
            inverse[to[:, None], part] = np.arange(factor.size)
            parts[number] = inverse
        back = GroupElement(self.group, parts)
        tables = {v: table if table.dtype == bool else -table for v, table in self.tables.items()}
        return GroupElement(self.group, {**parts, **self.of_tables(self.group, back._moved(tables)).parts})

    def _moved(self, tables: Mapping[int, Array]) -> Mapping[int, Array]:
        """Tables where this element's permutation takes them: each multiplier goes with its parameter."""
        return self.group.scales.moved(tables, self._come_from) if tables and self.permutations else tables

    def _come_from(self, name: str, coordinates: Sequence[Array]) -> Sequence[Array]:
        """The elements of a tensor that the permutation puts at the given places."""
        action = self.group.actions[name]
        out = list(coordinates)
        for dims, source in self.sources(action):
            sizes = [action.shape[d] for d in dims]
            flat = source[np.ravel_multi_index([coordinates[d] for d in dims], sizes)]
            for d, where in zip(dims, np.unravel_index(flat, sizes), strict=True):
                out[d] = where
        return out

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
        parts: dict[int, Part] = {}
        for number in {*self.permutations, *other.permutations}:
            factor = self.group.factor(number)
            plain = np.broadcast_to(np.arange(factor.size), (factor.copies, factor.size))
            first, second = other.permutations.get(number, plain), self.permutations.get(number, plain)
            parts[number] = np.take_along_axis(second[other._copies(factor)], first, axis=1)
        tables = dict(self._moved(other.tables))
        for variable, table in self.tables.items():
            known = tables.get(variable)
            tables[variable] = table if known is None else table ^ known if table.dtype == bool else table + known
        return GroupElement(self.group, {**parts, **self.of_tables(self.group, tables).parts})

    def is_identity(self) -> bool:
        """Whether nothing is permuted, no sign changed, and no magnitude changed by more than rounding errors."""
        still = all((part == np.arange(part.shape[1])).all() for part in self.permutations.values())
        return still and not any((np.abs(table) > SAME if table.dtype != bool else table).any() for table in self.tables.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GroupElement) or other.group is not self.group:
            return NotImplemented
        return (self @ other.inverse()).is_identity()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        moved = sum(not GroupElement(self.group, {number: part}).is_identity() for number, part in self.parts.items())
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

"""The symmetry group of a network: factors, elements, and their action on state dicts.

The permutations are a product of symmetric groups with dependencies. A factor is a joint space of n elements whose permutation may differ
for each of the m elements of the spaces that it depends on: it contributes S_n^m, and together with what it depends on a wreath product.

Scales and signs (`paramgraph.symmetries.scales`) are permuted by the permutations: the group is the semidirect product of the two. An
element (π, s) first permutes, then scales: (π₁, s₁)(π₂, s₂) = (π₁π₂, s₁ · π₁▷s₂).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from paramgraph.errors import GroupError
from paramgraph.graph import Diagnostic
from paramgraph.symmetries.action import ActionBlock, Array, Factor, IndexSpace, TensorAction
from paramgraph.symmetries.affine_scales import AffineScaleFactor
from paramgraph.symmetries.commuting import CommutingFactor
from paramgraph.symmetries.element import GroupElement, Part, Tables
from paramgraph.symmetries.matrices import MatrixFactor
from paramgraph.symmetries.motion import Motion
from paramgraph.symmetries.multipliers import Multipliers
from paramgraph.symmetries.offsets import OffsetFactor
from paramgraph.symmetries.orientations import OrientationFactor
from paramgraph.symmetries.phases import PhaseFactor
from paramgraph.symmetries.readers import ReadOffsetFactor
from paramgraph.symmetries.reflections import ReflectionFactor
from paramgraph.symmetries.rotations import RotationFactor
from paramgraph.symmetries.scales import Scales, drawn
from paramgraph.symmetries.statistics import CentreFactor, SpreadFactor
from paramgraph.symmetries.translations import TranslationFactor
from paramgraph.symmetries.vanishing import VanishingFactor

if TYPE_CHECKING:
    import torch

    from paramgraph.graph import Alias

__all__ = ["ActionBlock", "Factor", "GroupElement", "IndexSpace", "SymmetryGroup", "TensorAction"]

KINDS = ("permutation", "scale", "sign")
# Kinds that `move` draws.
MOVES = frozenset("matrix turn translation reflection phase".split())
# Default standard deviation of the logarithm of a sampled magnitude.
SIGMA = 0.5
# Factors whose elements `move` draws.
Moving = (
    MatrixFactor | CommutingFactor | RotationFactor | TranslationFactor | OffsetFactor | ReadOffsetFactor | SpreadFactor | CentreFactor
    | VanishingFactor | AffineScaleFactor | ReflectionFactor | PhaseFactor | OrientationFactor
)  # fmt: skip
# Matrix groups and translations, and what could not be searched for.
Moves = tuple[tuple[Moving, ...], tuple[Diagnostic, ...]]
# What scale typing gives: variables and characters, their factors, and what finds matrix groups and translations.
Scaling = tuple[Scales, tuple[Factor, ...], Callable[[], Moves]]


@dataclass(frozen=True)
class SymmetryGroup:
    """The exact group of permutations, scales and signs of parameters that leave a network's function unchanged.

    Attributes:
        spaces: the atomic index spaces, numbered.
        factors: the factors: permutations, then scales and signs.
        actions: how each base tensor is permuted, by state-dict name; base tensors that are exchanged with others have one action
            together, by the name of their stack.
        aliases: state-dict names that are views of base tensors.
        stacks: state-dict names of tensors that are acted on together, by a name for them all: those of parallel branches, laid side by
            side in row-major order of the action's leading axes.
        scales: the variables of scales and signs, and the characters of the tensors that they scale, by the names of the actions.
        moves: matrix groups, which hold some of the scales and permutations, and translations: elements of them are drawn by `move`.
    """

    spaces: tuple[IndexSpace, ...]
    factors: tuple[Factor, ...]
    actions: Mapping[str, TensorAction]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    stacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scales: Scales = field(default_factory=Scales)
    moves: tuple[Moving, ...] = field(default_factory=tuple)

    @classmethod
    def deferred(
        cls,
        spaces: tuple[IndexSpace, ...],
        permuting: tuple[Factor, ...],
        actions: Mapping[str, TensorAction],
        aliases: Mapping[str, Alias],
        stacks: Mapping[str, tuple[str, ...]],
        solve: Callable[[SymmetryGroup], Scaling],
    ) -> SymmetryGroup:
        """A group whose scales and signs are solved for when they are first asked for: permutations need none of them.

        Args:
            spaces: as of the group.
            permuting: the factors that are permutations.
            actions: as of the group.
            aliases: as of the group.
            stacks: as of the group.
            solve: gives the scales and their factors, from the group of permutations; called once at most.
        """
        group = object.__new__(cls)
        group.__dict__.update(spaces=spaces, actions=actions, aliases=aliases, stacks=stacks, permuting=permuting, _solve=solve)
        return group

    if not TYPE_CHECKING:  # the fields that a deferred group lacks at first

        def __getattr__(self, name: str) -> Any:
            if name in ("factors", "scales") and "_solve" in self.__dict__:
                permutations = SymmetryGroup(self.spaces, self.permuting, self.actions, self.aliases, self.stacks)
                scales, scaling, find = self.__dict__["_solve"](permutations)
                self.__dict__.update(factors=(*self.permuting, *scaling), scales=scales, _find=find)
                del self.__dict__["_solve"]
            elif name == "moves" and {"_solve", "_find"} & self.__dict__.keys():
                self.__dict__["moves"] = self._found()
            if name not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return self.__dict__[name]

    def _found(self) -> tuple[Moving, ...]:
        """Matrix groups and translations. What could not be searched for is said beside what scales could not be typed through."""
        scales = self.scales
        found, said = self.__dict__.pop("_find")()
        if said:
            self.__dict__["scales"] = replace(scales, diagnostics=(*scales.diagnostics, *said))
        return found

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes: what is deferred is solved."""
        held = {"scales": self.scales, "moves": self.moves, **self.__dict__}
        held.pop("multipliers", None)
        held.pop("_named", None)
        held.pop("action_of", None)
        return held

    @property
    def is_solved(self) -> bool:
        """Whether scales and signs are known; they are solved for when first asked for."""
        return "_solve" not in self.__dict__

    @cached_property
    def permuting(self) -> tuple[Factor, ...]:
        """The factors that are permutations: the first ones."""
        return tuple(factor for factor in self.factors if factor.kind == "permutation")

    def factor(self, number: int) -> Factor:
        """A factor by its number."""
        return self.factors[number] if self.is_solved or number >= len(self.permuting) else self.permuting[number]

    @cached_property
    def multipliers(self) -> Multipliers:
        """What computes the multipliers of all tensors from tables."""
        return Multipliers(self.scales, {name: action.shape for name, action in self.actions.items()})

    @cached_property
    def log_order(self) -> float:
        """Natural logarithm of the order of the group of permutations: the sum over factors of m · ln n!."""
        return math.fsum(factor.log_order for factor in self.permuting)

    @cached_property
    def dimension(self) -> int:
        """Dimension of the group of magnitudes."""
        return sum(factor.size for factor in self.factors if factor.kind == "scale")

    @cached_property
    def num_signs(self) -> int:
        """Number of independent signs."""
        return sum(factor.size for factor in self.factors if factor.kind == "sign")

    def identity(self) -> GroupElement:
        return GroupElement(self, {})

    def sample(
        self,
        seed: int | torch.Generator | None = None,
        factors: Iterable[int | str] | None = None,
        kinds: Iterable[str] | None = None,
        sigma: float = SIGMA,
    ) -> GroupElement:
        """A random element: uniform permutations and signs, and magnitudes whose logarithms are normal.

        By default every factor of every kind is drawn: a random element is one of the whole group. Metanets that are equivariant under
        permutations only need `kinds=["permutation"]`.

        Matrices and translations are drawn by `move`. An element here is a permutation and multipliers: two are equal if these are. Matrix
        groups hold permutations and scales of their own space, so that one with matrices as well could be written in several ways, and equality
        could not be read from its parts. Apply one after the other: `move(0).act(sample(0).act(state))`.

        Args:
            seed: an integer, a CPU `torch.Generator`, or None for torch's default generator.
            factors: numbers or names of the factors to sample; the others stay the identity. None for all.
            kinds: kinds of factors to sample (`"permutation"`, `"scale"`, `"sign"`). None for all.
            sigma: standard deviation of the logarithm of a magnitude.

        Raises:
            GroupError: a factor or kind is not in the group.
        """
        import torch

        generator = _generator(seed)
        parts: dict[int, Part] = {}
        for number in self.select(factors, kinds):
            factor = self.factor(number)
            if factor.kind != "permutation":
                parts[number] = self._draw(factor, generator, sigma)
                continue
            noise = torch.rand((factor.copies, factor.size), generator=generator, dtype=torch.float64, device="cpu")
            parts[number] = noise.argsort(dim=1).numpy()
        return GroupElement(self, parts)

    def move(
        self, seed: int | torch.Generator | None = None, factors: Iterable[int] | None = None, sigma: float = SIGMA
    ) -> Motion:
        """A random product of elements of `moves`: matrices with normal logarithms of singular values, normal translations, random signs and turns.

        Args:
            seed: as of `sample`.
            factors: numbers of factors in `moves`; None for all.
            sigma: standard deviation of the logarithm of a singular value, and of what is added.

        Raises:
            GroupError: a factor is not in the group.
        """
        generator = _generator(seed)
        chosen = list(range(len(self.moves)) if factors is None else factors)
        for number in chosen:
            if not isinstance(number, (int, np.integer)) or not 0 <= number < len(self.moves):
                raise GroupError(f"unknown factor {number!r} of symmetry.moves: pass numbers below {len(self.moves)}.")
        return Motion(self, tuple((number, self.moves[number].draw(generator, sigma)) for number in chosen))

    def _draw(self, factor: Factor, generator: torch.Generator | None, sigma: float) -> Tables:
        import torch

        def draw(shape: tuple[int, ...]) -> Array:
            if factor.kind == "sign":
                return torch.randint(0, 2, shape, generator=generator).numpy().astype(bool)
            return torch.randn(shape, generator=generator, dtype=torch.float64).numpy() * sigma

        return tuple(drawn([self.scales.variables[number] for number in factor.variables], draw))

    def select(self, factors: Iterable[int | str] | None = None, kinds: Iterable[str] | None = None) -> list[int]:
        """Numbers of the chosen factors."""
        wanted = set(KINDS) if kinds is None else set([kinds] if isinstance(kinds, str) else kinds)
        if not wanted.isdisjoint(MOVES):
            raise GroupError(f"expected some of {', '.join(KINDS)}, got {', '.join(sorted(wanted & MOVES))}: these are drawn by symmetry.move().")
        if not wanted <= set(KINDS):
            raise GroupError(f"unknown kinds {sorted(wanted - set(KINDS))}: expected some of {', '.join(KINDS)}.")
        listed = None if factors is None else list(factors)
        known, names = self.permuting, self._names(len(self.permuting))
        if wanted != {"permutation"} if listed is None else any(f not in names and f not in range(len(known)) for f in listed):
            known = self.factors
            names = self._names(len(known))
        chosen = list(range(len(known))) if listed is None else [names.get(f, f) for f in listed]
        for number in chosen:
            if not isinstance(number, int) or not 0 <= number < len(known):
                raise GroupError(f"unknown factor {number!r}: pass a number below {len(known)} or a name from symmetry.factors.")
        return [int(number) for number in chosen if known[int(number)].kind in wanted]

    def _names(self, count: int) -> Mapping[int | str, int | str]:
        """Numbers of the first factors by their names; the permutations among them do not ask for the others to be solved for."""
        if count not in self._named:
            known = self.permuting if count == len(self.permuting) else self.factors
            self._named[count] = {factor.name: number for number, factor in enumerate(known)}
        return self._named[count]

    @cached_property
    def _named(self) -> dict[int, Mapping[int | str, int | str]]:
        return {}

    def subgroup(self, kinds: Iterable[str]) -> SymmetryGroup:
        """The subgroup whose factors are of the given kinds only.

        Raises:
            GroupError: a kind is not known.
        """
        chosen = self.select(kinds=kinds)
        number = {old: new for new, old in enumerate(chosen)}
        spaces = tuple(
            space if space.pinned or space.factor in number else replace(space, factor=-1, cause="permutations are left out")
            for space in self.spaces
        )
        spaces = tuple(space if space.pinned else replace(space, factor=number[space.factor]) for space in spaces)
        factors = tuple(self.factor(old) for old in chosen)
        scales = self.scales if any(factor.variables for factor in factors) else Scales()
        return SymmetryGroup(spaces, factors, self.actions, self.aliases, self.stacks, scales)

    def members(self, name: str) -> tuple[str, ...]:
        """The state-dict names of the tensors that an action is about: one, or those of a stack."""
        return self.stacks.get(name, (name,))

    @cached_property
    def action_of(self) -> Mapping[str, str]:
        """Per state-dict name, the action that is about it."""
        return {member: name for name in self.actions for member in self.members(name)}

    def member_shape(self, name: str) -> tuple[int, ...]:
        """The shape of each of those tensors."""
        shape = self.actions[name].shape
        count, lead = len(self.stacks.get(name, ())), 0
        while math.prod(shape[:lead]) < count:
            lead += 1
        return shape[lead:]

    def moved_by(self, number: int) -> list[str]:
        """Names of the tensors that a factor moves."""
        return [member for name in self.acted_on_by(number) for member in self._moved(name, self.factor(number))]

    def acted_on_by(self, number: int) -> list[str]:
        """Names of the actions that a factor takes part in: those of tensors, and of stacks of them."""
        factor = self.factor(number)
        if factor.kind != "permutation":
            found = {name for variable in factor.variables for name in self.scales.tensors.get(variable, ())}
            return [name for name in self.actions if name in found]
        own = set(factor.spaces)
        return [name for name, action in self.actions.items() if action.spaces() & own]

    def _moved(self, name: str, factor: Factor) -> list[str]:
        """The tensors of one action that a factor moves: of a stack, those in which a block that it moves lies."""
        members = self.members(name)
        if len(members) == 1:
            return list(members)
        lead = self.actions[name].shape[: len(self.actions[name].shape) - len(self.member_shape(name))]
        held = np.zeros(lead, dtype=bool)
        for positions in self._boxes(name, factor):
            held[np.ix_(*(np.arange(n) if where is None else where for where, n in zip(positions, lead, strict=False)))] = True
        return [member for member, moves in zip(members, held.reshape(-1).tolist(), strict=True) if moves]

    def _boxes(self, name: str, factor: Factor) -> Iterator[list[Array | None]]:
        """The blocks of a tensor that a factor moves, as positions along each axis; None for all."""
        action = self.actions[name]
        if factor.kind != "permutation":
            own = set(factor.variables)
            for scaled in self.scales.blocks[name]:
                if any(v in own for term in scaled.terms for v in term.variables):
                    yield list(scaled.index)
            return
        spaces = set(factor.spaces)
        for dims, blocks in action.components:
            for block in blocks:
                if not any(s in spaces for dim in block.spaces for s in dim):
                    continue
                out: list[Array | None] = [None] * len(action.shape)
                for d, index, held in zip(dims, block.index, block.spaces, strict=True):
                    out[d] = np.arange(math.prod(self.spaces[s].size for s in held)) if index is None else index
                yield out

    def __str__(self) -> str:
        """A few lines; matrix groups and translations once `moves` has been asked for."""
        head = f"permutation group of ln order {self.log_order:.2f}, {len(self.permuting)} factors"
        classes: dict[tuple[int, int], int] = {}
        for factor in self.permuting:
            classes[factor.size, factor.copies] = classes.get((factor.size, factor.copies), 0) + 1
        largest = sorted(classes.items(), key=lambda item: -item[1] * item[0][1] * math.lgamma(item[0][0] + 1))
        lines = [
            f"  {times} × S_{size}{f'^{copies}' if copies > 1 else ''}  (ln order {times * copies * math.lgamma(size + 1):.2f})"
            for (size, copies), times in largest[:8]
        ]
        if len(largest) > 8:
            lines.append(f"  … and {len(largest) - 8} more sizes")
        if self.dimension or self.num_signs:
            lines.append(f"scale group of {self.dimension:,} magnitudes and {self.num_signs:,} signs")
        if self.scales.approximate:
            lines.append(f"  ({self.scales.approximate:,} more magnitudes hold approximately: they are not in the group)")
        if "moves" in self.__dict__:  # the search takes longer than printing should: it is made when they are asked for
            lines += self._moves_said()
        if self.scales.diagnostics:
            lines.append(f"  ({len(self.scales.diagnostics):,} operations pass no scales: symmetry.scales.diagnostics)")
        return "\n".join([head, *lines])

    def _moves_said(self) -> list[str]:
        """Matrix groups, translations and reflections, for people: of each kind the sizes, largest first."""
        matrices: dict[tuple[int, int], int] = {}
        for factor in self.moves:
            if isinstance(factor, MatrixFactor):
                matrices[factor.size, factor.copies] = matrices.get((factor.size, factor.copies), 0) + 1
        largest = sorted(matrices.items(), key=lambda item: -item[1] * item[0][1] * item[0][0] ** 2)
        lines = []
        if matrices:
            total = sum(factor.dimension for factor in self.moves if isinstance(factor, MatrixFactor))
            shown = [f"{times} × GL({size}){f'^{copies}' if copies > 1 else ''}" for (size, copies), times in largest[:8]]
            lines.append(f"matrix groups of {total:,} dimensions: {', '.join(shown)}{', …' if len(largest) > 8 else ''}")
        commuting = [factor for factor in self.moves if isinstance(factor, CommutingFactor)]
        if commuting:
            kinds = sorted({str(factor).partition(":")[0].partition("^")[0] for factor in commuting})
            lines.append(f"matrices that commute with fixed ones, of {sum(f.dimension for f in commuting):,} dimensions: {', '.join(kinds)}")
        turned = [factor for factor in self.moves if isinstance(factor, RotationFactor)]
        if turned:
            groups = ", ".join(f"O({factor.free})" for factor in turned[:8])
            lines.append(f"turns of streams, of {sum(f.dimension for f in turned):,} dimensions: {groups}{', …' if len(turned) > 8 else ''}")
        kinds_added = (TranslationFactor, OffsetFactor, ReadOffsetFactor, CentreFactor, VanishingFactor)
        added = [factor.dimension for factor in self.moves if isinstance(factor, kinds_added)]
        if added:
            lines.append(f"translations of {sum(added):,} dimensions, in {len(added):,} factors")
        spreads = [factor.dimension for factor in self.moves if isinstance(factor, SpreadFactor)]
        if spreads:
            lines.append(f"deviations of running variances with their gains, of {sum(spreads):,} dimensions, in {len(spreads):,} factors")
        shifted = [factor.dimension for factor in self.moves if isinstance(factor, AffineScaleFactor)]
        if shifted:
            lines.append(f"scales of what is made of parameters, of {sum(shifted):,} dimensions, in {len(shifted):,} factors")
        signs = [factor.size for factor in self.moves if isinstance(factor, ReflectionFactor)]
        if signs:
            lines.append(f"reflections of {sum(signs):,} units, in {len(signs):,} factors")
        phases = [factor.size for factor in self.moves if isinstance(factor, PhaseFactor)]
        if phases:
            lines.append(f"phase shifts of {sum(phases):,} units, in {len(phases):,} factors")
        oriented = [factor.size for factor in self.moves if isinstance(factor, OrientationFactor)]
        if oriented:
            lines.append(f"orientations of {sum(oriented):,} filters, in {len(oriented):,} factors")
        return lines


def _generator(seed: int | torch.Generator | None) -> torch.Generator | None:
    """Where random numbers come from; None for torch's default generator."""
    import torch

    if isinstance(seed, int):
        return torch.Generator().manual_seed(seed)
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    raise GroupError(f"seed: expected an integer, a torch.Generator or None, got {seed!r}.")

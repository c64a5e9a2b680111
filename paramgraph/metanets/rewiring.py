"""A parameter graph as ScaleGMN needs it: nodes with a potential each, and edges that carry a state from one potential to another.

The state of node i is multiplied by q_i when the parameters are scaled; what multiplies all nodes of a set is the set's *potential*. An
edge *transports* if its value is multiplied by q_i / q_j (or by the inverse): then value times state at j is multiplied by q_i. Potentials
follow from the characters of parameters, from the inputs on. A normalisation has one potential before its gain and another after it: its node
set is doubled, and the gain becomes an edge between the two. Which potentials are chosen changes what a metanet can see, never its
exactness: edges that do not transport are read through invariants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from paramgraph.graph import EdgeSet, NodeSet, ParamGraph
from paramgraph.metanets.fingerprints import Character, Domain, Fingerprints, trivial
from paramgraph.metanets.structure import Structure

Transport = Literal["direct", "inverse", "none"]
# Node sets have at most so many potentials.
MOST_COPIES = 4


@dataclass(frozen=True)
class EdgeKind:
    """How an edge set takes part.

    Attributes:
        transport: `"direct"`: values are multiplied by q_i / q_j; `"inverse"`: by q_j / q_i; `"none"`: by something else.
        edge: by what the values are multiplied.
        source: by what the states at sources are.
        target: by what the states at targets are.
        ragged: whether positions of one node pair have different multipliers; then only invariants of single values are read.
    """

    transport: Transport
    edge: Domain
    source: Domain
    target: Domain
    ragged: bool = False


@dataclass(frozen=True)
class ScaledNodeSet(NodeSet):
    """A node set whose states have one potential.

    Attributes:
        domain: by what the states are multiplied.
    """

    domain: Domain = Domain()


@dataclass(frozen=True)
class ScaledEdgeSet(EdgeSet):
    """An edge set with its kind."""

    kind: EdgeKind = EdgeKind("direct", Domain(), Domain(), Domain())


@dataclass
class _Place:
    """A node set and its potentials, `(size,)` each, the first that of the set itself."""

    nodes: NodeSet
    potentials: list[Character] = field(default_factory=list)

    def name(self, number: int) -> str:
        return self.nodes.name if number == 0 else f"{self.nodes.name}@{number}"


def rewired(graph: ParamGraph) -> ParamGraph:
    """The graph with `ScaledNodeSet`s and `ScaledEdgeSet`s. Every parameter has the edge sets that it had, by the same names.

    Args:
        graph: with its annotation; the values are not looked at.
    """
    return _Rewiring(graph).run()


class _Rewiring:
    def __init__(self, graph: ParamGraph) -> None:
        self.graph = graph
        self.features = Structure(graph.node_sets, graph.edge_sets).features
        prints = Fingerprints(graph)
        self.ragged: set[str] = set()
        # Which potential of its source a parameter reads.
        self.begins: dict[str, Character | None] = {}
        # Of one edge per node pair, `(groups, m, k)`.
        self.characters: dict[str, Character] = {}
        for name, edges in graph.edge_sets.items():
            found = prints.of(edges)
            if 0 in edges.shape:
                self.characters[name] = trivial(*edges.shape[:3])
                continue
            self.characters[name] = found[..., 0]
            if not found.equals(found[..., :1]):
                self.ragged.add(name)
        self.places = {name: _Place(nodes) for name, nodes in graph.node_sets.items()}

    def run(self) -> ParamGraph:
        into: dict[str, list[EdgeSet]] = {name: [] for name in self.places}
        out_of: dict[str, list[EdgeSet]] = {name: [] for name in self.places}
        for edges in self.graph.edge_sets.values():
            into[edges.target].append(edges)
            out_of[edges.source].append(edges)
        # Twice, for recurrent networks lead back to sets that come first.
        for name, place in 2 * sorted(self.places.items(), key=lambda item: item[1].nodes.depth):
            place.potentials = self._choose(place, into[name], out_of[name])
        node_sets = {
            place.name(number): ScaledNodeSet(**{**_fields(place.nodes), "name": place.name(number)}, domain=potential.domain)
            for place in self.places.values()
            for number, potential in enumerate(place.potentials)
        }
        edge_sets = {edges.name: edges for original in self.graph.edge_sets.values() for edges in self._rewire(original)}
        edge_sets.update((edges.name, edges) for place in self.places.values() for edges in self._links(place, edge_sets))
        return replace(self.graph, node_sets=node_sets, edge_sets=edge_sets)

    # -- potentials ---------------------------------------------------------------------------------------------------------------

    def _choose(self, place: _Place, into: list[EdgeSet], out_of: list[EdgeSet]) -> list[Character]:
        size = place.nodes.size
        arriving = [found for e in into if e.name not in self.features and e.parameter is not None for found in self._arriving(e)]
        passed = [found for e in into if e.parameter is None for found in self._arriving(e)]
        features = [found for e in into if e.name in self.features for found in self._arriving(e)]
        base = _distinct([*arriving, *passed]) or [_commonest(features) if features else trivial(size)]
        gains = [f for f in features if not f.domain.trivial]
        after = [potential + gain for potential in base for gain in gains]
        normalised = [potential for potential in after if any(potential.equals(f) for f in features)]
        kept = _distinct(arriving) or list(base)
        # What reads the nodes reads them after a normalisation, if there is one.
        candidates = _distinct([*normalised, *kept, *base, *features, *after])
        for edges in out_of:
            fitting = (potential for potential in candidates if self._fits(edges, potential))
            if edges.parameter is not None and edges.name not in self.ragged:
                found = next(fitting, None)
                self.begins[edges.name] = found
                kept += [] if found is None else [found]
        if any(edges.parameter is None for edges in out_of):
            kept += normalised
        return (_distinct(kept) or candidates or [trivial(size)])[:MOST_COPIES]

    def _arriving(self, edges: EdgeSet) -> Iterator[Character]:
        """Potentials of the target that make an edge set transport, from those of its source; none where edges disagree, or miss a node."""
        if edges.name in self.ragged or 0 in edges.shape:
            return
        size = self.graph.node_sets[edges.target].size
        targets = edges.targets()
        if len(np.unique(targets)) < size:
            return
        begin = self.begins.get(edges.name)
        for potential in self.places[edges.source].potentials if begin is None else [begin]:
            through = self.characters[edges.name] + potential[edges.sources()[:, None, :]]
            found = trivial(size)
            found.log[targets.reshape(-1)] = through.log[:, :, 0].reshape(-1)
            found.bits[targets.reshape(-1)] = through.bits[:, :, 0].reshape(-1)
            if through.equals(found[targets[:, :, None]]):
                yield found

    def _fits(self, edges: EdgeSet, potential: Character) -> bool:
        """Whether an edge set that begins at nodes of this potential transports to some potential of its target."""
        if 0 in edges.shape:
            return False
        through = self.characters[edges.name] + potential[edges.sources()[:, None, :]]
        return through.equals(through[:, :, :1])

    # -- edges --------------------------------------------------------------------------------------------------------------------

    def _rewire(self, edges: EdgeSet) -> list[ScaledEdgeSet]:
        source, target = self.places[edges.source], self.places[edges.target]
        begin = self.begins.get(edges.name)
        pairs = [(s, t) for s in range(len(source.potentials)) for t in range(len(target.potentials))]
        pairs.sort(key=lambda pair: begin is not None and not source.potentials[pair[0]].equals(begin))
        modes: dict[Transport, list[tuple[int, int]]] = {"direct": [], "inverse": []}
        for s, t in pairs if edges.name not in self.ragged and 0 not in edges.shape else ():
            wanted = target.potentials[t][edges.targets()[:, :, None]] + -source.potentials[s][edges.sources()[:, None, :]]
            if self.characters[edges.name].equals(wanted):
                modes["direct"].append((s, t))
            elif self.characters[edges.name].equals(-wanted):
                modes["inverse"].append((s, t))
        if edges.parameter is None and modes["direct"]:
            numbered = [edges.name if number == 0 else f"{edges.name}@{number}" for number in range(len(modes["direct"]))]
            return [self._made(edges, name, s, t, "direct") for name, (s, t) in zip(numbered, modes["direct"], strict=True)]
        if edges.name in self.features and not modes["direct"]:
            between = self._gain(edges, target)
            if between is not None:
                return [between]
        for mode in ("direct", "inverse"):
            if modes[mode]:
                return [self._made(edges, edges.name, *modes[mode][0], mode)]
        return [self._made(edges, edges.name, 0, 0, "none")]

    def _gain(self, edges: EdgeSet, place: _Place) -> ScaledEdgeSet | None:
        """A feature that leads from one potential of its nodes to another, as an edge from each node's one copy to its other."""
        targets = edges.targets().reshape(-1)
        character = self.characters[edges.name].flat
        for s, before in enumerate(place.potentials):
            for t, after in enumerate(place.potentials):
                if s != t and edges.name not in self.ragged and (before[targets] + character).equals(after[targets]):
                    index = targets[:, None]
                    shape = (len(targets), 1, 1, edges.shape[3])
                    diagonal = replace(edges, source=edges.target, shape=shape, source_index=index, target_index=index, explicit=False)
                    return self._made(diagonal, edges.name, s, t, "direct")
        return None

    def _made(self, edges: EdgeSet, name: str, s: int, t: int, transport: Transport) -> ScaledEdgeSet:
        source, target = self.places[edges.source], self.places[edges.target]
        kind = EdgeKind(
            transport,
            self.characters[edges.name].domain,
            source.potentials[s].domain,
            target.potentials[t].domain,
            edges.name in self.ragged,
        )
        return ScaledEdgeSet(**{**_fields(edges), "name": name, "source": source.name(s), "target": target.name(t)}, kind=kind)

    def _links(self, place: _Place, edge_sets: dict[str, ScaledEdgeSet]) -> Iterator[ScaledEdgeSet]:
        """Structural edges, read through invariants, to copies that nothing else reaches from the first."""
        reached = {edges.target for edges in edge_sets.values() if edges.source == place.nodes.name}
        for number in range(1, len(place.potentials)):
            if place.name(number) not in reached:
                yield ScaledEdgeSet(
                    name=f"{place.nodes.name} → {place.name(number)}",
                    type=COPY,
                    source=place.nodes.name,
                    target=place.name(number),
                    shape=(place.nodes.size, 1, 1, 1),
                    depth=place.nodes.depth,
                    kind=EdgeKind("none", Domain(), place.potentials[0].domain, place.potentials[number].domain),
                )


# The edge type of links between the copies of a node.
COPY = "copy"


def _commonest(characters: list[Character]) -> Character:
    """The one that occurs most often, of those the first."""
    return max(characters, key=lambda one: sum(one.equals(other) for other in characters))


def _distinct(characters: list[Character]) -> list[Character]:
    found: list[Character] = []
    for character in characters:
        if not any(character.equals(other) for other in found):
            found.append(character)
    return found


def _fields(item: Any) -> dict[str, Any]:
    return {one.name: getattr(item, one.name) for one in fields(item)}

"""What nodes contribute to edge-wise functions, and sums over edges at nodes and graphs: tables over all rows of a layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from paramgraph.metanets.layout import Job, Layout


@dataclass
class Terms:
    """What the nodes contribute to an edge-wise function, as sources and as targets: `(rows, width)` each; the widths may differ."""

    layout: Layout
    source: torch.Tensor
    target: torch.Tensor
    _sources: tuple[torch.Tensor, ...] = field(init=False, repr=False)
    _targets: tuple[torch.Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # One split for all edge sets: its derivative is one concatenation, where slices would each cost a table of zeros.
        self._sources = torch.split(self.source, self.layout.run_rows)
        self._targets = torch.split(self.target, self.layout.run_rows)

    def at(self, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
        """Terms of a job's node sets, `(batch, nodes, width)` each; of the whole table in a packed job."""
        if job.source is None or job.target is None:
            return self.source[None], self.target[None]
        return (
            self._sources[job.source].reshape(*self.layout.runs[job.source], self.source.shape[-1]),
            self._targets[job.target].reshape(*self.layout.runs[job.target], self.target.shape[-1]),
        )


class Sums:
    """Sums over rows, added up job by job."""

    # What nodes without edges have, and how two pieces at the same nodes become one.
    empty = 0.0

    def __init__(self, layout: Layout, width: int) -> None:
        self._layout = layout
        self._width = width
        self._runs: dict[int | None, torch.Tensor] = {}

    def together(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What two pieces make."""
        return first + second

    def add(self, run: int | None, piece: torch.Tensor | None) -> None:
        """Add `(batch, nodes, width)` to a run of rows, or `(1, rows, width)` to the whole table. An implied edge set may end early."""
        if piece is None:
            return
        if run is not None and piece.shape[1] < self._layout.runs[run][1]:
            piece = torch.nn.functional.pad(piece, (0, 0, 0, self._layout.runs[run][1] - piece.shape[1]), value=self.empty)
        self._runs[run] = self.together(self._runs[run], piece) if run in self._runs else piece

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """The table of sums, `(rows, width)`."""
        empty = like.new_full((1, self._width), self.empty)
        runs = [
            self._runs[run].reshape(rows, self._width) if run in self._runs else empty.expand(rows, -1)
            for run, rows in enumerate(self._layout.run_rows)
        ]
        table = torch.cat(runs) if runs else empty[:0]
        return self.together(table, self._runs[None][0]) if None in self._runs else table


class Largest(Sums):
    """The largest of what is added, −∞ where nothing is."""

    empty = -math.inf

    def together(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The larger numbers."""
        return torch.maximum(first, second)


class Totals:
    """Sums over graphs, added up job by job."""

    def __init__(self, layout: Layout, width: int) -> None:
        self._layout = layout
        self._width = width
        self._blocks: list[torch.Tensor] = []
        self._numbers: list[int] = []
        self._jobs: list[int] = []
        self._table: torch.Tensor | None = None

    def add(self, number: int, piece: torch.Tensor | None) -> None:
        """Add `(batch, width)` to the graphs of a block job, or sums at targets, `(1, rows, width)`, of a packed one."""
        if piece is None:
            return
        self._jobs.append(number)
        job = self._layout.jobs[number]
        if job.packed:
            self._table = piece[0] if self._table is None else self._table + piece[0]
            return
        self._blocks.append(piece)
        self._numbers += [part.graph for part in job.parts]

    def result(self, like: torch.Tensor) -> torch.Tensor:
        """The sums, `(graphs, width)`."""
        sums = like.new_zeros(self._layout.num_graphs, self._width)
        if self._blocks:
            sums = sums.index_add(0, torch.as_tensor(self._numbers, device=like.device), torch.cat(self._blocks).to(sums.dtype))
        if self._table is not None:
            sums = sums.index_add(0, self._layout.graph_of_row, self._table.to(sums.dtype))
        return sums

    def edges(self) -> torch.Tensor:
        """How many edges each graph's sum is of, `(graphs,)`."""
        return self._layout.edges_of(tuple(self._jobs))

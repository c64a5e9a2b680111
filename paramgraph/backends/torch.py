"""The dense engine: edge sets as blocks, with no per-edge indices and no gather.

Node terms are broadcast over `(groups, m, k, positions)` and reductions are sums over block axes. Only edge sets with index arrays
gather, and then per block row or column, not per edge.
"""

from __future__ import annotations

import torch

from paramgraph.backends.protocol import Block, End, Op


class TorchBackend:
    """Message passing on dense blocks, on any device that torch runs on."""

    name = "torch"

    def check_device(self, device: torch.device) -> None:
        """Every torch device will do."""

    def cached_numbers(self, device: torch.device) -> int:
        """See `Backend`: what fits in a core's cache together with the intermediate results. A GPU needs larger blocks to be busy."""
        return 3 * 2**16 if device.type == "cpu" else 2**24

    def combine(
        self,
        block: Block,
        source: torch.Tensor | None = None,
        target: torch.Tensor | None = None,
        edge: torch.Tensor | None = None,
        op: Op = "add",
        overwrite: bool = False,
    ) -> torch.Tensor:
        """See `Backend.combine`."""
        terms = []
        if edge is not None:
            terms.append(edge)
        if source is not None:
            terms.append(self._spread(source, block, "source"))
        if target is not None:
            terms.append(self._spread(target, block, "target"))
        full = (terms[0].shape[0], *block.shape, terms[0].shape[-1])
        result = terms[0]
        owned = overwrite and edge is not None and edge.shape == full
        for term in terms[1:]:
            if owned and result.shape == full and (op == "add" or overwrite):
                # The result is our own and no derivative needs it, so the next operation can save a pass over memory.
                result = result.add_(term) if op == "add" else result.mul_(term)
            else:
                result = result + term if op == "add" else result * term
            owned = True
        return result if owned and result.shape == full else result.expand(full).clone()

    def to_nodes(self, block: Block, edge: torch.Tensor, end: End = "target") -> torch.Tensor:
        """See `Backend.to_nodes`."""
        index, size = _end(block, end)
        sums = edge.sum((3, 4)) if end == "target" else _over_targets(edge)
        batch, width = sums.shape[0], sums.shape[-1]
        rows = sums.reshape(batch, sums.shape[1] * sums.shape[2], width)
        if index is None:
            return rows
        return rows.new_zeros(batch, size, width).index_add(1, index.reshape(-1), rows)

    def to_graph(self, block: Block, edge: torch.Tensor) -> torch.Tensor:
        """See `Backend.to_graph`."""
        return edge.sum((1, 2, 3, 4))

    @staticmethod
    def _spread(state: torch.Tensor, block: Block, end: End) -> torch.Tensor:
        """Node states as `(batch, groups, 1, k, 1, width)` (sources) or `(batch, groups, m, 1, 1, width)` (targets)."""
        groups, m, k, _ = block.shape
        batch, _, width = state.shape
        index, _ = _end(block, end)
        rows = state if index is None else state.index_select(1, index.reshape(-1))
        return rows.reshape((batch, groups, 1, k, 1, width) if end == "source" else (batch, groups, m, 1, 1, width))


def _over_targets(edge: torch.Tensor) -> torch.Tensor:
    """Sums of `(batch, groups, m, k, positions, width)` over targets and positions, `(batch, groups, k, width)`.

    One axis after the other, as both at once would jump through memory: first the longer one, for what is between them is new memory, and slow.
    """
    m, positions = edge.shape[2], edge.shape[4]
    if m == 1:
        return edge.squeeze(2).sum(3)
    if positions == 1:
        return edge.squeeze(4).sum(2)
    return edge.sum(2).sum(3) if m >= positions else edge.sum(4).sum(2)


def _end(block: Block, end: End) -> tuple[torch.Tensor | None, int]:
    return (block.source_index, block.num_sources) if end == "source" else (block.target_index, block.num_targets)

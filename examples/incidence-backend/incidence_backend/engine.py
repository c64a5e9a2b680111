"""Message passing as products with incidence matrices: the three primitives, and nothing else."""

import torch


class IncidenceBackend:
    """A sparse matrix per end of the edges has a one where an edge meets a node. Its product with node states spreads them over the edges;
    the product of its transpose with edge states sums them at the nodes."""

    name = "incidence"

    def check_device(self, device):
        """Sparse products run wherever torch does."""

    def combine(self, block, source=None, target=None, edge=None, op="add", overwrite=False):
        terms = [] if edge is None else [edge]
        terms += [_spread(_incidence(block, end, s), s) for end, s in (("source", source), ("target", target)) if s is not None]
        full = (terms[0].shape[0], *block.shape, terms[0].shape[-1])
        terms = [term.expand(full) if term is edge else term.reshape(full) for term in terms]
        result = terms[0]
        for term in terms[1:]:
            result = result * term if op == "mul" else result + term
        return result.clone() if len(terms) == 1 else result

    def to_nodes(self, block, edge, end="target"):
        flat = edge.reshape(edge.shape[0], block.num_edges, edge.shape[-1])
        return _spread(_incidence(block, end, edge).t(), flat)

    def to_graph(self, block, edge):
        return edge.sum((1, 2, 3, 4))


def _spread(matrix, states):
    """A sparse `(rows, columns)` matrix times states `(batch, columns, width)`."""
    batch, columns, width = states.shape
    side_by_side = states.permute(1, 0, 2).reshape(columns, batch * width)
    return torch.sparse.mm(matrix, side_by_side).reshape(-1, batch, width).permute(1, 0, 2)


def _incidence(block, end, like):
    """`(edges, nodes)`: edge `(g, i, j, p)` runs from `source_index[g, j]` to `target_index[g, i]`, or to the implied nodes."""
    groups, m, k, _ = block.shape
    index, nodes, inner = (
        (block.source_index, block.num_sources, k) if end == "source" else (block.target_index, block.num_targets, m)
    )
    if index is None:
        index = torch.arange(groups * inner, device=like.device).reshape(groups, inner)
    shape = (groups, 1, k, 1) if end == "source" else (groups, m, 1, 1)
    columns = index.reshape(shape).expand(block.shape).reshape(-1)
    rows = torch.arange(block.num_edges, device=like.device)
    ones = torch.ones(block.num_edges, dtype=like.dtype, device=like.device)
    return torch.sparse_coo_tensor(torch.stack([rows, columns]), ones, (block.num_edges, nodes), check_invariants=False)

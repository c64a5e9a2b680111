"""Values of many networks of one structure, collected one network at a time in one buffer per name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from paramgraph.errors import StateDictError
from paramgraph.graph import ParamGraph
from paramgraph.metanets.stack import Stack


class Growing:
    """A stack in the making. Buffers grow in place by an eighth, so that the values are never held twice.

    Attributes:
        graph: the structure.
    """

    def __init__(self, graph: ParamGraph) -> None:
        self.graph = graph
        self._buffers: dict[str, np.ndarray[Any, Any]] = {}
        self._kinds: dict[str, torch.dtype] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Add a network.

        Raises:
            StateDictError: names, shapes or dtypes do not fit, or values are not finite.
        """
        values = self.graph.with_values(state_dict).values
        for name, value in values.items():
            kind = self._kinds.setdefault(name, value.dtype)
            if value.dtype != kind:
                raise StateDictError(f"{name}: expected {kind} as in the first network, got {value.dtype}. Convert the files to one type.")
            if not torch.isfinite(value).all():
                raise StateDictError(f"{name}: expected finite numbers, got NaN or infinities; metanets do not take those.")
        for name, value in values.items():
            # As bytes: numpy resizes in place, and does not know all of torch's types.
            content = value.contiguous().reshape(-1).view(torch.uint8)
            buffer = self._buffers.get(name)
            if buffer is None:
                buffer = self._buffers[name] = np.empty((8, content.numel()), np.uint8)
            if self._count == len(buffer):
                buffer.resize((self._count + max(8, self._count // 8), content.numel()), refcheck=False)
            torch.from_numpy(buffer[self._count]).copy_(content)
        self._count += 1

    def stack(self) -> Stack:
        """All networks so far. The buffers become the stack's values: nothing can be added afterwards."""
        values = {}
        for name in list(self._buffers):
            buffer = self._buffers.pop(name)
            buffer.resize((self._count, buffer.shape[1]), refcheck=False)
            values[name] = torch.from_numpy(buffer).view(self._kinds[name]).reshape(self._count, *self.graph.values[name].shape)
        return Stack(self.graph, values)

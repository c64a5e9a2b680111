"""What a program's operations were lowered from: the calls of a traced graph, or the nodes of a file.

Operations say how axes are used, not what is computed. Whoever compares operations compares the calls behind them as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch.fx


class Lineage(Protocol):
    """The calls that a front end lowered. A call is what `Op.where` holds; its operands and results have keys of the front end's own."""

    def result(self, key: Any) -> Any:
        """What a call's operand or result was lowered to."""

    def operands(self, call: Any) -> Sequence[Any]:
        """Keys of a call's operands; none for what is no call."""

    def maker(self, key: Any) -> Any:
        """The call whose result a key stands for; None for inputs, parameters and constants."""

    def form(self, call: Any) -> Any:
        """A call with every operand as a mark: equal for calls of one function with the same arguments. Unequal to all others if unknown."""


class NoLineage:
    """Of a program that no front end made: nothing is known."""

    def result(self, key: Any) -> Any:
        return None

    def operands(self, call: Any) -> Sequence[Any]:
        return ()

    def maker(self, key: Any) -> Any:
        return None

    def form(self, call: Any) -> Any:
        return id(call)


class TracedCalls:
    """Calls of a torch.fx graph; nodes are their own keys.

    Args:
        results: what each node was lowered to.
    """

    def __init__(self, results: Mapping[torch.fx.Node, Any]) -> None:
        self._results = results
        self._forms: dict[torch.fx.Node, str] = {}

    def result(self, key: torch.fx.Node) -> Any:
        return self._results.get(key)

    def operands(self, call: Any) -> Sequence[torch.fx.Node]:
        return call.all_input_nodes if isinstance(call, torch.fx.Node) else ()

    def maker(self, key: torch.fx.Node) -> torch.fx.Node | None:
        return key if key.op == "call_function" else None

    def form(self, call: Any) -> Any:
        if not isinstance(call, torch.fx.Node):
            return id(call)  # comparable with itself alone
        if call not in self._forms:
            self._forms[call] = repr((str(call.target), torch.fx.node.map_arg((call.args, call.kwargs), lambda _: "operand")))
        return self._forms[call]

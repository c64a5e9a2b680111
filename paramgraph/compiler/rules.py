"""The rule registry: how operations and layers are lowered onto program operations. A public extension point.

A rule is one function. It is registered for an ATen operation (`"aten.linear"` for all overloads, `"aten.add.Tensor"` for one), for any
other torch operation (`"mylib.myop"`), or for an `nn.Module` class, whose calls are then kept whole and never traced. Installed packages
add rules through the entry-point group `paramgraph.rules`: the entry point names a module, which registers its rules when imported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from paramgraph.errors import RuleError

Rule = Callable[..., Any]

ENTRY_POINT_GROUP = "paramgraph.rules"

_operations: dict[str, Rule] = {}
_modules: dict[type, Rule] = {}
_exact: set[Rule] = set()
_loaded: list[str] = []


def rule(*targets: str | type, exact: bool = False) -> Callable[[Rule], Rule]:
    """Register a function as the rule of operations or module classes.

    A rule for an operation is called as `rule(b, *args, **kwargs)` with a `Builder` and the operation's own arguments, tensors replaced
    by program values; it returns the value (or tuple of values) of the operation's result. `b.shapes` holds the shapes of the results.

    A rule for a module class is called as `rule(b, module, params, *args, **kwargs)`: the module, its parameters and buffers as a dict
    from (dotted) names to values, and the arguments of its forward.

    A rule says how the layer's function uses its tensors: which axes are aligned, contracted, normalised. It does not compute. That is
    enough for permutations. Scales need to know the functions themselves, so nothing is scaled through a rule unless it is `exact`.

    Args:
        targets: names such as `"aten.linear"` or `"aten.add.Tensor"`, or classes derived from `torch.nn.Module`.
        exact: the rule's operations compute what their names say (`"linear"`, `"sum"`, `"add"`, `"relu"`: as torch's functions of these
            names), and together the layer's function.

    Raises:
        RuleError: a target has a rule already, or is neither a dotted name nor a class.
    """

    def register(function: Rule) -> Rule:
        for target in targets:
            table: dict[Any, Rule] = _modules if isinstance(target, type) else _operations
            if not isinstance(target, type) and (not isinstance(target, str) or "." not in target):
                raise RuleError(f"expected an operation such as 'aten.linear' or a module class, got {target!r}.")
            if target in table and table[target] is not function:
                where = f"{table[target].__module__}.{table[target].__qualname__}"
                raise RuleError(f"{target} already has a rule, {where}. Remove one of the two: `paramgraph.unregister({target!r})`.")
            table[target] = function
        if exact:
            _exact.add(function)
        return function

    return register


def exact_rule(*targets: str) -> Callable[[Rule], Rule]:
    """Register a rule whose operations compute what their names say."""
    return rule(*targets, exact=True)


def unregister(*targets: str | type) -> None:
    """Remove rules, so that others can be registered in their place."""
    for target in targets:
        (_modules if isinstance(target, type) else _operations).pop(target, None)  # type: ignore[arg-type]


def is_exact(function: Rule) -> bool:
    """Whether a rule's operations compute what their names say."""
    return function in _exact


def operation_rule(name: str) -> Rule | None:
    """The rule of an operation `namespace.name.overload`: of the overload, else of all overloads."""
    load()
    found = _operations.get(name)
    return found if found is not None else _operations.get(name.rpartition(".")[0])


def module_rules() -> dict[type, Rule]:
    """Module classes with rules."""
    load()
    return dict(_modules)


def load() -> None:
    """Import the built-in rules and those of installed packages, once."""
    if _loaded:
        return
    import paramgraph.compiler.aten  # noqa: F401  registers the built-in rules

    _loaded.append("aten")
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except RuleError:
            raise
        except Exception as error:
            raise RuleError(f"the rules of entry point {entry.name!r} ({entry.value}) failed to load: {error!r}") from error
        _loaded.append(entry.name)

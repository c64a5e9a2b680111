"""Backends by name. Third parties ship theirs through the entry-point group `paramgraph.backends`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from paramgraph.backends.protocol import Backend
from paramgraph.errors import RuleError, UnknownNameError

ENTRY_POINT_GROUP = "paramgraph.backends"

Factory = Callable[[], Backend]


def _built_in(path: str) -> Factory:
    """A factory that imports its engine only when called."""

    def make() -> Backend:
        module, name = path.split(":")
        backend: Backend = getattr(import_module(module), name)()
        return backend

    return make


_FACTORIES: dict[str, Factory] = {
    "dgl": _built_in("paramgraph.backends.dgl:DGLBackend"),
    "pyg": _built_in("paramgraph.backends.pyg:PyGBackend"),
    "torch": _built_in("paramgraph.backends.torch:TorchBackend"),
}


def register_backend(name: str, factory: Factory) -> None:
    """Make `factory()` available as `get_backend(name)`.

    Raises:
        RuleError: the name is taken, here or by an installed package.
    """
    if name in _FACTORIES or name in _plugins():
        raise RuleError(f"backend {name!r} is registered already; choose another name, or pass your instance as the backend.")
    _FACTORIES[name] = factory


def backend_names() -> tuple[str, ...]:
    """Names that `get_backend` knows, sorted. An engine of that name need not be installed."""
    return tuple(sorted({*_FACTORIES, *_plugins()}))


def get_backend(backend: str | Backend) -> Backend:
    """A backend by name; an instance is handed through.

    Args:
        backend: `"dgl"`, `"pyg"`, `"torch"`, a name registered by a third party, or an instance.

    Raises:
        UnknownNameError: no backend has this name.
        MissingDependencyError: the engine of this name is not installed.
        RuleError: two installed packages claim the name.
    """
    if not isinstance(backend, str):
        if not isinstance(backend, Backend):
            raise UnknownNameError(f"expected a backend's name or an instance with {', '.join(_methods())}; got {type(backend).__name__}.")
        return backend
    plugins = _plugins()
    if backend in _FACTORIES:
        if backend in plugins:
            raise RuleError(f"backend {backend!r} is registered already, and {plugins[backend].value} claims the name too; uninstall it.")
        return _FACTORIES[backend]()
    if backend in plugins:
        loaded: Any = plugins[backend].load()
        made: Backend = loaded() if callable(loaded) else loaded
        return made
    raise UnknownNameError(f"unknown backend {backend!r}; known are {', '.join(backend_names())}.")


def _plugins() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        first = found.setdefault(point.name, point)
        if first.value != point.value:
            raise RuleError(f"two installed packages claim backend {point.name!r}: {first.value} and {point.value}; uninstall one.")
    return found


def _methods() -> tuple[str, ...]:
    return ("name", "check_device", "combine", "to_nodes", "to_graph")

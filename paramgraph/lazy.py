"""Public names of a package that are imported when they are first used, so that importing the package itself stays light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, contents: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The package's `__getattr__` and `__dir__`.

    Args:
        package: its name.
        contents: the module that holds each public name.
    """

    def get(name: str) -> Any:
        if name not in contents:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(contents[name]), name)

    return get, lambda: sorted(contents)

"""Modules that remember what they were made with, so that they can be made again from a file."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn


class Remembers(nn.Module):
    """A module whose constructor's arguments are kept as `_options`, by name, defaults included."""

    _options: dict[str, Any]

    def __new__(cls, *args: Any, **options: Any) -> Any:
        made = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(made, *args, **options)
        except TypeError:  # the constructor says so itself; copies and pickles come without arguments, and bring their own
            return made
        bound.apply_defaults()
        made.__dict__["_options"] = {name: value for name, value in list(bound.arguments.items())[1:]}
        return made

"""The command line: `paramgraph compile | inspect | verify | export`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all went well, 1 if a check or an operation failed, 2 if a name or an option is wrong.

    Args:
        arguments: command and options; None takes those of the process.
    """
    from paramgraph.cli.commands import app
    from paramgraph.cli.console import show_error
    from paramgraph.errors import ParamGraphError, UnknownNameError

    try:
        app(args=None if arguments is None else list(arguments), prog_name="paramgraph")
    except ParamGraphError as error:
        show_error(error)
        sys.exit(2 if isinstance(error, UnknownNameError) else 1)

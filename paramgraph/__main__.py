"""`python -m paramgraph`: the command line."""

from paramgraph.cli import main

if __name__ == "__main__":
    main()

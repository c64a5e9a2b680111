"""Index spaces, their dependencies, and the groups that act on parameters. Knows no tracing and no GNN."""

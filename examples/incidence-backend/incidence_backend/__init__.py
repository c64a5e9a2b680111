"""A message-passing engine for paramgraph, on sparse incidence matrices."""

from incidence_backend.engine import IncidenceBackend

__all__ = ["IncidenceBackend"]

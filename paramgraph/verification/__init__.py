"""Numerical verification that the annotated group leaves a network's function unchanged, and that it is coupled as tightly as it must be."""

from __future__ import annotations

from paramgraph.verification.report import FactorReport, Report
from paramgraph.verification.verify import verify

__all__ = ["FactorReport", "Report", "verify"]

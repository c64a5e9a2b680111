"""Numerical verification: the annotated group leaves a network's function unchanged, and whatever is outside changes it."""

from __future__ import annotations

from paramgraph.verification.report import FactorReport, Report
from paramgraph.verification.verify import verify

__all__ = ["FactorReport", "Report", "verify"]

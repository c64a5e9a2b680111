"""Fixtures that all tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, also where its compiled operations do not load."""
    from paramgraph.models.torchvision import import_torchvision

    return import_torchvision()

# The same examples in every run: a run that fails fails again.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

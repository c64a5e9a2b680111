"""Fixtures that all tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def torchvision() -> Any:
    """torchvision, also where its compiled operations do not load."""
    from paramgraph.models.torchvision import import_torchvision

    return import_torchvision()

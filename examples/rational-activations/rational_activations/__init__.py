"""Learnable rational activation functions, one for each channel."""

from rational_activations.layer import Rational

__all__ = ["Rational"]

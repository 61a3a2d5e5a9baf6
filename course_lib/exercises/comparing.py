"""What checks of several chapters compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CLOSE = 1e-5


def same(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = CLOSE) -> bool:
    """Equal shapes, and equal numbers up to `tolerance`, relative and absolute."""
    import torch

    return found.shape == wanted.shape and torch.allclose(
        found.to(wanted.dtype), wanted, rtol=tolerance, atol=tolerance
    )

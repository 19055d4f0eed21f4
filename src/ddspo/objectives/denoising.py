"""Plain fine-tuning: the denoising loss."""

from __future__ import annotations

from torch import Tensor

from .errors import squared_error


def denoising_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """loss = error(prediction, target), per sample: the simple loss of DDPM (arXiv 2006.11239, equation 14).

    Args:
        prediction: of the policy on the winning side, [B, ...], native prediction space.
        target: what forward noising implies there (`NoisePath.target`), [B, ...].

    Returns:
        [B], not reduced.
    """
    return squared_error(prediction, target)

"""What every target source returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..tensors import Conditioning, PreferenceBatch, WinLose

ReferencePredict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(x_t [N, ...], timestep [N], conditioning [N, ...]) -> prediction [N, ...], without gradient"""


@dataclass(frozen=True)
class TargetRows:
    """Everything of a pair that does not depend on the policy.

    Attributes:
        target: what predictions are compared with, both sides, [B, ...].
        reference: the reference's predictions on the prompt, both sides, [B, ...].
        network_evaluations: denoiser rows spent on the two.
    """

    target: WinLose
    reference: WinLose
    network_evaluations: int


class TargetSource(Protocol):
    """A function that makes the targets of a batch."""

    def __call__(
        self, batch: PreferenceBatch, x_t: WinLose, reference_predict: ReferencePredict, noise_path: NoisePath
    ) -> TargetRows:
        """Targets and reference predictions for B pairs; the reference is called once, on all rows.

        Args:
            batch: B pairs.
            x_t: noised latents of both sides, [B, ...].
            reference_predict: the frozen network.
            noise_path: says what the network predicts.
        """
        ...

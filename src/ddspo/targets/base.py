"""What every target source returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..diffusion.noise_path import NoisePath
from ..tensors import PreferenceBatch, RolePredict, WinLose


@dataclass(frozen=True)
class TargetRows:
    """Everything of a pair that does not depend on the policy.

    Attributes:
        target: what predictions are compared with, both sides, [B, ...].
        reference: the reference's predictions on the prompt, both sides, [B, ...]; None where nobody asked for them.
        network_evaluations: denoiser rows spent on the two.
    """

    target: WinLose
    reference: WinLose | None
    network_evaluations: int

    def compared(self) -> WinLose:
        """The reference's predictions, for those who need them.

        Raises:
            ValueError: they were not asked for.
        """
        if self.reference is None:
            raise ValueError("these rows were made without the reference's predictions")
        return self.reference


class TargetSource(Protocol):
    """A function that makes the targets of a batch."""

    def __call__(
        self,
        batch: PreferenceBatch,
        x_t: WinLose,
        predict: RolePredict,
        noise_path: NoisePath,
        *,
        reference: bool = True,
    ) -> TargetRows:
        """Targets and reference predictions for B pairs; each role is called once, on all of its rows.

        Args:
            batch: B pairs.
            x_t: noised latents of both sides, [B, ...].
            predict: calls the network in one of its roles; 'policy' is not asked here.
            noise_path: says what the network predicts.
            reference: False: only what the targets need, for objectives that do not look at the reference.
        """
        ...

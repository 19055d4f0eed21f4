"""Safeguard and anchors inside a step, by the gradient at the policy's predictions; the reference is c · x_t."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddspo.diffusion.noise_path import NoisePath
from ddspo.diffusion.states import states
from ddspo.recipe import Recipe
from ddspo.tensors import Conditioning, PreferenceBatch, WinLose
from ddspo.training.step import make_step
from helpers.sides import DIMS, normal

PATH = NoisePath.variance_preserving(torch.linspace(0.99, 0.05, 10, dtype=torch.float64), "epsilon")
BATCH = PreferenceBatch(
    WinLose(normal(0), normal(1)),
    normal(2),
    torch.tensor([2, 5, 7]),
    Conditioning({"c": torch.full((3, 1), 1.0, dtype=torch.float64)}),
    Conditioning({"c": torch.full((3, 1), 0.4, dtype=torch.float64)}),
)
X_T = states(BATCH, PATH)
D = 0.6 * X_T.lose
"""reference(x_lose, c) - reference(x_lose, c⁻)"""


def slope(drift: Tensor, **objective: Any) -> Tensor:
    """d (sum of losses) / d policy, rows as the step asks for them, at policy = reference + drift."""
    asked: list[Tensor] = []

    def predict(role: str, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        prediction = x_t * conditioning.tensors["c"][..., None, None]
        if role != "policy":
            return prediction
        asked.append((prediction + drift).requires_grad_())
        return asked[0]

    recipe = Recipe.model_validate({"objective": {"beta": 10.0, **objective}})
    make_step(recipe, predict, PATH)(BATCH).loss.sum().backward()
    assert asked[0].grad is not None
    return asked[0].grad


def test_the_safeguard_leaves_training_free_targets_their_signal() -> None:
    """A little movement along d; the published lambda would be about 0 there."""
    little = 1e-4 * torch.cat([D, D])
    torch.testing.assert_close(slope(little, safeguard=0.5), slope(little))


def test_the_safeguard_holds_back_the_objective_and_not_the_anchor() -> None:
    far = 3.0 * torch.cat([D, D])
    guarded, anchored = slope(far, safeguard=1.0), slope(far, safeguard=1.0, anchor=0.0, lose_anchor=2.0)
    assert not guarded[3:].any()  # mu 1 and a winning side that moved: lambda 0
    torch.testing.assert_close(anchored[:3], guarded[:3])
    torch.testing.assert_close(anchored[3:], 5.0 * 2.0 * 2 * far[3:] / DIMS)  # beta/2 · price · d (mean u²)/du


def test_the_anchor_of_plain_fine_tuning_pulls_back_to_the_reference() -> None:
    drift = normal(9)
    pull = slope(drift, name="denoising", anchor=0.5) - slope(drift, name="denoising")
    torch.testing.assert_close(pull, 0.5 * 2 * drift / DIMS)

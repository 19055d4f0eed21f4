"""A reference that follows the policy, tied to its start: our reading of Rethinking-DPO (arXiv 2505.18736).

Every `every_steps` optimizer steps, parameter by parameter,

    reference <- reference + rate (policy - reference)
    reference <- reference + pull (start - reference)

The paper's claim is that a reference updated gradually, with a regularizer that ties it to the initial model, beats a
frozen one; its equations could not be checked, secondary pages disagree on them, and there is no released code. What
we chose: the mean is taken over parameters (of LoRA: A and B, not their product), the tie is a step back, and whoever
asks the reference asks the moved one, the targets included: with TF-CPP targets the winning target so stays the
reference's own prediction and three rows are enough. At rest, where the policy stands still, reference - start is
rate (1 - pull) / (1 - (1 - rate)(1 - pull)) of policy - start: with pull 0 the reference ends at the policy and the
drift that anchors and metrics see is drift from it, no longer from the base.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .. import recipe
from ..families.roles import Roles


class MovingReference:
    """The weights of a reference that moves, in float32 in main memory.

    Args:
        settings: how often and how far.
        roles: its reference gets weights of its own; nothing is trained yet.
    """

    def __init__(self, settings: recipe.MovingReference, roles: Roles) -> None:
        self.settings, self.roles = settings, roles
        self.start = roles.state()
        self.weights = {name: weight.clone() for name, weight in self.start.items()}
        roles.let_reference_move()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's weights."""
        self.weights = {name: weight.clone() for name, weight in weights.items()}
        self.roles.move_reference(self.weights)

    def follow(self, done: int) -> None:
        """After `done` optimizer steps: move, if it is time. Every process does the same, so none has to be told."""
        if done % self.settings.every_steps:
            return
        for name, policy in self.roles.state().items():
            weight = self.weights[name]
            weight += self.settings.rate * (policy - weight)
            weight += self.settings.pull * (self.start[name] - weight)
        self.roles.move_reference(self.weights)

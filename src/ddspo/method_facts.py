"""What is known of each objective and each target source before any tensor exists; no torch here.

Plans foretell costs from it, training decides from it what to load and encode, recipes are checked against it.
Rows are denoiser forwards per pair (F), the policy's not included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .recipe import Recipe
    from .recipe_objective import Objective


@dataclass(frozen=True)
class ObjectiveFacts:
    """One objective.

    Attributes:
        beta: the published default; None: the objective has no beta.
        beta_scales_errors: beta/2 multiplies mean squared errors, so that beta/2 is the natural unit of prices.
        needs_reference: compares the policy with the reference's predictions on the prompt.
        sides: 'win' looks at winning rows only.
        pushes: drives the losing side away from its target; the safeguard has something to hold back.
        target: the only target source that it goes with; None: any that contrasts the sides.
        fields: recipe fields of its own.
        across_pairs: a pair's loss depends on the other pairs of its micro batch, whose size is then mathematics.
    """

    beta: float | None
    beta_scales_errors: bool = True
    needs_reference: bool = True
    sides: Literal["both", "win"] = "both"
    pushes: bool = True
    target: str | None = None
    fields: tuple[str, ...] = ()
    across_pairs: bool = False

    @property
    def settles(self) -> bool:
        """Whether sigmoid(-margin) says how much a pair still teaches: ½ at policy = reference, 0 once it is settled.

        Not in 'dspo' and 'mapo', whose regression goes on whatever the margin, nor in 'dppo', whose margin does not
        start at 0 because it has no reference.
        """
        return self.beta_scales_errors and self.needs_reference

    @property
    def policy_rows(self) -> int:
        """Policy rows per pair."""
        return 1 if self.sides == "win" else 2


@dataclass(frozen=True)
class TargetFacts:
    """One target source.

    Attributes:
        rows: frozen rows per pair for targets and reference predictions.
        bare_rows: for the targets alone.
        degraded_prompts: whether c⁻ is looked at.
        contrastive: reference - target is a signal, not noise: its mean square is the contrast.
    """

    rows: int
    bare_rows: int
    degraded_prompts: bool
    contrastive: bool


OBJECTIVES: dict[str, ObjectiveFacts] = {
    "preference": ObjectiveFacts(beta=16000.0),
    "ipo": ObjectiveFacts(beta=5000.0),
    "hinge": ObjectiveFacts(beta=5000.0),
    "dspo": ObjectiveFacts(beta=0.001, beta_scales_errors=False, fields=("dspo_reward", "dspo_gain")),
    "dmpo": ObjectiveFacts(beta=2000.0, fields=("dmpo_alpha",)),
    "kto": ObjectiveFacts(beta=1000.0, fields=("kto_win_weight", "kto_lose_weight"), across_pairs=True),
    "mapo": ObjectiveFacts(
        beta=0.1, beta_scales_errors=False, needs_reference=False, fields=("mapo_slope", "mapo_scale")
    ),
    "dppo": ObjectiveFacts(beta=5000.0, needs_reference=False, fields=("dppo_conservativeness",)),
    "denoising": ObjectiveFacts(
        beta=None,
        beta_scales_errors=False,
        needs_reference=False,
        sides="win",
        pushes=False,
        target="forward_noise",
        fields=("side",),
    ),
    "guidance_distillation": ObjectiveFacts(
        beta=None, beta_scales_errors=False, needs_reference=False, pushes=False, target="guidance"
    ),
}
"""`recipe.Objective.name` -> facts"""

TARGETS: dict[str, TargetFacts] = {
    "training_free": TargetFacts(rows=3, bare_rows=2, degraded_prompts=True, contrastive=True),
    "forward_noise": TargetFacts(rows=2, bare_rows=0, degraded_prompts=False, contrastive=False),
    "data_driven": TargetFacts(rows=4, bare_rows=2, degraded_prompts=False, contrastive=True),
    "guidance": TargetFacts(rows=4, bare_rows=4, degraded_prompts=True, contrastive=True),
}
"""`recipe.Target.source` -> facts"""


def target_of(recipe: Recipe) -> str:
    """The target source in use: denoising has its own whatever the recipe's other runs compare with."""
    return OBJECTIVES[recipe.objective.name].target or recipe.target.source


def asks_reference(recipe: Recipe) -> bool:
    """Whether a step needs the reference's predictions on the prompt: for the loss, a price on drift, the safeguard."""
    objective = recipe.objective
    guarded = objective.safeguard is not None and target_of(recipe) == "training_free"
    return OBJECTIVES[objective.name].needs_reference or any(objective.anchors) or guarded


def frozen_rows(recipe: Recipe) -> int:
    """Rows per pair of networks that are not trained."""
    facts, target = OBJECTIVES[recipe.objective.name], TARGETS[target_of(recipe)]
    if facts.sides == "win":
        return 1 if asks_reference(recipe) else 0
    return target.rows if asks_reference(recipe) else target.bare_rows


def policy_rows(recipe: Recipe) -> int:
    """Rows per pair of the network that is trained."""
    return OBJECTIVES[recipe.objective.name].policy_rows


def needs_degraded_prompts(recipe: Recipe) -> bool:
    """Whether anything is ever computed from a degraded prompt."""
    return TARGETS[target_of(recipe)].degraded_prompts


def needs_target_models(recipe: Recipe) -> bool:
    """Whether predictions are compared with those of a winning and a losing model."""
    return target_of(recipe) == "data_driven"


def trained_target_models(recipe: Recipe) -> tuple[Literal["winning", "losing"], ...]:
    """Which of the two models the recipe needs and does not name, so that they are trained on its pairs."""
    roles: tuple[Literal["winning", "losing"], ...] = ("winning", "losing")
    return tuple(role for role in roles if needs_target_models(recipe) and getattr(recipe.target, role) is None)


def unstorable(recipe: Recipe) -> str | None:
    """One line on why `training.reference_rows` cannot serve this recipe, or None."""
    objective = recipe.objective
    if not frozen_rows(recipe) or OBJECTIVES[objective.name].sides == "win":
        return (
            f"training.reference_rows: objective '{objective.name}' asks the reference nothing that could be stored; "
            "leave reference_rows out"
        )
    if objective.reference is not None:
        return "training.reference_rows stores what a frozen reference says; leave it out, or objective.reference"
    return None


def without_effect(objective: Objective) -> str | None:
    """One line on the first setting that this objective never looks at, or None."""
    name, facts = objective.name, OBJECTIVES[objective.name]
    fields = type(objective).model_fields
    for owner, other in OBJECTIVES.items():
        for field in other.fields:
            if owner != name and getattr(objective, field) != fields[field].default:
                return f"{field} has no effect with name '{name}', it belongs to '{owner}'; leave it out"
    if objective.safeguard is not None and not facts.pushes:
        return f"safeguard has no effect with name '{name}', which pushes no side away; leave it out"
    if objective.lose_anchor is not None and facts.sides == "win":
        return f"lose_anchor has no effect with name '{name}', which trains on winning sides only; leave it out"
    if objective.dspo_gain != fields["dspo_gain"].default and objective.dspo_reward != "contrast":
        return "dspo_gain has no effect with dspo_reward 'implicit'; leave it out, or set dspo_reward: contrast"
    return None


def unfit(recipe: Recipe) -> str | None:
    """One line on objective, target and training that do not go together, or None."""
    objective, target = recipe.objective, recipe.target
    if objective.reference is not None:
        if not frozen_rows(recipe):
            return f"objective.reference has no effect with objective.name '{objective.name}', which asks for none"
        if target.source == "data_driven" and recipe.training.parameters == "full":
            return "objective.reference would move target.source 'data_driven's models; use training.parameters lora"
    name, source, own = objective.name, target.source, OBJECTIVES[objective.name].target
    if own == "guidance" and source != "guidance":
        return f"objective.name '{name}' learns from target.source 'guidance'; set it"
    if source == "guidance" and own is None:
        return (
            f"target.source 'guidance' with objective.name '{name}' would push losing sides away from guidance; "
            "use 'guidance_distillation', or another target.source"
        )
    if target.error_space != "native" and OBJECTIVES[name].sides == "win":
        return f"target.error_space has no effect with objective.name '{name}'; leave it out"
    if source != "data_driven":
        fields = type(target).model_fields
        for field in ("winning", "losing", "adapters"):
            if getattr(target, field) != fields[field].default:
                return (
                    f"target.{field} has no effect with target.source '{source}', but with 'data_driven'; leave it out"
                )
    if source != "guidance" and target.guidance_weight != type(target).model_fields["guidance_weight"].default:
        return f"target.guidance_weight has no effect with target.source '{source}'; leave it out"
    if recipe.training.caption_dropout and needs_degraded_prompts(recipe):
        return (
            f"training.caption_dropout leaves target.source '{source}' nothing to learn from: without text, prompt and "
            "degraded prompt are the same; set it to 0, or choose target.source forward_noise or data_driven"
        )
    if name == "dspo" and source == "training_free" and objective.dspo_reward == "implicit":
        return (
            "objective 'dspo' with target.source 'training_free' has nothing to learn, because its winning target "
            "is the reference; set objective.dspo_reward: contrast, or another target.source"
        )
    if name == "dspo" and source != "training_free" and objective.dspo_reward == "contrast":
        return f"objective.dspo_reward 'contrast' needs target.source 'training_free'; it is '{source}'"
    return None

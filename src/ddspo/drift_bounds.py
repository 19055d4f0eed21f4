"""When a run moved too far, or not at all: the bounds that training and report share, and what each calls for.

Drift is mean |policy - reference|², contrast the mean |d|² of what there is to learn; their ratio is the square of how
many steps of length d the policy took (`docs/beta.md`).
"""

from __future__ import annotations

FULL_STEP = 1.0
"""the policy moved as far as prompt and degraded prompt are apart"""
OVERSHOOT = 2.0
"""further than that: look for lost pictures"""
DISTANCE_PAYS = 4.0
"""two steps: from here on the margin pays more for distance, in any direction, than for the right direction"""
WRECKED = 10.0
"""pictures are damaged by now"""
SETTLED = 0.05
"""mean sigmoid(-margin) below which nearly all pairs are settled"""
MOSTLY_SETTLED = 0.15
UNMOVED = 0.49
"""mean sigmoid(-margin) above which pairs have hardly begun to act (1/2 at the start)"""
STILL = 0.01
"""drift over contrast below which the policy has hardly moved"""


def diagnose(drift: float | None, saturation: float | None, done: float) -> tuple[str, str] | None:
    """(name, one sentence on what is wrong and what to change), or None while nothing is.

    Args:
        drift: drift over contrast, smoothed; None without a yardstick.
        saturation: mean sigmoid(-margin), smoothed; None without a margin.
        done: share of the run's steps that is over; a run is not called stuck in its first half.
    """
    if drift is not None and drift > DISTANCE_PAYS:
        return "drifting", (
            f"the policy drifted {drift:.2g} times the contrast, which damages pictures whatever the loss says; raise "
            "objective.beta, set objective.anchor, or lower the learning rate"
        )
    if saturation is None:
        return None
    if saturation > UNMOVED and done >= 0.5:
        if drift is not None and drift > STILL:
            return "stuck", (
                f"the loss is still where it began (-log sigmoid: log 2) though the policy moved {drift:.2g} times the "
                "contrast: objective.beta is too small to see it; raise it"
            )
        if drift is None:
            return "stuck", (
                "the loss is still where it began (-log sigmoid: log 2): the policy has hardly moved, or "
                "objective.beta is too small to see that it did; raise the learning rate or objective.beta"
            )
        return "stuck", (
            "the loss is still where it began (-log sigmoid: log 2), the policy has hardly moved; raise the learning "
            "rate, or train longer"
        )
    if saturation < SETTLED:
        far = (
            "how far the policy drifted is not known without a contrast"
            if drift is None
            else (f"the policy drifted {drift:.2g} times the contrast")
        )
        lower = ": objective.beta is too large to learn more, lower it" if drift is not None and drift < 0.1 else ""
        return "settled", f"nearly all pairs are settled (sigmoid(-margin) {saturation:.2g}) and {far}{lower}"
    return None

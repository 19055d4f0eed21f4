"""Few-step distilled checkpoints, known by what their folders say."""

from __future__ import annotations

import re

from .folder import PipelineFolder

_NAMES = re.compile(
    r"turbo|lightning|schnell|hyper-sd|sprint|distilled|(?<![a-z])(?:lcm|tcd|dmd2?)(?![a-z])", re.IGNORECASE
)
_FEW_STEP_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


def few_step_sign(folder: PipelineFolder, name: str) -> str | None:
    """Why this checkpoint looks like one that was distilled to a few steps, in words; None: it does not.

    Such a network maps noise to a picture in one or a few large steps. It no longer predicts the mean over everything
    that a noised picture may have been, so objectives that noise pictures and compare predictions do not hold for it.

    Args:
        folder: the checkpoint.
        name: what the user called it.
    """
    for called in (name, str(folder.index.get("_name_or_path", ""))):
        if found := _NAMES.search(called):
            return f"its name says '{found.group()}'"
    scheduler = folder.config("scheduler")
    kind = str(scheduler.get("_class_name", ""))
    if kind in _FEW_STEP_SCHEDULERS:
        return f"its scheduler is {kind}"
    # Turbo and Lightning start at the last timestep with an ordinary schedule; models trained down to zero
    # signal-to-noise do the same, and say so.
    trailing = scheduler.get("timestep_spacing") == "trailing" and not scheduler.get("rescale_betas_zero_snr", False)
    if kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler") and trailing:
        return "its scheduler's timestep_spacing is 'trailing'"
    if folder.pipeline_class == "FluxPipeline":
        told = folder.config("transformer").get("guidance_embeds", False)
        if not told and not scheduler.get("use_dynamic_shifting", False):
            return "it takes no guidance and its schedule is not shifted"
    return None

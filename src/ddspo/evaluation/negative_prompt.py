"""The baseline without training: the reference, guided away from each prompt's degraded prompt.

    guided = reference(x_t, c⁻) + guidance_scale (reference(x_t, c) - reference(x_t, c⁻))

It is what a sceptic asks of DDSPO first: its signal, the difference between prompt and degraded prompt, is at hand when
pictures are drawn, at no more calls than guidance with an empty prompt. It appears in an evaluation under the name
'negative_prompt', on the same prompts and seeds as every policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import read_jsonl
from ..prompts.degrade import degrade_prompts
from ..prompts.sources import PromptRecord
from ..recipe import Recipe

NEGATIVE_PROMPT = "negative_prompt"
"""the model's name in an evaluation"""


def negative_prompts(recipe: Recipe, records: Sequence[PromptRecord], output: Path) -> dict[str, str]:
    """One degraded prompt for every prompt, by the recipe's own degradation; draws depend on (seed, prompt) only.

    They are kept beside the evaluation, in OUTPUT.negative_prompts.jsonl, so that a second call asks no language model.

    Args:
        recipe: `seed` and `degradation` are used; one variant, and no filter on embeddings.
        records: the prompts.
        output: the folder of the evaluation.

    Returns:
        prompt id -> degraded prompt; '' (plain guidance) where the method finds nothing to degrade.

    Raises:
        UserError: no prompt could be degraded, or the file was made with other settings.
    """
    path = output.with_name(f"{output.name}.negative_prompts.jsonl")
    alone = {"variants": 1, "min_embedding_distance": 0.0, "measure_embedding_distance": False}
    degrade_prompts(recipe.degradation.model_copy(update=alone), records, path, recipe.seed)
    found = {row["id"]: row["degraded_prompts"][0] for row in read_jsonl(path)}
    return {record.id: found.get(record.id, "") for record in records}

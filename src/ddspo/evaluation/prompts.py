"""The prompts that pictures are judged on."""

from __future__ import annotations

from ..errors import UserError
from ..prompts.held_out import HELD_OUT, held_out_part
from ..prompts.records import PromptList
from ..prompts.sources import read_prompts
from ..recipe import Recipe

_FIELDS = {
    "prompts.source": "evaluation.prompts",
    "prompts.column": "evaluation.column",
    "prompts.limit": "evaluation.limit",
    "tinyscenes:train": "tinyscenes:heldout",
}


def evaluation_prompts(recipe: Recipe) -> PromptList:
    """What the recipe's `evaluation.prompts`, `column` and `limit` mean.

    Raises:
        UserError: they cannot be read; names the fields of this section, which the reader does not know of.
    """
    evaluation, source = recipe.evaluation, recipe.prompts
    if evaluation.prompts == HELD_OUT:
        return read_prompts(source.source, source.column, evaluation.limit, recipe.seed, held_out_part(recipe))
    try:
        return read_prompts(evaluation.prompts, evaluation.column, evaluation.limit, recipe.seed)
    except UserError as error:
        told = str(error)
        for theirs, ours in _FIELDS.items():
            told = told.replace(theirs, ours)
        raise UserError(told) from error

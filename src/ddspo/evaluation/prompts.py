"""The prompts that pictures are judged on."""

from __future__ import annotations

from ..errors import UserError
from ..prompts.records import PromptList
from ..prompts.sources import read_prompts
from ..recipe_evaluation import Evaluation

_FIELDS = {
    "prompts.source": "evaluation.prompts",
    "prompts.column": "evaluation.column",
    "prompts.limit": "evaluation.limit",
    "tinyscenes:train": "tinyscenes:heldout",
}


def evaluation_prompts(evaluation: Evaluation, seed: int) -> PromptList:
    """What `evaluation.prompts`, `column` and `limit` mean.

    Raises:
        UserError: they cannot be read; names the fields of this section, which the reader does not know of.
    """
    try:
        return read_prompts(evaluation.prompts, evaluation.column, evaluation.limit, seed)
    except UserError as error:
        told = str(error)
        for theirs, ours in _FIELDS.items():
            told = told.replace(theirs, ours)
        raise UserError(told) from error

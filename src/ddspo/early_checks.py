"""What would end a late stage, found before the first one: nobody should draw pairs for hours to learn of a typo."""

from __future__ import annotations

from .recipe import Recipe
from .recipe_file import baseline_recipe


def check_later_stages(recipe: Recipe) -> None:
    """Look at what training and evaluation will ask for; finds the model's files and loads none.

    Raises:
        UserError: evaluation prompts or scorers that are not there, a model that is not, or a precision that device or
            model cannot be trained in; of the policy or of a baseline.
    """
    from .evaluation.evaluate import check_evaluation
    from .families.load import load_model
    from .training.setup import check_precision

    check_evaluation(recipe)
    family = load_model(recipe.model)
    for own in (recipe, *(baseline_recipe(recipe, name) for name in recipe.baselines)):
        check_precision(own, family)

"""What every part of a recipe is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A frozen group of fields; a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

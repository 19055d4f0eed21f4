"""One tiny base with two policies, evaluated once per module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddspo.evaluation import features
from ddspo.evaluation.evaluate import evaluate
from helpers.evaluation_cases import PROMPTS, policy_of, recipe_for
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def few_real_renders() -> Iterator[None]:
    """Real renders cost seconds here; their number is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_REAL_IN_ALL", 40)
        yield


@pytest.fixture(scope="module")
def home(few_real_renders: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, idle/ (a policy that changes nothing), bold/ (one that does), prompts.jsonl."""
    folder = tmp_path_factory.mktemp("home")
    tiny_sd(folder, scheduler="ddim").rename(folder / "base")
    policy_of(folder / "base", folder / "idle", 0.0)
    policy_of(folder / "base", folder / "bold", 1.0)
    rows = [json.dumps({"prompt": prompt, "category": name}) for prompt, name in PROMPTS.items()]
    (folder / "prompts.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken evaluation of both policies."""
    output = tmp_path_factory.mktemp("scores") / "whole"
    evaluate(recipe_for(home), {"idle": home / "idle", "bold": home / "bold"}, output)
    return output

"""Prompts that are set aside: judged on, never trained on, and the same whoever reads the list in whatever order."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ddspo.alignment import degrade_stage
from ddspo.evaluation.prompts import evaluation_prompts
from ddspo.files import content_id, read_jsonl
from ddspo.plan import make_plan
from ddspo.prompts.held_out import Part, held_out_part, trained_part
from ddspo.prompts.sources import read_prompts
from ddspo.prompts.stream import open_prompts
from ddspo.recipe import Recipe

PROMPTS = [f"a photo of {number} red cats on a blue table" for number in range(400)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def recipe(source: Path, share: float = 0.25, seed: int = 0, **evaluation: object) -> Recipe:
    return Recipe.model_validate(
        {
            "seed": seed,
            "prompts": {"source": str(source), "held_out": share},
            "degradation": {"method": "removal", "variants": 1},
            "evaluation": {"prompts": "held_out", "scorers": ["clip_score"], "set_metrics": []} | evaluation,
        }
    )


def texts(records: object) -> set[str]:
    return {record.prompt for record in records}  # type: ignore[attr-defined]


def test_every_prompt_is_either_trained_on_or_set_aside(source: Path) -> None:
    made = recipe(source)
    judged = texts(evaluation_prompts(made))
    trained = texts(open_prompts(str(source), part=trained_part(made)))
    assert judged | trained == set(PROMPTS) and not judged & trained
    # A binomial draw of 400 with share 1/4: five standard deviations are 43.
    assert abs(len(judged) - 100) < 43


def test_whether_a_prompt_is_set_aside_depends_on_itself_and_the_seed_alone(source: Path) -> None:
    made = recipe(source)
    judged = texts(evaluation_prompts(made))
    source.write_text("\n".join([*reversed(PROMPTS[:200]), "something new"]))
    assert texts(evaluation_prompts(made)) - {"something new"} == judged & set(PROMPTS[:200])
    source.write_text("\n".join(PROMPTS))
    other = texts(evaluation_prompts(recipe(source, seed=1)))
    assert other != judged and 0 < len(other & judged) < len(judged)
    more = texts(evaluation_prompts(recipe(source, share=0.5)))
    assert judged < more, "a larger share adds prompts and gives none back"


def test_a_limit_is_drawn_within_each_part(source: Path) -> None:
    made = recipe(source, limit=7)
    judged = evaluation_prompts(made)
    assert len(judged) == 7 and all(record.id in held_out_part(made) for record in judged)
    trained = read_prompts(str(source), limit=50, part=trained_part(made))
    assert len(trained) == 50 and not any(record.id in held_out_part(made) for record in trained)


def test_the_shares_at_the_ends() -> None:
    ids = [content_id(prompt) for prompt in PROMPTS]
    assert not any(one in Part(0.0, 0, held_out=True) for one in ids)
    assert all(one in Part(1.0, 0, held_out=True) for one in ids)


def test_nothing_that_judges_is_degraded_and_the_plan_counts_both(source: Path, tmp_path: Path) -> None:
    made = recipe(source)
    (tmp_path / "run").mkdir()
    degrade_stage(made, tmp_path / "run")
    degraded = {row["prompt"] for row in read_jsonl(tmp_path / "run" / "degraded.jsonl")}
    judged = texts(evaluation_prompts(made))
    assert degraded == set(PROMPTS) - judged
    plan = make_plan(made).text()
    assert f"{len(degraded)} prompts, up to 1 variants" in plan and f"{len(judged)} prompts x 1" in plan


def test_nothing_is_held_out_without_a_share() -> None:
    with pytest.raises(ValidationError, match=r"set prompts.held_out=0\.1"):
        Recipe.model_validate({"evaluation": {"prompts": "held_out"}})

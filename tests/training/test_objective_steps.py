"""Every objective with every target that goes with it: one step on a tiny network, rows as foretold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.method_facts import OBJECTIVES as FACTS
from ddspo.method_facts import TARGETS as TARGET_FACTS
from ddspo.method_facts import frozen_rows, needs_degraded_prompts, policy_rows, unfit
from ddspo.objectives import OBJECTIVES
from ddspo.pairs.store import PairStore
from ddspo.plan import training_cost
from ddspo.recipe import Recipe
from ddspo.tensors import Conditioning
from ddspo.training.loop import train
from ddspo.training.metrics import read_metrics
from ddspo.training.run import Run
from ddspo.training.setup import start_accelerator
from ddspo.training.step import StepOutcome, make_step
from helpers.training_cases import changed, make_case, metrics_of, policy_bytes

OWN: dict[str, dict[str, Any]] = {"dspo": {"dspo_reward": "contrast"}}
"""what an objective needs to be told when its target is training_free"""


def combinations() -> list[tuple[str, str]]:
    found = []
    for name in FACTS:
        for target in TARGET_FACTS:
            own = OWN.get(name, {}) if target == "training_free" else {}
            recipe = Recipe.model_construct(**_sections(name, target, own))
            if unfit(recipe) is None and not (name == "denoising" and target != "forward_noise"):
                found.append((name, target))
    return found


def _sections(name: str, target: str, own: dict[str, Any]) -> dict[str, Any]:
    from ddspo.recipe import Objective, Target

    return {"objective": Objective(name=name, **own), "target": Target(source=target)}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objectives")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    recipe, pairs = make_case(folder, micro_batch_pairs=4)
    family = load_family(recipe.model.base)
    made = Run(recipe, PairStore(pairs), folder / "run", family, start_accelerator(recipe, folder / "run"))
    with torch.no_grad():  # away from the reference, where an objective's gradient may vanish by symmetry
        generator = torch.Generator().manual_seed(0)
        for parameter in made.parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


class Counted:
    """Roles that count rows and stand in for the winning and losing model."""

    def __init__(self, run: Run) -> None:
        self.run, self.rows, self.policy_rows = run, 0, 0

    def __call__(self, role: Any, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        if role == "policy":
            self.policy_rows += len(x_t)
            return self.run.roles.predict(role, x_t, timestep, conditioning)
        self.rows += len(x_t)
        prediction = self.run.roles.predict("reference", x_t, timestep, conditioning)
        return prediction + {"reference": 0.0, "winning": -0.1, "losing": 0.1}[role]


def one_step(run: Run, recipe: Recipe) -> tuple[StepOutcome, Counted, float]:
    """A forward and a backward on the run's first batch; (outcome, rows, gradient norm)."""
    counted = Counted(run)
    (micro,) = run.batches.micro_batches(0)
    outcome = make_step(recipe, counted, run.family.noise_path)(micro.pairs)
    run.optimizer.zero_grad()
    outcome.loss.sum().backward()
    squares = [parameter.grad.square().sum() for parameter in run.parameters.values() if parameter.grad is not None]
    return outcome, counted, float(torch.stack(squares).sum().sqrt())


def recipe_for(run: Run, name: str, target: str, **objective: Any) -> Recipe:
    own = OWN.get(name, {}) if target == "training_free" else {}
    data = run.recipe.model_dump()
    data |= {"objective": {"name": name, "beta": 50.0} | own | objective, "target": {"source": target}}
    return Recipe.model_validate(data)


def test_every_objective_of_the_recipe_has_facts_and_a_loss() -> None:
    assert list(OBJECTIVES) == list(FACTS)


@pytest.mark.parametrize(("name", "target"), combinations())
def test_one_step_of_every_combination(run: Run, name: str, target: str) -> None:
    recipe = recipe_for(run, name, target)
    outcome, counted, norm = one_step(run, recipe)
    assert outcome.loss.shape == (4,) and outcome.loss.isfinite().all()
    assert norm > 0
    assert (counted.rows, counted.policy_rows) == (4 * frozen_rows(recipe), 4 * policy_rows(recipe))
    assert outcome.forward_rows == counted.rows + counted.policy_rows
    assert outcome.forward_rows + 2 * outcome.backward_rows == 4 * training_cost(recipe)
    assert (outcome.margin is None) == (FACTS[name].beta is None)
    known = FACTS[name].needs_reference or target == "guidance"
    assert (outcome.win_drift is not None) == known
    assert (outcome.contrast is not None) == (known and TARGET_FACTS[target].contrastive)
    assert needs_degraded_prompts(recipe) == (target in ("training_free", "guidance"))


def test_the_costs_of_the_table_in_the_step(run: Run) -> None:
    expected = {
        ("preference", "training_free"): 9,
        ("dmpo", "forward_noise"): 8,
        ("kto", "data_driven"): 10,
        ("mapo", "training_free"): 8,
        ("mapo", "forward_noise"): 6,
        ("dppo", "data_driven"): 8,
        ("guidance_distillation", "guidance"): 10,
        ("denoising", "forward_noise"): 3,
    }
    for (name, target), cost in expected.items():
        assert training_cost(recipe_for(run, name, target)) == cost, name
    for name, cost in {"mapo": 8, "denoising": 4}.items():
        assert training_cost(recipe_for(run, name, "forward_noise", anchor=0.5)) == cost


@pytest.mark.parametrize(
    ("name", "target"), [("preference", "training_free"), ("mapo", "forward_noise"), ("denoising", "forward_noise")]
)
def test_anchors_price_drift_and_ask_the_reference_for_it(run: Run, name: str, target: str) -> None:
    plain, *_ = one_step(run, recipe_for(run, name, target))
    recipe = recipe_for(run, name, target, anchor=0.5)
    priced, counted, _ = one_step(run, recipe)
    assert counted.rows == 4 * frozen_rows(recipe)
    assert priced.win_drift is not None
    drift = priced.win_drift + (0 if priced.lose_drift is None else priced.lose_drift)
    unit = 25.0 if name == "preference" else 1.0
    torch.testing.assert_close(priced.loss - plain.loss, 0.5 * unit * drift, rtol=1e-3, atol=1e-4)
    if name != "denoising":
        assert priced.lose_drift is not None
        one_sided, *_ = one_step(run, recipe_for(run, name, target, anchor=0.0, lose_anchor=2.0))
        difference = one_sided.loss - plain.loss
        torch.testing.assert_close(difference, 2.0 * unit * priced.lose_drift, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "target"),
    [("preference", "training_free"), ("dmpo", "forward_noise"), ("mapo", "training_free")],
)
def test_safeguard_changes_gradients_and_no_value(run: Run, name: str, target: str) -> None:
    plain, _, norm = one_step(run, recipe_for(run, name, target))
    recipe = recipe_for(run, name, target, safeguard=1.0)
    guarded, counted, held = one_step(run, recipe)
    assert torch.equal(plain.loss, guarded.loss)
    assert counted.rows == 4 * frozen_rows(recipe)
    assert held != norm


def test_a_given_beta_and_given_rows_take_the_place_of_the_recipes(run: Run) -> None:
    recipe = recipe_for(run, "preference", "training_free")
    counted = Counted(run)
    step = make_step(recipe, counted, run.family.noise_path)
    (micro,) = run.batches.micro_batches(0)
    one = step(micro.pairs)
    other = make_step(recipe_for(run, "preference", "training_free", beta=7.0), counted, run.family.noise_path)
    assert torch.equal(step(micro.pairs, beta=7.0).loss, other(micro.pairs).loss)
    rows = step.keywords["target"](micro.pairs, _states(run, micro.pairs), counted, run.family.noise_path)  # type: ignore[attr-defined]
    before = counted.rows
    again = step(micro.pairs, rows=rows)
    assert counted.rows == before
    assert torch.equal(again.loss, one.loss)
    assert again.forward_rows == 2 * 4
    auto = make_step(recipe_for(run, "preference", "training_free", beta="auto"), counted, run.family.noise_path)
    with pytest.raises(UserError, match="auto"):
        auto(micro.pairs)


def _states(run: Run, batch: Any) -> Any:
    from ddspo.diffusion.states import states

    return states(batch, run.family.noise_path)


def test_full_fine_tuning_without_a_reference_keeps_no_copy_and_resumes(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, parameters="full", max_steps=3, checkpoint_every_steps=1)
    recipe = changed(recipe, target={"source": "forward_noise"}, objective={"name": "mapo", "beta": 0.1})
    family = load_family(recipe.model.base)
    made = Run(recipe, PairStore(pairs), tmp_path / "look", family, start_accelerator(recipe, tmp_path / "look"))
    assert made.roles._frozen is None
    (micro, *_) = made.batches.micro_batches(0)
    with pytest.raises(UserError, match="asks for none"):
        made.roles.predict("reference", micro.pairs.x_0.win, micro.pairs.timestep, micro.pairs.prompt)
    summary = train(recipe, pairs, tmp_path / "whole")
    assert summary.cost["network_evaluations"] == 3 * 4 * 6
    row = metrics_of(tmp_path / "whole")[-1]
    assert "margin" in row and "win_drift" not in row
    for left in (tmp_path / "whole" / "policy").rglob("*.safetensors"):
        assert left.stat().st_size > 0
    assert policy_bytes(tmp_path / "whole")


@pytest.mark.parametrize(("name", "beta"), [("dspo", 0.001), ("preference", 16000.0), ("kto", 1000.0)])
def test_accuracy_counts_pairs_whatever_the_size_of_beta(run: Run, name: str, beta: float) -> None:
    """DSPO's published beta leaves margins of 1e-5 that are no ties."""
    outcome, *_ = one_step(run, recipe_for(run, name, "forward_noise", beta=beta))
    assert outcome.margin is not None and outcome.margin.all()
    sums = run.metric_sums()
    sums.add(outcome, outcome.loss)
    assert read_metrics(sums, sums.vector.tolist())["accuracy"] == (outcome.margin > 0).float().mean().item()


@pytest.mark.parametrize("name", list(FACTS))
def test_saturation_is_told_where_it_starts_at_one_half(run: Run, name: str) -> None:
    target = FACTS[name].target or "forward_noise"
    counted = Counted(run)

    def at_the_start(role: Any, *asked: Any) -> Tensor:
        return counted("reference", *asked) if role == "policy" else counted(role, *asked)

    (micro,) = run.batches.micro_batches(0)
    outcome = make_step(recipe_for(run, name, target), at_the_start, run.family.noise_path)(micro.pairs)
    sums = run.metric_sums()
    sums.add(outcome, outcome.loss)
    row = read_metrics(sums, sums.vector.tolist())
    assert ("saturation" in row) == (name in ("preference", "ipo", "hinge", "dmpo", "kto"))
    if "saturation" in row:
        assert (row["saturation"], row["accuracy"]) == (pytest.approx(0.5, abs=1e-4), 0.5)


def test_metrics_read_what_the_objective_measures(run: Run) -> None:
    outcome, *_ = one_step(run, recipe_for(run, "kto", "training_free"))
    sums = run.metric_sums()
    sums.add(outcome, outcome.loss)
    row = read_metrics(sums, sums.vector.tolist())
    assert outcome.margin is not None
    assert row["margin"] == pytest.approx(outcome.margin.mean().item(), rel=1e-5)

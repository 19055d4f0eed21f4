"""A reference that follows the policy: its weights by hand, its predictions, and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from ddspo import recipe as recipes
from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.pairs.store import PairStore
from ddspo.recipe import Recipe
from ddspo.tensors import Conditioning
from ddspo.training.loop import train, train_step
from ddspo.training.moving_reference import MovingReference
from ddspo.training.run import Run
from ddspo.training.setup import start_accelerator
from helpers.training_cases import changed, make_case, metrics_of, policy_bytes

MOVING = {"every_steps": 2, "rate": 0.5, "pull": 0.25}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("moving")


def case(folder: Path, parameters: str, **moving: float) -> tuple[Recipe, Path]:
    recipe, pairs = make_case(folder, parameters=parameters, checkpoint_every_steps=1, max_steps=4)
    return changed(recipe, objective={"reference": MOVING | moving}), pairs


def open_run(recipe: Recipe, pairs: Path, output: Path) -> Run:
    family = load_family(recipe.model.base)
    return Run(recipe, PairStore(pairs), output, family, start_accelerator(recipe, output))


def predictions(run: Run) -> dict[str, torch.Tensor]:
    micro = next(iter(run.batches.micro_batches(0)))
    asked = micro.pairs.x_0.win, micro.pairs.timestep, micro.pairs.prompt
    with torch.no_grad():
        return {"policy": run.roles.predict("policy", *asked), "reference": run.roles.predict("reference", *asked)}


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_weights_by_hand_and_only_when_due(folder: Path, tmp_path: Path, parameters: str) -> None:
    recipe, pairs = case(folder, parameters)
    run = open_run(recipe, pairs, tmp_path / "run")
    mover = run.moving_reference
    assert mover is not None
    start, at_start = run.roles.state(), predictions(run)
    torch.testing.assert_close(at_start["policy"], at_start["reference"], rtol=0, atol=1e-6)
    trained = list(run.parameters)
    train_step(run, 0)
    torch.testing.assert_close(predictions(run)["reference"], at_start["reference"], rtol=0, atol=0)  # not due yet
    train_step(run, 1)
    policy = run.roles.state()
    for name, weight in mover.weights.items():
        halfway = start[name] + 0.5 * (policy[name] - start[name])
        torch.testing.assert_close(weight, halfway + 0.25 * (start[name] - halfway))
    after = predictions(run)
    assert (after["reference"] - at_start["reference"]).abs().max() > 0
    assert list(run.roles.trainable_parameters()) == trained  # nothing more is trained, nothing less
    assert all(parameter.requires_grad for parameter in run.roles.trainable_parameters().values())


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_a_reference_moved_all_the_way_predicts_as_the_policy(folder: Path, tmp_path: Path, parameters: str) -> None:
    recipe, pairs = case(folder, parameters, every_steps=1, rate=1.0, pull=0.0)
    run = open_run(recipe, pairs, tmp_path / "run")
    before = predictions(run)["policy"]
    train_step(run, 0)
    now = predictions(run)
    assert (now["policy"] - before).abs().max() > 1e-4
    torch.testing.assert_close(now["reference"], now["policy"], rtol=0, atol=1e-5)


def test_a_full_pull_keeps_the_reference_where_it_started(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = case(folder, "lora", pull=1.0)
    recipe = changed(recipe, training={"max_steps": 3})
    frozen = changed(recipe, objective={"reference": None})
    train(recipe, pairs, tmp_path / "pulled")
    train(frozen, pairs, tmp_path / "frozen")
    moved, still = metrics_of(tmp_path / "pulled"), metrics_of(tmp_path / "frozen")
    for one, other in zip(moved, still, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_interrupted_anywhere_it_ends_where_the_unbroken_run_does(
    folder: Path, tmp_path: Path, parameters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = case(folder, parameters)
    train(recipe, pairs, tmp_path / "unbroken")

    class KilledError(Exception):
        pass

    follow = MovingReference.follow

    def dies_at_three(self: MovingReference, done: int) -> None:
        follow(self, done)
        if done == 3:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(MovingReference, "follow", dies_at_three)
        with pytest.raises(KilledError):
            train(recipe, pairs, tmp_path / "run")
    train(recipe, pairs, tmp_path / "run")
    assert policy_bytes(tmp_path / "run") == policy_bytes(tmp_path / "unbroken")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "unbroken")
    frozen = changed(recipe, objective={"reference": None})
    train(frozen, pairs, tmp_path / "frozen")
    assert metrics_of(tmp_path / "frozen")[-1]["loss"] != metrics_of(tmp_path / "run")[-1]["loss"]


def test_a_saved_policy_holds_the_policy_alone(folder: Path, tmp_path: Path) -> None:
    family = load_family(make_case(folder)[0].model.base)
    roles = Roles.lora(family, recipes.Lora(rank=2), seed=0)
    MovingReference(recipes.MovingReference(), roles)
    roles.save_policy(tmp_path / "policy")
    from safetensors.torch import load_file

    names = list(load_file(tmp_path / "policy" / "pytorch_lora_weights.safetensors"))
    assert names and not [name for name in names if "moving" in name]
    again = load_family(family.base)
    alone = Roles.lora(again, recipes.Lora(rank=2), seed=0)
    alone.save_policy(tmp_path / "alone")
    for file in (tmp_path / "alone").glob("*.safetensors"):
        assert (tmp_path / "policy" / file.name).read_bytes() == file.read_bytes()
    x_t = torch.zeros(1, *family.latent_shape())
    asked = x_t, torch.tensor([10]), Conditioning(family.encode_prompts(["a cat"]).tensors)
    torch.testing.assert_close(roles.predict("reference", *asked), alone.predict("reference", *asked))


def test_recipes_that_leave_it_nothing_to_do_are_refused(folder: Path) -> None:
    recipe, _ = case(folder, "lora")
    with pytest.raises(ValidationError, match="objective.reference has no effect"):
        changed(recipe, objective={"name": "denoising"})
    with pytest.raises(ValidationError, match="reference_rows"):
        changed(recipe, training={"reference_rows": "rows"})
    with pytest.raises(ValidationError, match="objective.reference would move"):
        changed(recipe, target={"source": "data_driven"}, training={"parameters": "full"})

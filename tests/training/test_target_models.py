"""The winning and losing models: each fitted to its side, resumed bit for bit, then training against them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ddspo import alignment
from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.policy import load_policy
from ddspo.pairs.store import PairStore
from ddspo.plan import make_plan
from ddspo.recipe import Recipe
from ddspo.target_recipes import target_model_recipe, target_trainings
from ddspo.training import run as run_module
from ddspo.training.checkpoint import latest_checkpoint, save_checkpoint
from ddspo.training.data import draw, pair_number
from ddspo.training.loop import train
from ddspo.training.target_models import train_target_models, with_target_models
from helpers.training_cases import changed, make_case, metrics_of, policy_bytes

ADAPTERS = {
    "rank": 2,
    "alpha": 4,
    "learning_rate": 1e-3,
    "max_steps": 3,
    "global_batch_pairs": 4,
    "micro_batch_pairs": 2,
}


def make(folder: Path, **training: Any) -> tuple[Recipe, Path]:
    recipe, pairs = make_case(folder, **{"max_steps": 2, "checkpoint_every_steps": 2, **training})
    return changed(recipe, target={"source": "data_driven", "adapters": ADAPTERS}), pairs


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Recipe, Path, Path]:
    """(recipe with its models filled in, pairs, the models' folder)."""
    recipe, pairs = make(folder)
    return train_target_models(recipe, pairs, folder / "targets"), pairs, folder / "targets"


def test_each_model_is_trained_as_published_but_for_what_the_recipe_says() -> None:
    recipe = Recipe(target={"source": "data_driven"})  # type: ignore[arg-type]
    winning = target_model_recipe(recipe, "winning")
    assert winning.objective.name == "denoising" and winning.objective.side == "win"
    assert winning.training.parameters == "lora" and winning.training.lora.rank == 4
    assert winning.training.optimizer.learning_rate == 1e-4 and winning.training.optimizer.schedule == "constant"
    assert (winning.training.max_steps, winning.training.global_batch_pairs) == (300, 2048)
    losing = target_model_recipe(recipe, "losing")
    assert losing.objective.side == "lose"
    assert losing.training == winning.training and losing.seed == winning.seed


def test_the_first_steps_gradient_is_that_of_the_plain_loss_on_each_side(folder: Path, tmp_path: Path) -> None:
    """Written out: same pairs and timesteps on both sides, noise of its own for each, means over all dimensions."""
    recipe, pairs = make(folder)
    store = PairStore(pairs)
    for role, side in (("winning", "win"), ("losing", "lose")):
        own = target_model_recipe(recipe, role)  # type: ignore[arg-type]
        own = changed(own, training={"max_steps": 1, "checkpoint_every_steps": 1})
        train(own, pairs, tmp_path / role)
        family = load_family(str(recipe.model.base))
        losses = []
        for position in range(4):
            number = pair_number(recipe.seed, len(store), position)
            uniform, noise = draw(recipe.seed, 0, position, (4, 8, 8), second=side == "lose")
            first = draw(recipe.seed, 0, position, (4, 8, 8))
            assert uniform == first[0] and torch.equal(noise, first[1]) == (side == "win")
            timestep = family.noise_path.timesteps[int(uniform * 1000)][None]
            x_0 = getattr(store.read([number]), side)
            prompt = family.encode_prompts([store.rows[number]["prompt"]])
            x_t = family.noise_path.add_noise(x_0, noise[None], timestep)
            with torch.no_grad():
                losses.append((family.predict(x_t, timestep, prompt) - noise).square().mean().item())
        (row,) = metrics_of(tmp_path / role)
        assert row["loss"] == pytest.approx(sum(losses) / 4, rel=1e-4)
        assert "margin" not in row and row["network_evaluations"] == 4 * 3


def weights(output: Path) -> dict[str, Tensor]:
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    return checkpoint.tensors["trained"]


def test_the_two_models_differ_and_load_in_plain_diffusers(made: tuple[Recipe, Path, Path]) -> None:
    recipe, _, models = made
    assert recipe.target.winning == models / "winning" / "policy"
    family = load_family(str(recipe.model.base))
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = x_t, torch.tensor([500]), family.encode_prompts(["a red cat"])
    predictions = {}
    for role in ("winning", "losing"):
        pipeline = StableDiffusionPipeline.from_pretrained(
            recipe.model.base, dtype=torch.float32, safety_checker=None, feature_extractor=None
        )
        pipeline.load_lora_weights(models / role / "policy")
        with torch.no_grad():
            predictions[role] = family.predict(*arguments, denoiser=pipeline.unet)
            ours = load_policy(models / role / "policy").predict(*arguments)
        torch.testing.assert_close(predictions[role], ours, rtol=0, atol=1e-5)
    assert (predictions["winning"] - predictions["losing"]).abs().max() > 1e-4


def test_a_kill_anywhere_and_the_same_command_give_the_same_models(
    made: tuple[Recipe, Path, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make(folder)
    saves: list[int] = []

    class Killed(Exception):  # noqa: N818
        pass

    def dying(where: Path, checkpoint: Any, keep: int) -> Path:
        path = save_checkpoint(where, checkpoint, keep)
        saves.append(checkpoint.step)
        if len(saves) in (1, 3):  # in the middle of the winning model's training, and of the losing one's
            raise Killed
        return path

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", dying)
        for _ in range(2):
            with pytest.raises(Killed):
                train_target_models(recipe, pairs, tmp_path / "targets")
    with pytest.raises(UserError, match=r"losing holds no model; make it with `ddspo targets`"):
        with_target_models(recipe, tmp_path / "targets")
    train_target_models(recipe, pairs, tmp_path / "targets")
    _, _, unbroken = made
    for role in ("winning", "losing"):
        assert policy_bytes(tmp_path / "targets" / role) == policy_bytes(unbroken / role)
        assert metrics_of(tmp_path / "targets" / role) == metrics_of(unbroken / role)
    before = (tmp_path / "targets" / "losing" / "policy" / "ddspo.json").stat().st_mtime_ns
    train_target_models(recipe, pairs, tmp_path / "targets")
    assert (tmp_path / "targets" / "losing" / "policy" / "ddspo.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_training_against_them_moves_the_policy_and_keeps_only_what_it_trains(
    made: tuple[Recipe, Path, Path], tmp_path: Path, parameters: str
) -> None:
    recipe, pairs, models = made
    recipe = changed(recipe, training={"parameters": parameters})
    summary = train(recipe, pairs, tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert rows[0]["gradient_norm"] > 0 and rows[-1]["win_drift"] > 0
    assert rows[0]["network_evaluations"] == 4 * (4 + 6)
    assert not any(role in name for name in weights(tmp_path / "run") for role in ("winning", "losing"))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    assert load_policy(summary.policy).name == "stable_diffusion"
    moved = shutil.copytree(models, tmp_path / "elsewhere")  # another place is no other setting: contents count
    places = {role: moved / role / "policy" / "pytorch_lora_weights.safetensors" for role in ("winning", "losing")}
    train(changed(recipe, target=places), pairs, tmp_path / "run")
    swapped = {"winning": places["losing"], "losing": places["winning"]}
    with pytest.raises(UserError, match=r"other settings .*target\.winning"):
        train(changed(recipe, target=swapped), pairs, tmp_path / "run")


def test_one_model_may_be_given_and_the_other_is_trained(
    made: tuple[Recipe, Path, Path], folder: Path, tmp_path: Path
) -> None:
    recipe, pairs = make(folder)
    given = changed(recipe, target={"winning": made[2] / "winning"})
    filled = train_target_models(given, pairs, tmp_path / "targets")
    assert sorted(path.name for path in (tmp_path / "targets").iterdir()) == ["losing"]
    assert filled.target.winning == made[2] / "winning"
    assert policy_bytes(tmp_path / "targets" / "losing") == policy_bytes(made[2] / "losing")


def test_train_alone_says_where_the_models_come_from(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make(folder)
    with pytest.raises(UserError, match="make the models with `ddspo targets`, or set target.winning"):
        train(recipe, pairs, tmp_path / "run")


def test_a_moving_reference_cannot_carry_the_models_of_full_training() -> None:
    settings = {"target": {"source": "data_driven"}, "objective": {"reference": {}}}
    Recipe.model_validate(settings)
    with pytest.raises(ValueError, match="objective.reference would move"):
        Recipe.model_validate(settings | {"training": {"parameters": "full"}})


def test_trainings_that_need_the_same_models_share_them() -> None:
    other = {"target": {"adapters": {"rank": 8}}}
    baselines = {"milder": {"objective": {"beta": 100}}, "wider": other, "dpo": {"target": {"source": "forward_noise"}}}
    recipe = Recipe.model_validate({"target": {"source": "data_driven"}, "baselines": baselines})
    assert target_trainings(recipe) == {"policy": "policy", "milder": "policy", "wider": "wider"}
    assert target_trainings(Recipe()) == {}


def test_the_plan_foretells_what_the_stage_costs(made: tuple[Recipe, Path, Path], folder: Path) -> None:
    recipe, _ = make(folder)
    stage = make_plan(recipe).only("targets").stages[0]
    spent = sum(metrics_of(made[2] / role)[-1]["network_evaluations"] for role in ("winning", "losing"))
    assert stage.network_evaluations == spent == 2 * 3 * 4 * 3
    assert "2 models" in stage.work and stage.disk_bytes and stage.memory_bytes


def test_align_trains_the_models_between_pairs_and_policy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make(folder)
    recipe = recipe.model_copy(update={"output": tmp_path / "run"})
    monkeypatch.setattr(alignment, "degrade_stage", lambda recipe, run: "")
    monkeypatch.setattr(alignment, "pairs_stage", lambda recipe, run: str(shutil.copytree(pairs, run / "pairs")))
    monkeypatch.setattr(alignment, "evaluate_stage", lambda recipe, run: "")
    monkeypatch.setattr(alignment, "report_stage", lambda run: run / "report.html")
    lines: list[str] = []
    alignment.align(recipe, say=lines.append)
    assert [line.split()[1] for line in lines[:-1]] == ["degrade", "pairs", "targets", "train", "evaluate", "report"]
    assert (tmp_path / "run" / "targets" / "policy" / "winning" / "policy").is_dir()
    costs = alignment.total_costs(recipe, tmp_path / "run")
    assert costs["winning model of policy"]["network_evaluations"] == 3 * 4 * 3
    assert costs["train"]["network_evaluations"] == 2 * 4 * 10

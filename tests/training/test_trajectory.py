"""Training on states that sampling visited: the batch, the noise implied, the objectives, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddspo.diffusion.noise_path import NoisePath
from ddspo.diffusion.states import added_noise, states
from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.pairs.build import build_pairs
from ddspo.pairs.store import PairStore
from ddspo.recipe import Pairs, Recipe, Sampling, Timesteps
from ddspo.tensors import Conditioning, PreferenceBatch, WinLose
from ddspo.training import run as run_module
from ddspo.training.checkpoint import save_checkpoint
from ddspo.training.data import draw, pair_number
from ddspo.training.loop import train
from ddspo.training.run import Run
from ddspo.training.setup import start_accelerator
from helpers.pair_making import write_degraded
from helpers.training_cases import changed, make_case, make_recipe, metrics_of, policy_bytes

STATES = 3


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A recipe that trains on trajectories, and pairs that hold some."""
    folder = tmp_path_factory.mktemp("case")
    base = Path(make_case(folder)[0].model.base)
    sampling = Sampling(steps=6, guidance_scale=2.0, sampler="ddim")
    recipe = changed(
        make_recipe(base),
        training={"timesteps": {"states": "trajectory"}},
        pairs=Pairs(trajectory_states=STATES, sampling=sampling, pairs_per_shard=4).model_dump(),
    )
    prompts = [("a red cat", ["a dog"]), ("blue", ["red"]), ("a cat on a car", ["a car"]), ("two dogs", ["dogs"])]
    build_pairs(recipe, write_degraded(folder / "degraded.jsonl", prompts), folder / "states")
    return recipe, folder / "states"


def make_run(recipe: Recipe, pairs: Path, output: Path) -> Run:
    return Run(recipe, PairStore(pairs), output, load_family(recipe.model.base), start_accelerator(recipe, output))


def test_the_uniform_draw_picks_a_state_of_the_pair_and_its_timestep(case: Any, tmp_path: Path) -> None:
    recipe, pairs = case
    run, seen = make_run(recipe, pairs, tmp_path), set()
    timesteps = run.store.state_timesteps
    assert timesteps is not None
    for step in range(6):
        position = 0
        for micro in run.batches.micro_batches(step):
            assert micro.pairs.noise is None
            assert micro.pairs.x_t is not None
            for row in range(len(micro.pairs.timestep)):
                uniform, _ = draw(recipe.seed, step, position, run.store.latent_shape)
                state = int(uniform * STATES)
                number = pair_number(recipe.seed, len(run.store), step * 4 + position)
                expected = run.store.read_states([number], [state])
                assert micro.pairs.timestep[row] == timesteps[state]
                assert torch.equal(micro.pairs.x_t.win[row], expected.win[0])
                assert torch.equal(micro.pairs.x_t.lose[row], expected.lose[0])
                seen.add(state)
                position += 1
    assert seen == set(range(STATES))


@pytest.mark.parametrize("kind", ["variance_preserving", "flow"])
def test_implied_noise_leads_from_x_0_to_the_state(kind: str) -> None:
    if kind == "flow":
        path = NoisePath.flow(torch.linspace(0.001, 1, 1000), torch.linspace(1, 1000, 1000))
    else:
        path = NoisePath.variance_preserving(torch.linspace(0.999, 0.005, 1000).double().square(), "epsilon")
    generator = torch.Generator().manual_seed(0)
    x_0, x_t = (WinLose(*torch.randn(2, 3, 4, 2, 2, generator=generator)) for _ in range(2))
    timestep, nothing = torch.tensor([3, 500, 998]), Conditioning({})
    batch = PreferenceBatch(x_0, None, timestep, nothing, nothing, x_t=x_t)
    noise = added_noise(batch, path)
    assert states(batch, path) is x_t
    torch.testing.assert_close(path.add_noise(x_0.win, noise.win, timestep), x_t.win, rtol=0, atol=1e-5)
    torch.testing.assert_close(path.add_noise(x_0.lose, noise.lose, timestep), x_t.lose, rtol=0, atol=1e-5)
    alpha, sigma = path.coefficients(timestep[1:2])
    torch.testing.assert_close(noise.win[1], ((x_t.win[1] - alpha[0] * x_0.win[1]) / sigma[0]).float())
    drawn = PreferenceBatch(x_0, noise.win, timestep, nothing, nothing)
    assert added_noise(drawn, path).lose is noise.win
    torch.testing.assert_close(states(drawn, path).win, x_t.win, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "sections", [{}, {"target": {"source": "forward_noise"}}, {"objective": {"name": "denoising"}}]
)
def test_every_target_and_the_denoising_loss_train_on_states(case: Any, tmp_path: Path, sections: Any) -> None:
    recipe, pairs = case
    train(changed(recipe, **sections, training={"max_steps": 3}), pairs, tmp_path / "states")
    rows = metrics_of(tmp_path / "states")
    assert all(row["gradient_norm"] > 0 for row in rows)
    losses = [row["loss"] for row in rows]
    assert len(set(losses)) == 3
    forward = changed(recipe, **sections, training={"max_steps": 1, "timesteps": {}})
    train(forward, pairs, tmp_path / "forward")
    assert metrics_of(tmp_path / "forward")[0]["gradient_norm"] != rows[0]["gradient_norm"]


def test_resumed_equals_unbroken_bit_for_bit(case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pairs = case
    train(recipe, pairs, tmp_path / "unbroken")

    def dying(*arguments: Any) -> Path:
        save_checkpoint(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, pairs, tmp_path / "broken")
    train(recipe, pairs, tmp_path / "broken")
    assert policy_bytes(tmp_path / "broken") == policy_bytes(tmp_path / "unbroken") != {}
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "unbroken")


def test_states_that_were_not_stored_are_refused(case: Any, tmp_path: Path) -> None:
    recipe, _ = case
    _, without = make_case(tmp_path)
    with pytest.raises(UserError, match=r"states is 'trajectory', and .*pairs holds no states; make pairs with"):
        train(changed(recipe, model={"base": make_case(tmp_path)[0].model.base}), without, tmp_path / "run")
    with pytest.raises(ValidationError, match=r"needs states stored with the pairs; set pairs\.trajectory_states"):
        changed(recipe, pairs={"trajectory_states": 0})


@pytest.mark.parametrize("field", [{"sampler": "logit_normal"}, {"high": 0.5}, {"low": 0.1, "logit_std": 2.0}])
def test_fields_without_effect_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"{', '.join(field)}: no effect with states 'trajectory'"):
        Timesteps.model_validate({"states": "trajectory", **field})
    assert Timesteps.model_validate({"states": "trajectory", "weight": "linear"}).weight == "linear"

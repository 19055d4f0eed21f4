"""One step against an independently written one, and its values where they are known beforehand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from ddspo.families.load import load_family
from ddspo.pairs.store import PairStore
from ddspo.plan import training_cost
from ddspo.recipe import Recipe
from ddspo.training.data import draw, pair_number
from ddspo.training.loop import accumulate_gradients
from ddspo.training.metrics import read_metrics
from ddspo.training.run import Run
from ddspo.training.setup import start_accelerator
from ddspo.training.step import ROUNDING
from helpers.training_cases import SHAPE, changed, make_case


def make_run(recipe: Recipe, pairs: Path) -> Run:
    family = load_family(recipe.model.base)
    return Run(recipe, PairStore(pairs), pairs.parent / "run", family, start_accelerator(recipe, pairs.parent / "run"))


def plain_gradients(recipe: Recipe, run: Run, target: str) -> tuple[float, dict[str, Tensor]]:
    """As the published code arranges it: pair by pair, four reference calls, diffusers' scheduler for the noise."""
    base = recipe.model.base
    policy = UNet2DConditionModel.from_pretrained(base, subfolder="unet", dtype=torch.float32)
    reference = UNet2DConditionModel.from_pretrained(base, subfolder="unet", dtype=torch.float32)
    policy.load_state_dict(run.roles.trained.state_dict())
    scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    family = load_family(base)
    count, losses = recipe.training.global_batch_pairs, []
    for position in range(count):
        uniform, noise = draw(recipe.seed, 0, position, SHAPE)
        timestep = torch.tensor([math.floor(uniform.item() * 1000)])
        number = pair_number(recipe.seed, len(run.store), position)
        row, x_0 = run.store.rows[number], run.store.read([number])
        c = family.encode_prompts([row["prompt"]]).tensors["prompt_embeds"]
        degraded = family.encode_prompts([row["degraded_prompt"]]).tensors["prompt_embeds"]
        x_w = scheduler.add_noise(x_0.win, noise[None], timestep)
        x_l = scheduler.add_noise(x_0.lose, noise[None], timestep)
        with torch.no_grad():
            ref_w = reference(x_w, timestep, c).sample
            ref_l = reference(x_l, timestep, c).sample
            target_w, target_l = noise[None], noise[None]
            if target == "training_free":
                target_w = reference(x_w, timestep, c).sample
                target_l = reference(x_l, timestep, degraded).sample
        m_w, m_l = (
            F.mse_loss(policy(x_w, timestep, c).sample, target_w),
            F.mse_loss(policy(x_l, timestep, c).sample, target_l),
        )
        r_w, r_l = F.mse_loss(ref_w, target_w), F.mse_loss(ref_l, target_l)
        losses.append(-F.logsigmoid(-0.5 * recipe.objective.beta * ((m_w - m_l) - (r_w - r_l))))
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in policy.named_parameters()}


@pytest.mark.parametrize("target", ["training_free", "forward_noise"])
def test_gradient_equals_the_published_arrangement(tmp_path: Path, target: str) -> None:
    recipe, pairs = make_case(tmp_path, parameters="full")
    recipe = changed(recipe, target={"source": target})
    run = make_run(recipe, pairs)
    with torch.no_grad():  # away from the reference, so that the winning side has a gradient as well
        generator = torch.Generator().manual_seed(0)
        for parameter in run.parameters.values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    sums = accumulate_gradients(run, 0)
    loss, gradients = plain_gradients(recipe, run, target)
    assert read_metrics(sums, sums.vector.tolist())["loss"] == pytest.approx(loss, rel=1e-5)
    ours = {name: parameter.grad for name, parameter in run.parameters.items()}
    assert ours.keys() == gradients.keys()
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    assert largest > 0.1
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=3e-4 * largest, msg=name)


def test_denoising_gradient_is_that_of_the_mean_squared_error_on_winners(tmp_path: Path) -> None:
    recipe, pairs = make_case(tmp_path, parameters="full")
    run = make_run(changed(recipe, objective={"name": "denoising"}), pairs)
    sums = accumulate_gradients(run, 0)
    batches = list(run.batches.micro_batches(0))
    unet = UNet2DConditionModel.from_pretrained(recipe.model.base, subfolder="unet", dtype=torch.float32)
    scheduler = DDPMScheduler.from_pretrained(recipe.model.base, subfolder="scheduler")
    losses = []
    for batch in (micro.pairs for micro in batches):
        x_t = scheduler.add_noise(batch.x_0.win, batch.noise, batch.timestep)
        prediction = unet(x_t, batch.timestep, batch.prompt.tensors["prompt_embeds"]).sample
        losses.append(F.mse_loss(prediction, batch.noise))
    torch.stack(losses).mean().backward()
    parameter = run.parameters["conv_in.weight"]
    torch.testing.assert_close(parameter.grad, unet.conv_in.weight.grad, rtol=1e-4, atol=1e-7)
    row = read_metrics(sums, sums.vector.tolist())
    assert row.keys() == {"loss", "network_evaluations"}
    assert row["network_evaluations"] == 4 * 3


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize("target", ["training_free", "forward_noise"])
def test_values_before_anything_is_learned(tmp_path: Path, parameters: str, target: str) -> None:
    recipe, pairs = make_case(tmp_path, parameters=parameters)
    recipe = changed(recipe, target={"source": target})
    sums = accumulate_gradients(make_run(recipe, pairs), 0)
    row = read_metrics(sums, sums.vector.tolist())
    rounding = ROUNDING * recipe.objective.beta
    assert row["margin"] == pytest.approx(0, abs=rounding)
    assert row["loss"] == pytest.approx(math.log(2), abs=rounding / 2)
    assert (row["accuracy"], row["saturation"]) == (0.5, pytest.approx(0.5, abs=rounding / 4))
    assert row["win_drift"] == pytest.approx(0, abs=1e-12)
    assert row["lose_drift"] == pytest.approx(0, abs=1e-12)
    assert ("contrast" in row) == (target == "training_free")
    assert row["network_evaluations"] == 4 * training_cost(recipe)


def test_contrast_is_the_reference_on_prompt_against_degraded_prompt(tmp_path: Path) -> None:
    recipe, pairs = make_case(tmp_path)
    run = make_run(recipe, pairs)
    sums = accumulate_gradients(run, 0)
    squares = []
    for batch in (micro.pairs for micro in run.batches.micro_batches(0)):
        x_t = run.family.noise_path.add_noise(batch.x_0.lose, batch.noise, batch.timestep)
        with_prompt = run.roles.predict("reference", x_t, batch.timestep, batch.prompt)
        with_degraded = run.roles.predict("reference", x_t, batch.timestep, batch.degraded_prompt)
        squares.append((with_prompt - with_degraded).square())
    assert read_metrics(sums, sums.vector.tolist())["contrast"] == pytest.approx(
        torch.cat(squares).mean().item(), rel=1e-4
    )


def test_linear_weight_scales_each_pair(tmp_path: Path) -> None:
    recipe, pairs = make_case(tmp_path, timesteps={"weight": "linear"})
    run = make_run(recipe, pairs)
    sums = accumulate_gradients(run, 0)
    places = [batch.pairs.timestep.float() / 999 for batch in run.batches.micro_batches(0)]
    expected = math.log(2) * torch.cat(places).mean().item()
    assert read_metrics(sums, sums.vector.tolist())["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_losing_side_gets_all_of_the_first_gradient(tmp_path: Path) -> None:
    """The winning target is the reference's own prediction: an anchor without a slope at the start."""
    recipe, pairs = make_case(tmp_path, parameters="full", micro_batch_pairs=4)
    run = make_run(recipe, pairs)
    (micro,) = run.batches.micro_batches(0)
    seen: dict[str, Any] = {}

    def predict(role: Any, x_t: Tensor, timestep: Tensor, conditioning: Any) -> Tensor:
        prediction = run.roles.predict(role, x_t, timestep, conditioning)
        if role == "policy":
            prediction.retain_grad()
            seen["policy"] = prediction
        return prediction

    run.step.keywords["predict"] = predict
    run.step(micro.pairs).loss.sum().backward()
    win, lose = seen["policy"].grad.chunk(2)
    assert win.abs().max() < 1e-3 * lose.abs().max()

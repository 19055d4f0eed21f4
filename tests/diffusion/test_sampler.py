from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from torch import Tensor

from ddspo.diffusion.noise_path import NoisePath, PredictionType
from ddspo.diffusion.sampler import Predict, SamplerStep, network_evaluations, sample
from ddspo.tensors import Conditioning
from helpers.tiny_pipelines import make_scheduler, tiny_sd

SHAPE = (2, 4, 8, 8)
PROMPTS = ["a red cat", "a blue house"]
STEPS = 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    folder = tiny_sd(tmp_path_factory.mktemp("pipeline"))
    loaded = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def predict_with(pipeline: StableDiffusionPipeline) -> Predict:
    def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return pipeline.unet(x_t, timestep, encoder_hidden_states=conditioning.tensors["prompt_embeds"]).sample

    return predict


def encode(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Conditioning:
    with torch.no_grad():
        embeds, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    return Conditioning({"prompt_embeds": embeds})


def by_the_pipeline(pipeline: StableDiffusionPipeline, scheduler: Any, guidance_scale: float, **options: Any) -> Tensor:
    pipeline.scheduler = scheduler
    return pipeline(
        PROMPTS,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        latents=normal(*SHAPE),
        output_type="latent",
        **options,
    ).images


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("name", ["pndm", "ddim", "euler", "euler_leading", "dpm++"])
def test_bit_equal_to_the_diffusers_pipeline(
    pipeline: StableDiffusionPipeline, name: str, guidance_scale: float, prediction_type: PredictionType
) -> None:
    expected = by_the_pipeline(pipeline, make_scheduler(name, prediction_type), guidance_scale)
    x_0 = sample(
        predict_with(pipeline),
        make_scheduler(name, prediction_type),
        normal(*SHAPE),
        encode(pipeline, PROMPTS),
        steps=STEPS,
        guidance_scale=guidance_scale,
        unconditional=encode(pipeline, [""]) if guidance_scale > 1 else None,
    )
    assert torch.equal(x_0, expected)
    assert not torch.equal(x_0[0], x_0[1])


def test_bit_equal_with_a_negative_prompt_per_row(pipeline: StableDiffusionPipeline) -> None:
    negative = ["cat", "house"]
    expected = by_the_pipeline(pipeline, make_scheduler("ddim"), 3.0, negative_prompt=negative)
    x_0 = sample(
        predict_with(pipeline),
        make_scheduler("ddim"),
        normal(*SHAPE),
        encode(pipeline, PROMPTS),
        steps=STEPS,
        guidance_scale=3.0,
        unconditional=encode(pipeline, negative),
    )
    assert torch.equal(x_0, expected)


@pytest.mark.parametrize("per_row", [False, True])
def test_bit_equal_when_the_scheduler_adds_noise(pipeline: StableDiffusionPipeline, per_row: bool) -> None:
    def generator() -> torch.Generator | list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in (3, 4)] if per_row else torch.Generator().manual_seed(3)

    expected = by_the_pipeline(pipeline, make_scheduler("euler_ancestral"), 1.0, generator=generator())
    arguments: dict[str, Any] = {"steps": STEPS, "guidance_scale": 1.0}
    predict, rows = predict_with(pipeline), encode(pipeline, PROMPTS)
    state = torch.random.get_rng_state()
    x_0 = sample(predict, make_scheduler("euler_ancestral"), normal(*SHAPE), rows, **arguments, generator=generator())
    assert torch.equal(x_0, expected)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_row_does_not_depend_on_its_neighbors_when_it_has_its_own_generator() -> None:
    def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return 0.5 * x_t + conditioning.tensors["prompt_embeds"][:, :, None, None]

    rows, x_T = Conditioning({"prompt_embeds": normal(2, 4, seed=1)}), normal(*SHAPE)

    def draw(index: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(s) for s in index]
        scheduler = make_scheduler("euler_ancestral")
        return sample(
            predict, scheduler, x_T[index], rows.rows(index), steps=3, guidance_scale=1.0, generator=generators
        )

    assert torch.equal(draw([0, 1])[1:], draw([1]))


@pytest.mark.parametrize("name", ["pndm", "ddim", "euler", "dpm++"])
def test_a_used_scheduler_starts_anew(name: str) -> None:
    def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return x_t.tanh()

    scheduler, rows = make_scheduler(name), Conditioning({"prompt_embeds": torch.zeros(2, 1)})
    first, second = (
        sample(predict, scheduler, normal(*SHAPE), rows, steps=STEPS, guidance_scale=1.0) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_one_call_per_step_with_unconditional_rows_first() -> None:
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    seen: list[SamplerStep] = []

    def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        embeds = conditioning.tensors["prompt_embeds"]
        calls.append((x_t, timestep, embeds))
        return embeds[:, :, None, None].expand_as(x_t)

    rows = Conditioning({"prompt_embeds": torch.tensor([[1.0], [2.0]])})
    empty = Conditioning({"prompt_embeds": torch.tensor([[-1.0]])})
    arguments: dict[str, Any] = {"steps": 3, "guidance_scale": 2.0, "unconditional": empty, "on_step": seen.append}
    sample(predict, make_scheduler("euler"), normal(2, 1, 4, 4), rows, **arguments)

    assert [step.index for step in seen] == [0, 1, 2]
    assert len(calls) == 3
    for (x_t, timestep, embeds), step in zip(calls, seen, strict=True):
        assert torch.equal(x_t, torch.cat([step.x_t, step.x_t]))
        assert timestep.tolist() == [step.timestep.item()] * 4
        assert embeds.flatten().tolist() == [-1.0, -1.0, 1.0, 2.0]
        assert step.prediction_unconditional is not None
        assert step.prediction_unconditional.flatten(1)[:, 0].tolist() == [-1.0, -1.0]
        assert step.prediction_conditional.flatten(1)[:, 0].tolist() == [1.0, 2.0]
        assert step.guided.flatten(1)[:, 0].tolist() == [3.0, 5.0]  # -1 + 2 (1 - -1), -1 + 2 (2 - -1)


def test_without_guidance_the_unconditional_rows_are_not_computed() -> None:
    seen: list[SamplerStep] = []

    def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        assert len(x_t) == len(timestep) == len(conditioning) == 2
        return x_t

    rows = Conditioning({"prompt_embeds": torch.zeros(2, 1)})
    sample(predict, make_scheduler("ddim"), normal(*SHAPE), rows, steps=2, guidance_scale=1.0, on_step=seen.append)
    assert all(step.prediction_unconditional is None for step in seen)
    assert all(torch.equal(step.guided, step.prediction_conditional) for step in seen)


@pytest.mark.parametrize("count", [None, 2])
def test_guidance_needs_unconditional_rows(count: int | None) -> None:
    rows = Conditioning({"prompt_embeds": torch.zeros(3, 1)})
    unconditional = None if count is None else rows.rows(range(count))
    with pytest.raises(ValueError, match="guidance needs 1 or 3 unconditional rows"):
        sample(
            lambda x_t, timestep, conditioning: x_t,
            make_scheduler("ddim"),
            normal(3, 1, 2, 2),
            rows,
            steps=1,
            guidance_scale=2.0,
            unconditional=unconditional,
        )


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
        EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        DPMSolverMultistepScheduler(beta_schedule="scaled_linear"),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ],
    ids=["ddim", "euler", "dpm++", "flow_euler", "flow_dpm++"],
)
def test_a_network_that_knows_the_answer_is_led_to_it_along_the_noise_path(scheduler: Any) -> None:
    path, x_0, x_T = NoisePath.from_scheduler(scheduler), normal(*SHAPE, seed=1), normal(*SHAPE)

    def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return path.convert(x_0, x_t, timestep, to=path.prediction_type, source="sample")

    rows = Conditioning({"prompt_embeds": torch.zeros(2, 1)})
    result = sample(predict, scheduler, x_T, rows, steps=10, guidance_scale=1.0)
    torch.testing.assert_close(result, x_0, rtol=0, atol=0.05)


def test_network_evaluations_count_what_sample_does() -> None:
    rows = Conditioning({"prompt_embeds": torch.zeros(2, 1)})
    for name, expected in {"pndm": 6, "ddim": 5, "euler": 5, "dpm++": 5}.items():
        scheduler, calls = make_scheduler(name), []

        def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning, calls: list[int] = calls) -> Tensor:
            calls.append(len(x_t))
            return x_t

        for guidance_scale, per_call in ((1.0, 1), (7.5, 2)):
            calls.clear()
            arguments: dict[str, Any] = {"steps": 5, "guidance_scale": guidance_scale, "unconditional": rows}
            sample(predict, scheduler, normal(2, 1, 2, 2), rows, **arguments)
            assert sum(calls) == 2 * expected * per_call
            assert network_evaluations(scheduler, 5, guidance_scale) == expected * per_call


def test_counting_leaves_the_scheduler_alone() -> None:
    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(4)
    network_evaluations(scheduler, 9, 1.0)
    assert len(scheduler.timesteps) == 4


def test_no_gradient_is_kept() -> None:
    weight = torch.ones(1, requires_grad=True)
    rows = Conditioning({"prompt_embeds": torch.zeros(2, 1)})
    x_0 = sample(
        lambda x_t, timestep, conditioning: weight * x_t,
        make_scheduler("ddim"),
        normal(*SHAPE),
        rows,
        steps=2,
        guidance_scale=1.0,
    )
    assert not x_0.requires_grad


def test_tiny_pipelines_are_deterministic(tmp_path: Path) -> None:
    first, second = tiny_sd(tmp_path / "a"), tiny_sd(tmp_path / "b")
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()

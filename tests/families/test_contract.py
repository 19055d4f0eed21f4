"""Every family obeys the same contract; a new one is one more row in helpers/family_cases.py."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch import Tensor

from ddspo import recipe
from ddspo.diffusion.sampler import sample
from ddspo.families.load import load_family
from ddspo.families.pipeline import PipelineFamily
from ddspo.families.policy import load_policy
from ddspo.families.roles import Roles
from ddspo.tensors import Conditioning
from helpers.family_cases import CASES, PROMPT, Case, record_calls


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return case.build(tmp_path_factory.mktemp(case.name))


@pytest.fixture
def family(folder: Path) -> PipelineFamily:
    return load_family(str(folder))


@pytest.fixture(scope="module")
def pipeline_once(folder: Path) -> Any:
    return quiet_pipeline(folder)


@pytest.fixture
def pipeline(pipeline_once: Any) -> Any:
    """A fresh pipeline object each time; loading is the slow part."""
    parts = {name: part for name, part in pipeline_once.components.items()}
    names = inspect.signature(type(pipeline_once).__init__).parameters
    options = {name: pipeline_once.config[name] for name in pipeline_once.config if name in names and name not in parts}
    pipeline = type(pipeline_once)(**{name: copy.deepcopy(part) for name, part in parts.items()}, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def quiet_pipeline(folder: Path) -> Any:
    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if value == [None, None]}
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unit_noise(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(ours: Tensor, theirs: Tensor) -> None:
    """Equal up to the last digits: CPU kernels round by where a matrix lies in memory."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, theirs.abs().max().item()))


def inputs(family: PipelineFamily, case: Case) -> tuple[Tensor, Tensor, Conditioning]:
    x_t = unit_noise((2, *family.latent_shape(*case.size_px)))
    timestep = family.noise_path.timesteps[torch.tensor([300, 700])]
    return x_t, timestep, family.encode_prompts([PROMPT, ""])


def shake(roles: Roles, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in roles.trainable_parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def test_conditioning_is_the_pipelines_own(case: Case, family: PipelineFamily, pipeline: Any) -> None:
    prompts = [PROMPT, "", "blue " * 600]
    ours, theirs = family.encode_prompts(prompts), case.encode(pipeline, prompts)
    assert ours.tensors.keys() >= theirs.keys()
    for name, tensor in theirs.items():
        same(ours.tensors[name], tensor)
    assert not torch.allclose(ours.rows([0]).tensors[name], ours.rows([1]).tensors[name])
    assert family.truncated(prompts) == [False, False, True]


def test_predict_is_the_pipelines_own_call(case: Case, family: PipelineFamily, pipeline: Any) -> None:
    shape = family.latent_shape(*case.size_px)
    calls = record_calls(getattr(pipeline, family.denoiser_part))
    run_pipeline(pipeline, case, unit_noise((1, *shape)), steps=3)
    assert len(calls) >= 3
    for call, timestep in zip(calls, pipeline.scheduler.timesteps, strict=True):
        rows = call.x_t.shape[0]
        conditioning = family.encode_prompts(["", PROMPT] if rows == 2 else [PROMPT])
        x_t = case.unpack(pipeline, call.x_t, shape)
        ours = family.predict(x_t, timestep.expand(rows), conditioning)
        same(ours, case.unpack(pipeline, call.output, shape))


def run_pipeline(pipeline: Any, case: Case, noise: Tensor, *, steps: int) -> Tensor:
    height, width = case.size_px
    result = pipeline(
        PROMPT,
        height=height,
        width=width,
        num_inference_steps=steps,
        latents=case.pack(pipeline, noise.clone()),
        output_type="latent",
        **{"guidance_scale": case.guidance_scale, **case.call},
    )
    return case.unpack(pipeline, result.images, tuple(noise.shape[1:]))


def test_sampler_gives_the_pipelines_latents(case: Case, family: PipelineFamily, pipeline: Any) -> None:
    x_T = unit_noise((1, *family.latent_shape(*case.size_px)))
    theirs = run_pipeline(pipeline, case, x_T, steps=4)
    conditioning = family.encode_prompts([PROMPT, ""])
    ours = sample(
        family.predict,
        family.scheduler(height_px=case.size_px[0], width_px=case.size_px[1]),
        x_T,
        conditioning.rows([0]),
        steps=4,
        guidance_scale=case.guidance_scale,
        unconditional=conditioning.rows([1]),
    )
    same(ours, theirs)


def test_noise_path_is_the_schedulers(family: PipelineFamily) -> None:
    x_0, noise = unit_noise((3, 4, 8, 8), 1), unit_noise((3, 4, 8, 8), 2)
    number = torch.tensor([1, 400, 990])
    timestep = family.noise_path.timesteps[number]
    ours = family.noise_path.add_noise(x_0, noise, timestep)
    if family.noise_path.is_flow:
        theirs = family.scheduler("euler").scale_noise(x_0, timestep, noise)
    else:  # DDPM is the path of training; the same path in Euler's arrangement is scaled differently
        theirs = DDPMScheduler.from_config(family.scheduler().config).add_noise(x_0, noise, timestep)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        family.noise_path.to_x_0(family.noise_path.target(x_0, noise, timestep), ours, timestep), x_0, atol=1e-3, rtol=0
    )


def test_decode_is_the_pipelines_and_encode_its_inverse_scale(
    case: Case, family: PipelineFamily, pipeline: Any
) -> None:
    x_0 = unit_noise((1, *family.latent_shape(*case.size_px)))
    config = pipeline.vae.config
    latents = x_0 / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
    with torch.no_grad():
        theirs = pipeline.image_processor.postprocess(pipeline.vae.decode(latents)[0], output_type="pt")
    same(family.decode(x_0), theirs)
    images = torch.rand((2, 3, *case.size_px), generator=torch.Generator().manual_seed(1))
    encoded = family.encode_images(images)
    assert encoded.shape == (2, *family.latent_shape(*case.size_px))
    with torch.no_grad():
        posterior = pipeline.vae.encode(images * 2 - 1)
        mean = posterior.latent_dist.mode() if hasattr(posterior, "latent_dist") else posterior.latent
    back = encoded / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
    torch.testing.assert_close(back, mean, rtol=1e-4, atol=1e-5)


def test_nothing_loads_that_is_not_asked_for(case: Case, family: PipelineFamily) -> None:
    assert family.loaded() == set()
    x_t, timestep, conditioning = inputs(family, case)
    family.release("text_encoder")
    assert family.loaded() == set()
    family.predict(x_t, timestep, conditioning)
    assert family.loaded() == {family.denoiser_part}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_step_0_policy_equals_reference_and_gradients_survive_reference_calls(
    case: Case, family: PipelineFamily, kind: str
) -> None:
    roles = Roles.lora(family, recipe.Lora(rank=4), 3) if kind == "lora" else Roles.full(family)
    x_t, timestep, conditioning = inputs(family, case)
    policy = roles.predict("policy", x_t, timestep, conditioning)
    reference = roles.predict("reference", x_t, timestep, conditioning)
    if kind == "lora":
        assert torch.equal(policy, reference)
    same(policy, reference)
    assert policy.requires_grad and not reference.requires_grad
    policy.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in roles.trainable_parameters().items()}
    # LoRA starts with B = 0, so A has a gradient of zero at step 0, but it has one.
    assert all(gradient is not None for gradient in gradients.values())
    moving = [name for name, gradient in gradients.items() if gradient is not None and gradient.abs().max() > 0]
    assert len(moving) >= len(gradients) // 2 - 4


def test_a_lora_loads_in_plain_diffusers_with_its_own_strength(
    case: Case, family: PipelineFamily, pipeline: Any, tmp_path: Path
) -> None:
    roles = Roles.lora(family, recipe.Lora(rank=4, alpha=16), 0)
    shake(roles)
    x_t, timestep, conditioning = inputs(family, case)
    with torch.no_grad():
        expected = roles.predict("policy", x_t, timestep, conditioning)
    assert (expected - roles.predict("reference", x_t, timestep, conditioning)).abs().max() > 1e-3
    roles.save_policy(tmp_path / "policy")
    pipeline.load_lora_weights(tmp_path / "policy")
    with torch.no_grad():
        plain = family.predict(x_t, timestep, conditioning, denoiser=getattr(pipeline, family.denoiser_part))
    same(plain, expected)
    again = load_policy(tmp_path / "policy")
    with torch.no_grad():
        same(again.predict(x_t, timestep, conditioning), expected)


def test_full_weights_load_in_plain_diffusers(case: Case, family: PipelineFamily, tmp_path: Path) -> None:
    roles = Roles.full(family)
    shake(roles, 0.01)
    x_t, timestep, conditioning = inputs(family, case)
    with torch.no_grad():
        expected = roles.predict("policy", x_t, timestep, conditioning)
    assert (expected - roles.predict("reference", x_t, timestep, conditioning)).abs().max() > 1e-3
    roles.save_policy(tmp_path / "policy", card="# A card\n")
    plain = quiet_pipeline(tmp_path / "policy")
    denoiser = getattr(plain, family.denoiser_part)
    with torch.no_grad():
        same(family.predict(x_t, timestep, conditioning, denoiser=denoiser), expected)
    theirs = case.encode(plain, [PROMPT])
    ours = family.encode_prompts([PROMPT])
    for name, tensor in theirs.items():
        same(ours.tensors[name], tensor)
    again = load_policy(tmp_path / "policy")
    with torch.no_grad():
        same(again.predict(x_t, timestep, conditioning), expected)

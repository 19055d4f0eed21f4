"""What saves memory or time changes no number: weights that rest in main memory, compiled calls."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor

from ddspo import recipe
from ddspo.families.folder import PipelineFolder
from ddspo.families.load import load_family
from ddspo.families.merge import merge_policy
from ddspo.families.offload import visiting
from ddspo.families.roles import Roles
from ddspo.tensors import Conditioning
from helpers.tiny_families import tiny_flux, tiny_sana, tiny_sd3
from helpers.tiny_pipelines import tiny_sd

Inputs = tuple[Tensor, Tensor, Conditioning]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def inputs(folder: Path) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    conditioning = load_family(str(folder)).encode_prompts(["a red cat", "a blue cat"])
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([100, 800]), conditioning


def test_visiting_weights_leave_nothing_behind() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    places = [tensor.data_ptr() for tensor in [*layer.parameters(), *layer.buffers()]]
    with pytest.raises(RuntimeError, match="boom"), visiting(layer, torch.device("cpu")):
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.data = tensor.data.clone()  # what a device that is not the host makes of a move
        raise RuntimeError("boom")
    assert [tensor.data_ptr() for tensor in [*layer.parameters(), *layer.buffers()]] == places


def test_an_offloaded_reference_says_the_same(folder: Path, inputs: Inputs) -> None:
    roles = Roles.full(load_family(str(folder)))
    before = roles.predict("reference", *inputs)
    roles.offload_reference()
    assert torch.equal(roles.predict("reference", *inputs), before)
    with torch.no_grad():
        next(iter(roles.trainable_parameters().values())).add_(0.1)
    assert torch.equal(roles.predict("reference", *inputs), before)


def test_a_resting_part_comes_back_when_it_is_used(folder: Path, inputs: Inputs, monkeypatch: Any) -> None:
    family = load_family(str(folder))
    before, text = family.predict(*inputs), family.encode_prompts(["a cat"]).tensors["prompt_embeds"]
    moves: list[str] = []
    plain = torch.nn.Module.to

    def noted(module: torch.nn.Module, device: Any) -> torch.nn.Module:
        moves.append(f"{type(module).__name__} {device}")
        return plain(module, device)

    monkeypatch.setattr(torch.nn.Module, "to", noted)
    family.rest("denoiser")
    family.rest("text_encoder")
    family.rest("vae")  # not loaded: nothing to move
    assert len(moves) == 2 and family.loaded() >= {"unet", "text_encoder", "tokenizer"}
    assert torch.equal(family.encode_prompts(["a cat"]).tensors["prompt_embeds"], text)
    assert torch.equal(family.predict(*inputs), before)
    assert torch.equal(family.predict(*inputs), before)
    assert len(moves) == 4, "each part moves back once"
    family.rest("denoiser")
    family.release("denoiser")
    assert torch.equal(family.predict(*inputs), before)


@pytest.mark.parametrize("build", [tiny_sd, tiny_sana], ids=["sd", "sana"])
def test_pictures_pass_the_autoencoder_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any
) -> None:
    """By pixels: a latent of SANA is a picture 32 times as wide, and 64 of them at once fit nowhere."""
    family = load_family(str(build(tmp_path)))
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x_0 = family.encode_images(pictures)
    decoded = family.decode(x_0)
    rows: list[int] = []
    family.part("vae").decoder.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    family.part("vae").encoder.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    monkeypatch.setattr("ddspo.families.autoencoder.PIXELS_AT_ONCE", 2 * 64 * 64)
    torch.testing.assert_close(family.encode_images(pictures), x_0)
    torch.testing.assert_close(family.decode(x_0), decoded)
    assert rows == [2, 1, 2, 1]


def test_full_fine_tuning_reads_the_denoiser_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the frozen precision first: on a large base that is minutes and gigabytes."""
    read: list[tuple[str, torch.dtype]] = []
    plain = PipelineFolder.load_model

    def noted(folder: PipelineFolder, name: str, dtype: torch.dtype, device: torch.device) -> Any:
        read.append((name, dtype))
        return plain(folder, name, dtype, device)

    monkeypatch.setattr(PipelineFolder, "load_model", noted)
    Roles.full(load_family(str(folder), dtype="bf16"), "bf16")
    assert read == [("unet", torch.float32)]


def test_a_merge_works_out_one_delta_at_a_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they are as large as the layers that they belong to."""
    Roles.lora(load_family(str(folder)), recipe.Lora(rank=2), 0).save_policy(tmp_path / "policy")
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most: list[int] = []
    plain = Linear.get_delta_weight

    def noted(layer: Any, name: str) -> Tensor:
        delta = plain(layer, name)
        alive.add(delta)
        most.append(len(alive))
        return delta

    monkeypatch.setattr(Linear, "get_delta_weight", noted)
    _ = load_family(str(folder), lora=[tmp_path / "policy"]).denoiser
    merge_policy(tmp_path / "policy", tmp_path / "merged")
    assert len(most) > 10 and max(most) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_compiled_roles_compute_alike_and_keep_their_names(
    folder: Path, inputs: Inputs, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))

    def make() -> Roles:
        family = load_family(str(folder))
        roles = Roles.lora(family, recipe.Lora(rank=2), 0) if kind == "lora" else Roles.full(family)
        with torch.no_grad():
            for parameter in roles.trainable_parameters().values():
                parameter.add_(0.01)
        return roles

    plain, compiled = make(), make()
    compiled.compile()
    assert compiled.state().keys() == plain.state().keys()
    assert not any("_orig_mod" in name for name in compiled.trainable_parameters())
    for role in ("reference", "policy", "reference"):
        torch.testing.assert_close(compiled.predict(role, *inputs), plain.predict(role, *inputs), rtol=0, atol=1e-5)
    for roles in (plain, compiled):
        loss = roles.predict("policy", *inputs).square().mean()
        roles.predict("reference", *inputs)
        loss.backward()
    for name, parameter in plain.trainable_parameters().items():
        torch.testing.assert_close(compiled.trainable_parameters()[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("build", [tiny_sd3, tiny_sana, tiny_flux])
def test_a_step_compiles_to_two_graphs_and_never_again(
    build: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the reference's call, one of the policy's: no break inside, and nothing more when they take turns."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    family = load_family(str(build(tmp_path)))
    roles = Roles.lora(family, recipe.Lora(rank=2), 0)
    text, shape = family.encode_prompts(["a red cat"]), family.latent_shape(64, 64)
    roles.compile()
    for seed in range(3):
        x_t = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
        timestep = family.noise_path.timesteps[:3]
        roles.predict("reference", x_t, timestep, text.repeat(3))
        roles.predict("policy", x_t[:2], timestep[:2], text.repeat(2)).mean().backward()
    assert len(graphs) == 2

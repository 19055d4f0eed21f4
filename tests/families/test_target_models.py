"""The winning and losing models: adapters beside the policy, on every family, that disturb nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddspo import recipe
from ddspo.diffusion.noise_path import NoisePath
from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.lora_files import WEIGHTS_FILE
from ddspo.families.policy import load_policy
from ddspo.families.roles import Roles
from ddspo.objectives.preference import preference_loss
from ddspo.targets import data_driven
from ddspo.tensors import Conditioning, PreferenceBatch, WinLose
from helpers.family_cases import CASES, Case
from helpers.tiny_families import tiny_sd3, tiny_sdxl
from helpers.tiny_pipelines import tiny_sd

FAMILIES = [case for case in CASES if case.name in ("sd_epsilon", "sdxl", "sd3", "sana", "flux")]
SIDES = ("winning", "losing")


@dataclass(frozen=True)
class Made:
    """A base, its two models on disk, and inputs for any network of the family."""

    case: Case
    base: Path
    models: dict[str, Path]

    def inputs(self) -> tuple[Tensor, Tensor, Conditioning]:
        family = load_family(str(self.base))
        x_t = normal(2, *family.latent_shape(*self.case.size_px), seed=1)
        timestep = family.noise_path.timesteps[torch.tensor([300, 700])]
        return x_t, timestep, family.encode_prompts(["a red cat", "a blue cat"])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shake(roles: Roles, seed: int, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in roles.trainable_parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def make_models(base: Path, folder: Path, **lora: Any) -> dict[str, Path]:
    models = {}
    for seed, side in enumerate(SIDES):
        roles = Roles.lora(load_family(str(base)), recipe.Lora(**{"rank": 2, "alpha": 8, **lora}), seed)
        shake(roles, seed)
        models[side] = folder / side
        roles.save_policy(models[side])
    return models


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda case: case.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp(request.param.name)
    base = request.param.build(folder)
    return Made(request.param, base, make_models(base, folder))


def make_roles(made: Made, kind: str) -> Roles:
    family = load_family(str(made.base))
    roles = Roles.lora(family, recipe.Lora(rank=4), 9) if kind == "lora" else Roles.full(family)
    shake(roles, 9, 0.02)
    return roles


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, theirs.abs().max().item()))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_each_model_predicts_as_it_does_alone_and_nothing_else_changes(made: Made, kind: str) -> None:
    inputs, roles = made.inputs(), make_roles(made, kind)
    before = {role: roles.predict(role, *inputs).detach() for role in ("policy", "reference")}  # type: ignore[arg-type]
    state = roles.state()
    roles.add_target_models(made.models)
    with torch.no_grad():
        for side, folder in made.models.items():
            alone = load_policy(folder).predict(*inputs)
            assert (alone - before["reference"]).abs().max() > 1e-3
            same(roles.predict(side, *inputs), alone)  # type: ignore[arg-type]
    assert not torch.allclose(roles.predict("winning", *inputs), roles.predict("losing", *inputs), atol=1e-4)
    for role, prediction in before.items():
        same(roles.predict(role, *inputs).detach(), prediction)  # type: ignore[arg-type]
    assert roles.state().keys() == state.keys()
    assert all(torch.equal(roles.state()[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_asking_the_models_between_forward_and_backward_changes_no_gradient(made: Made, kind: str) -> None:
    inputs = made.inputs()

    def gradients(between: bool) -> dict[str, Tensor]:
        roles = make_roles(made, kind)
        roles.add_target_models(made.models)
        loss = roles.predict("policy", *inputs).square().mean()
        for side in SIDES if between else ():
            assert not roles.predict(side, *inputs).requires_grad  # type: ignore[arg-type]
        loss.backward()
        strangers = [name for name, p in roles.trained.named_parameters() if p.requires_grad and p.grad is None]
        assert strangers == [] or kind == "full"  # some weights of a tiny network are used by no input
        trained = roles.trainable_parameters()
        assert not any(f".{side}." in name for side in SIDES for name in trained)
        return {name: p.grad for name, p in trained.items() if p.grad is not None}

    alone, between = gradients(False), gradients(True)
    assert alone.keys() == between.keys()
    assert sum(gradient.abs().max() > 0 for gradient in alone.values()) >= len(alone) // 2
    for name, gradient in alone.items():
        torch.testing.assert_close(between[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_margins_and_gradients_equal_the_published_arrangement(made: Made) -> None:
    """Four networks side by side, every prediction on its own, the loss written out."""
    family = load_family(str(made.base))
    shape, path = family.latent_shape(*made.case.size_px), family.noise_path
    x_0 = WinLose(normal(2, *shape, seed=2), normal(2, *shape, seed=3))
    noise, timestep = normal(2, *shape, seed=4), path.timesteps[torch.tensor([250, 650])]
    prompt = family.encode_prompts(["a red cat", "a blue cat"])
    x_t = WinLose(path.add_noise(x_0.win, noise, timestep), path.add_noise(x_0.lose, noise, timestep))
    roles = make_roles(made, "lora")
    roles.add_target_models(made.models)
    rows = data_driven(PreferenceBatch(x_0, noise, timestep, prompt, prompt), x_t, roles.predict, path)
    policy = WinLose.split(roles.predict("policy", x_t.stacked(), timestep.repeat(2), prompt.repeat(2)))

    plain, base = make_roles(made, "lora"), load_family(str(made.base))
    models = {side: load_policy(folder) for side, folder in made.models.items()}
    with torch.no_grad():  # tiny networks differ in scale: at this beta the larger margin is 2, and tolerances bite
        beta = 2 / plain_ddcpp(plain, base, models, x_t, timestep, prompt, beta=1.0)[1].abs().max().item()
    loss, margins = plain_ddcpp(plain, base, models, x_t, timestep, prompt, beta)
    loss.backward()
    ours = preference_loss(policy, rows.reference, rows.target, beta=beta)
    ours.loss.mean().backward()
    torch.testing.assert_close(ours.margin, margins, rtol=2e-3, atol=1e-3)
    theirs = {name: parameter.grad for name, parameter in plain.trainable_parameters().items()}
    scales = {name: gradient.abs().max().item() for name, gradient in theirs.items() if gradient is not None}
    # Queries and keys of an attention that sees a single position get a gradient of rounding alone.
    noise_floor = 1e-5 * max(scales.values())
    for name, parameter in roles.trainable_parameters().items():
        atol = 1e-2 * scales[name] + noise_floor
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-2, atol=atol, msg=name)


def plain_ddcpp(
    policy: Roles, base: Any, models: dict[str, Any], x_t: WinLose, timestep: Tensor, prompt: Conditioning, beta: float
) -> tuple[Tensor, Tensor]:
    """(mean loss, margins) as the released code has it: -log sigmoid(-(beta/2)((m_w - m_l) - (r_w - r_l)))."""
    margins = []
    for row in range(len(timestep)):
        inside = torch.zeros(())
        for side, sign, model in ((x_t.win, 1, "winning"), (x_t.lose, -1, "losing")):
            arguments = side[row : row + 1], timestep[row : row + 1], prompt.rows([row])
            with torch.no_grad():
                target, reference = models[model].predict(*arguments), base.predict(*arguments)
            prediction = policy.predict("policy", *arguments)
            inside = inside + sign * ((prediction - target) ** 2).mean() - sign * ((reference - target) ** 2).mean()
        margins.append(-0.5 * beta * inside)
    stacked = torch.stack(margins)
    return -torch.nn.functional.logsigmoid(stacked).mean(), stacked.detach()


# One family is enough for what follows.


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("sd")
    base = tiny_sd(folder)
    return Made(FAMILIES[0], base, make_models(base, folder))


def test_the_models_keep_float32_on_a_half_precision_base(sd: Made) -> None:
    roles = Roles.lora(load_family(str(sd.base), dtype="bf16"), recipe.Lora(rank=4), 0)
    roles.add_target_models(sd.models)
    loaded = {n: p for n, p in roles.trained.named_parameters() if ".winning." in n}
    written = load_file(sd.models["winning"] / WEIGHTS_FILE)
    assert sum(p.numel() for p in loaded.values()) == sum(tensor.numel() for tensor in written.values())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.values())
    assert torch.equal(
        torch.cat([p.flatten() for p in loaded.values()]).sort().values,
        torch.cat([tensor.flatten() for tensor in written.values()]).sort().values,
    )


def test_a_model_that_is_not_there_is_named(sd: Made) -> None:
    with pytest.raises(UserError, match="no losing model; make it with `ddspo targets`, or give target.losing"):
        make_roles(sd, "lora").predict("losing", *sd.inputs())


def test_a_lora_file_alone_and_a_run_folder_are_taken_too(sd: Made, tmp_path: Path) -> None:
    (tmp_path / "run" / "policy").mkdir(parents=True)
    weights = (sd.models["winning"] / WEIGHTS_FILE).read_bytes()
    (tmp_path / "run" / "policy" / WEIGHTS_FILE).write_bytes(weights)
    (tmp_path / "style.safetensors").write_bytes(weights)
    roles = make_roles(sd, "lora")
    roles.add_target_models({"winning": tmp_path / "run", "losing": tmp_path / "style.safetensors"})
    inputs = sd.inputs()
    assert torch.equal(roles.predict("winning", *inputs), roles.predict("losing", *inputs))
    same(roles.predict("winning", *inputs), load_policy(sd.models["winning"]).predict(*inputs).detach())


def test_unusable_loras_are_refused_in_one_line(sd: Made, tmp_path: Path) -> None:
    def refused(source: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            make_roles(sd, "lora").add_target_models({"winning": source})
        assert "\n" not in str(caught.value)

    weights = load_file(sd.models["winning"] / WEIGHTS_FILE)
    sd3 = make_models(tiny_sd3(tmp_path), tmp_path / "sd3")["winning"]
    sdxl = make_models(tiny_sdxl(tmp_path), tmp_path / "sdxl")["winning"]
    refused(sd3, "only a LoRA of a stable_diffusion's unet alone")
    refused(sdxl, "does not fit this base model")
    refused(tmp_path / "absent", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", f"no {WEIGHTS_FILE}")
    (tmp_path / "torn.safetensors").write_bytes((sd.models["winning"] / WEIGHTS_FILE).read_bytes()[:500])
    refused(tmp_path / "torn.safetensors", "is damaged")
    (tmp_path / "old.pt").write_bytes(b"x")
    refused(tmp_path / "old.pt", "pickled weights are never loaded")
    save_file({**weights, "text_encoder.q.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "text.safetensors")
    refused(tmp_path / "text.safetensors", "holds weights of text_encoder")
    dora = {**weights, "unet.mid_block.to_q.lora_magnitude_vector": torch.zeros(4)}
    save_file(dora, tmp_path / "dora.safetensors")
    refused(tmp_path / "dora.safetensors", "is a DoRA")


def test_a_failed_load_leaves_what_is_trained_alone(sd: Made, tmp_path: Path) -> None:
    roles, inputs = make_roles(sd, "lora"), sd.inputs()
    before = roles.predict("policy", *inputs).detach()
    with pytest.raises(UserError):
        roles.add_target_models({"winning": make_models(tiny_sdxl(tmp_path), tmp_path)["winning"]})
    assert torch.equal(roles.predict("policy", *inputs).detach(), before)


def test_noise_path_is_not_looked_at(sd: Made) -> None:
    x_t, timestep, prompt = sd.inputs()
    batch = PreferenceBatch(WinLose(x_t, x_t), x_t, timestep, prompt, prompt)
    roles = make_roles(sd, "lora")
    roles.add_target_models(sd.models)
    path = cast(NoisePath, object())  # which has nothing to look at
    rows = data_driven(batch, WinLose(x_t, -x_t), roles.predict, path)
    same(rows.target.lose, load_policy(sd.models["losing"]).predict(-x_t, timestep, prompt).detach())

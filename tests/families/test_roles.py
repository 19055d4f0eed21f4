"""Policy and reference: one call, one precision, gradients that survive, a start that follows from the seed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddspo import recipe
from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.tensors import Conditioning
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def inputs(folder: Path) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    conditioning = load_family(str(folder)).encode_prompts(["a red cat", "a blue cat"])
    # Of half this size the middle block attends to one place only, and its queries and keys have no gradient.
    return torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([100, 800]), conditioning


Inputs = tuple[Tensor, Tensor, Conditioning]


def lora(folder: Path, seed: int = 0, dtype: str = "fp32", mixed: Any = "no", **settings: Any) -> Roles:
    family = load_family(str(folder), dtype=dtype)
    return Roles.lora(family, recipe.Lora(**{"rank": 4, **settings}), seed, mixed_precision=mixed)


def move(roles: Roles, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in roles.trainable_parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def gradients(roles: Roles) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in roles.trainable_parameters().items()}  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_reference_calls_change_no_gradient(folder: Path, inputs: Inputs, kind: str) -> None:
    """peft's switch flips requires_grad; left so, a backward after a reference call brings nothing."""

    def run(order: str) -> dict[str, Tensor]:
        roles = lora(folder) if kind == "lora" else Roles.full(load_family(str(folder)))
        move(roles)
        if order == "before":
            roles.predict("reference", *inputs)
        loss = roles.predict("policy", *inputs).square().mean()
        if order == "between":
            roles.predict("reference", *inputs)
        loss.backward()
        return gradients(roles)

    alone = run("alone")
    assert all(gradient.abs().max() > 0 for gradient in alone.values())
    for order in ("before", "between"):
        for name, gradient in run(order).items():
            torch.testing.assert_close(gradient, alone[name], rtol=1e-4, atol=1e-6, msg=f"{order}: {name}")


def test_flags_come_back_even_when_the_call_fails(folder: Path, inputs: Inputs) -> None:
    roles = lora(folder)
    move(roles)
    before = roles.predict("policy", *inputs).detach()
    with pytest.raises((RuntimeError, ValueError)):
        roles.predict("reference", inputs[0][:, :2], inputs[1], inputs[2])
    assert all(parameter.requires_grad for parameter in roles.trainable_parameters().values())
    assert torch.equal(roles.predict("policy", *inputs).detach(), before)


def test_the_reference_is_the_untouched_base_whatever_the_policy_does(folder: Path, inputs: Inputs) -> None:
    base = load_family(str(folder)).predict(*inputs)
    for roles in (lora(folder), Roles.full(load_family(str(folder)))):
        move(roles)
        torch.testing.assert_close(roles.predict("reference", *inputs), base, rtol=0, atol=1e-5)
        assert not torch.allclose(roles.predict("policy", *inputs), base, atol=1e-2)


def test_only_the_adapter_is_trained_and_in_float32(folder: Path) -> None:
    roles = lora(folder, dtype="bf16")
    trained = roles.trainable_parameters()
    assert all(".lora_" in name and parameter.dtype == torch.float32 for name, parameter in trained.items())
    frozen = [parameter for name, parameter in roles.trained.named_parameters() if name not in trained]
    assert all(parameter.dtype == torch.bfloat16 and not parameter.requires_grad for parameter in frozen)
    # 4 cross-attention levels' worth of blocks: every attention has q, k, v and out, each with A and B.
    attentions = sum(1 for name, _ in roles.trained.named_modules() if name.endswith((".attn1", ".attn2")))
    assert len(trained) == attentions * 4 * 2


def test_the_start_follows_from_the_seed_alone(folder: Path) -> None:
    torch.manual_seed(1)
    first = lora(folder, seed=7).state()
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = lora(folder, seed=7).state()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = lora(folder, seed=8).state()
    fewer = lora(folder, seed=7, targets=("to_q",)).state()
    for name, tensor in first.items():
        if ".lora_B." in name:
            assert not tensor.any()
            continue
        bound = 1 / math.sqrt(tensor[0].numel())
        assert tensor.abs().max() <= bound and tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.3)
        assert not torch.equal(tensor, other[name])
        if name in fewer:  # what else is adapted changes nothing
            assert torch.equal(tensor, fewer[name])


def test_alpha_over_rank_scales_the_adapter(folder: Path, inputs: Inputs) -> None:
    """With alpha twice the rank and B halved the function is the same."""
    one, two = lora(folder), lora(folder, alpha=8)
    move(one)
    state = {name: tensor / 2 if ".lora_B." in name else tensor for name, tensor in one.state().items()}
    two.load_state(state)
    torch.testing.assert_close(one.predict("policy", *inputs), two.predict("policy", *inputs), rtol=1e-5, atol=1e-5)


def test_unmatched_targets_and_a_second_adapter_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="to_z"):
        lora(folder, targets=("to_q", "to_z"))
    roles = lora(folder)
    for again in (lambda: Roles.lora(roles.family, recipe.Lora(rank=2), 0), lambda: Roles.full(roles.family)):
        with pytest.raises(UserError, match="LoRA"):
            again()


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("low", ["bf16", "fp16"])
def test_low_precision_roles_agree_at_step_0(folder: Path, inputs: Inputs, kind: str, low: str) -> None:
    if kind == "full":
        roles = Roles.full(load_family(str(folder), dtype=low), frozen_dtype=low)
        assert {parameter.dtype for parameter in roles.trainable_parameters().values()} == {torch.float32}
    else:
        roles = lora(folder, dtype=low)
    policy, reference = (roles.predict(role, *inputs) for role in ("policy", "reference"))
    assert policy.dtype == torch.float32
    rounding = (policy - load_family(str(folder)).predict(*inputs)).abs().max()
    assert 0 < rounding < 0.05
    assert (policy - reference).abs().max() <= (0 if kind == "lora" else 0.05 * rounding)


def test_a_low_precision_copy_takes_half_the_memory(folder: Path) -> None:
    def size(module: nn.Module) -> int:
        return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())

    roles = Roles.full(load_family(str(folder)), frozen_dtype="bf16")
    assert roles._frozen is not None
    assert size(roles._frozen) < 0.55 * size(roles.trained)


def test_mixed_precision_applies_to_both_roles_alike(folder: Path, inputs: Inputs) -> None:
    exact = load_family(str(folder)).predict(*inputs)
    for roles in (lora(folder, mixed="bf16"), Roles.full(load_family(str(folder)), mixed_precision="bf16")):
        policy, reference = (roles.predict(role, *inputs) for role in ("policy", "reference"))
        rounding = (policy - exact).abs().max()
        assert rounding > 1e-4
        assert (policy - reference).abs().max() <= 0.05 * rounding


def test_precisions_that_would_differ_are_refused(folder: Path) -> None:
    family = load_family(str(folder))
    with pytest.raises(UserError, match="mixed_precision bf16"):
        Roles.full(family, frozen_dtype="bf16", mixed_precision="no")
    with pytest.raises(UserError, match="int8"):
        Roles.full(family, frozen_dtype="int8")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_state_round_trip_through_safetensors(folder: Path, inputs: Inputs, tmp_path: Path, kind: str) -> None:
    def make() -> Roles:
        return lora(folder) if kind == "lora" else Roles.full(load_family(str(folder)))

    one, two = make(), make()
    move(one)
    save_file(one.state(), tmp_path / "state.safetensors")
    two.load_state(load_file(tmp_path / "state.safetensors"))
    assert all(torch.equal(tensor, two.state()[name]) for name, tensor in one.state().items())
    torch.testing.assert_close(one.predict("policy", *inputs), two.predict("policy", *inputs), rtol=0, atol=1e-5)
    kept = one.state()
    move(one)
    assert not all(torch.equal(kept[name], tensor) for name, tensor in one.state().items())


def test_a_state_of_another_rank_or_network_is_refused(folder: Path) -> None:
    roles = lora(folder)
    state = roles.state()
    with pytest.raises(UserError, match="do"):
        roles.load_state(lora(folder, rank=8).state())
    del state[next(iter(state))]
    with pytest.raises(UserError, match="1 tensors differ"):
        roles.load_state(state)


def test_gradient_checkpointing_gives_the_same_gradients(folder: Path, inputs: Inputs) -> None:
    results = []
    for checkpointing in (False, True):
        roles = lora(folder)
        move(roles)
        if checkpointing:
            roles.enable_gradient_checkpointing()
            assert any(getattr(module, "gradient_checkpointing", False) for module in roles.trained.modules())
        loss = roles.predict("policy", *inputs).square().mean()
        roles.predict("reference", *inputs)  # the recomputation in backward must find the adapter on
        loss.backward()
        results.append(gradients(roles))
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_the_wrapped_module_makes_the_policys_calls(folder: Path, inputs: Inputs) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.calls = 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self.module(*args, **kwargs)

    roles = lora(folder)
    wrapper = Wrapper(roles.trained)
    roles.set_wrapped(wrapper)
    roles.predict("policy", *inputs)
    assert wrapper.calls == 1
    roles.predict("reference", *inputs)
    assert wrapper.calls == 1

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor

from ddspo.diffusion.noise_path import NoisePath
from ddspo.diffusion.states import states
from ddspo.method_facts import TARGETS as FACTS
from ddspo.objectives.preference import preference_loss
from ddspo.recipe import Target
from ddspo.targets import TARGETS, data_driven, forward_noise, guidance, target_source, training_free
from ddspo.tensors import Conditioning, PreferenceBatch, Role, RolePredict, WinLose

PAIRS = 3
VP = NoisePath.from_scheduler(DDPMScheduler())
FLOW = NoisePath.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_batch(noise_path: NoisePath) -> tuple[PreferenceBatch, WinLose]:
    x_0 = WinLose(normal(PAIRS, 4, 8, 8, seed=0), normal(PAIRS, 4, 8, 8, seed=1))
    noise, timestep = normal(PAIRS, 4, 8, 8, seed=2), noise_path.timesteps[torch.tensor([100, 500, 900])]
    prompt, degraded_prompt = (Conditioning({"prompt_embeds": normal(PAIRS, 5, 16, seed=seed)}) for seed in (3, 4))
    x_t = WinLose(*(noise_path.add_noise(side, noise, timestep) for side in (x_0.win, x_0.lose)))
    return PreferenceBatch(x_0, noise, timestep, prompt, degraded_prompt), x_t


class Recorder:
    """A reference whose answers tell their inputs apart, and which remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.roles: list[str] = []

    def __call__(self, role: str, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        embeds = conditioning.tensors["prompt_embeds"]
        self.calls.append((x_t, timestep, embeds))
        self.roles.append(role)
        return (
            torch.sin(x_t) + embeds.mean((1, 2))[:, None, None, None] + timestep[:, None, None, None] / 1000 + len(role)
        )


def make_network(seed: int = 0) -> RolePredict:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        ).eval()

    def predict(role: Role, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return unet(x_t, timestep, encoder_hidden_states=conditioning.tensors["prompt_embeds"]).sample

    return predict


def test_every_source_of_the_recipe_has_a_function() -> None:
    assert set(TARGETS) == set(get_args(Target.model_fields["source"].annotation))


def test_training_free_asks_once_for_three_rows_per_pair() -> None:
    batch, x_t = make_batch(VP)
    reference = Recorder()
    rows = training_free(batch, x_t, reference, VP)
    ((asked_x_t, asked_timestep, asked_embeds),) = reference.calls
    c, degraded = batch.prompt.tensors["prompt_embeds"], batch.degraded_prompt.tensors["prompt_embeds"]
    assert torch.equal(asked_x_t, torch.cat([x_t.win, x_t.lose, x_t.lose]))
    assert torch.equal(asked_timestep, torch.cat([batch.timestep] * 3))
    assert torch.equal(asked_embeds, torch.cat([c, c, degraded]))
    assert rows.network_evaluations == 3 * PAIRS


def test_training_free_targets_are_the_contrastive_policy_pair() -> None:
    batch, x_t = make_batch(VP)
    rows = training_free(batch, x_t, Recorder(), VP)
    ask = Recorder()
    assert torch.equal(rows.target.win, ask("reference", x_t.win, batch.timestep, batch.prompt))
    assert torch.equal(rows.target.lose, ask("reference", x_t.lose, batch.timestep, batch.degraded_prompt))
    assert torch.equal(rows.reference.win, ask("reference", x_t.win, batch.timestep, batch.prompt))
    assert torch.equal(rows.reference.lose, ask("reference", x_t.lose, batch.timestep, batch.prompt))


@torch.no_grad()
def test_three_reference_rows_equal_the_published_four() -> None:
    batch, x_t = make_batch(VP)
    network = make_network()
    rows = training_free(batch, x_t, network, VP)
    reference = WinLose.split(network("reference", x_t.stacked(), batch.timestep.repeat(2), batch.prompt.repeat(2)))
    conditions = Conditioning.join([batch.prompt, batch.degraded_prompt])
    target = WinLose.split(network("reference", x_t.stacked(), batch.timestep.repeat(2), conditions))
    for ours, published in ((rows.reference, reference), (rows.target, target)):
        torch.testing.assert_close(ours.stacked(), published.stacked(), rtol=0, atol=1e-6)
    policy = WinLose(normal(PAIRS, 4, 8, 8, seed=7), normal(PAIRS, 4, 8, 8, seed=8))
    three = preference_loss(policy, rows.reference, rows.target, beta=10.0)
    four = preference_loss(policy, reference, target, beta=10.0)
    torch.testing.assert_close(three.loss, four.loss, rtol=1e-5, atol=1e-5)


def test_training_free_at_the_start_moves_only_the_losing_side_along_the_contrast() -> None:
    batch, x_t = make_batch(VP)
    network = make_network()
    with torch.no_grad():
        rows = training_free(batch, x_t, network, VP)
    policy = WinLose(rows.reference.win.clone().requires_grad_(), rows.reference.lose.clone().requires_grad_())
    result = preference_loss(policy, rows.reference, rows.target, beta=16000.0)
    result.loss.sum().backward()
    assert torch.equal(rows.target.win, rows.reference.win)
    assert policy.win.grad is not None
    assert policy.lose.grad is not None
    assert not policy.win.grad.any()
    with torch.no_grad():
        contrast = network("reference", x_t.lose, batch.timestep, batch.prompt) - network(
            "reference", x_t.lose, batch.timestep, batch.degraded_prompt
        )
    alignment = torch.cosine_similarity(-policy.lose.grad.flatten(1), contrast.flatten(1))
    torch.testing.assert_close(alignment, torch.ones(PAIRS), rtol=0, atol=1e-5)


def test_no_contrast_where_the_degraded_prompt_is_the_prompt() -> None:
    batch, x_t = make_batch(VP)
    same = PreferenceBatch(batch.x_0, batch.noise, batch.timestep, batch.prompt, batch.prompt)
    rows = training_free(same, x_t, Recorder(), VP)
    assert torch.equal(rows.target.lose, rows.reference.lose)


def test_forward_noise_asks_once_for_two_rows_per_pair() -> None:
    batch, x_t = make_batch(VP)
    reference = Recorder()
    rows = forward_noise(batch, x_t, reference, VP)
    ((asked_x_t, asked_timestep, asked_embeds),) = reference.calls
    c = batch.prompt.tensors["prompt_embeds"]
    assert torch.equal(asked_x_t, torch.cat([x_t.win, x_t.lose]))
    assert torch.equal(asked_timestep, torch.cat([batch.timestep] * 2))
    assert torch.equal(asked_embeds, torch.cat([c, c]))
    assert rows.network_evaluations == 2 * PAIRS
    ask = Recorder()
    assert torch.equal(rows.reference.lose, ask("reference", x_t.lose, batch.timestep, batch.prompt))


def test_forward_noise_targets_are_the_noise_or_the_velocity() -> None:
    batch, x_t = make_batch(VP)
    target = forward_noise(batch, x_t, Recorder(), VP).target
    torch.testing.assert_close(target.win, batch.noise)
    torch.testing.assert_close(target.lose, batch.noise)
    batch, x_t = make_batch(FLOW)
    target = forward_noise(batch, x_t, Recorder(), FLOW).target
    torch.testing.assert_close(target.win, batch.noise - batch.x_0.win)
    torch.testing.assert_close(target.lose, batch.noise - batch.x_0.lose)


@pytest.mark.parametrize("noise_path", [VP, FLOW])
def test_forward_noise_on_stored_states_is_the_noise_that_each_side_implies(noise_path: NoisePath) -> None:
    batch, _ = make_batch(noise_path)
    noise = WinLose(normal(PAIRS, 4, 8, 8, seed=11), normal(PAIRS, 4, 8, 8, seed=12))
    x_t = WinLose(
        noise_path.add_noise(batch.x_0.win, noise.win, batch.timestep),
        noise_path.add_noise(batch.x_0.lose, noise.lose, batch.timestep),
    )
    stored = dataclasses.replace(batch, noise=None, x_t=x_t)
    assert states(stored, noise_path) is x_t
    target = forward_noise(stored, x_t, Recorder(), noise_path).target
    for side in ("win", "lose"):
        expected = noise_path.target(getattr(batch.x_0, side), getattr(noise, side), batch.timestep)
        torch.testing.assert_close(getattr(target, side), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noise_path", [VP, FLOW])
def test_states_mix_each_side_with_the_shared_noise(noise_path: NoisePath) -> None:
    batch, x_t = make_batch(noise_path)
    found = states(batch, noise_path)
    assert torch.equal(found.win, x_t.win) and torch.equal(found.lose, x_t.lose)


def test_data_driven_asks_every_model_once_and_for_no_row_twice() -> None:
    batch, x_t = make_batch(VP)
    models = Recorder()
    rows = data_driven(batch, x_t, models, VP)
    asked = dict(zip(models.roles, models.calls, strict=True))
    assert models.roles == ["reference", "winning", "losing"]
    assert torch.equal(asked["reference"][0], torch.cat([x_t.win, x_t.lose]))
    assert torch.equal(asked["winning"][0], x_t.win)
    assert torch.equal(asked["losing"][0], x_t.lose)
    c = batch.prompt.tensors["prompt_embeds"]
    assert all(torch.equal(embeds, torch.cat([c] * (len(embeds) // PAIRS))) for _, _, embeds in models.calls)
    assert rows.network_evaluations == sum(len(asked_x_t) for asked_x_t, _, _ in models.calls) == 4 * PAIRS
    ask = Recorder()
    assert torch.equal(rows.target.win, ask("winning", x_t.win, batch.timestep, batch.prompt))
    assert torch.equal(rows.target.lose, ask("losing", x_t.lose, batch.timestep, batch.prompt))
    assert torch.equal(rows.reference.win, ask("reference", x_t.win, batch.timestep, batch.prompt))
    assert torch.equal(rows.reference.lose, ask("reference", x_t.lose, batch.timestep, batch.prompt))


@pytest.mark.parametrize("source", sorted(TARGETS))
def test_sources_share_one_signature(source: str) -> None:
    batch, x_t = make_batch(VP)
    rows = TARGETS[source](batch, x_t, Recorder(), VP)
    for sides in (rows.target, rows.reference):
        assert sides.win.shape == sides.lose.shape == batch.noise.shape


def test_guidance_asks_once_for_four_rows_and_points_from_degraded_prompt_to_prompt() -> None:
    batch, x_t = make_batch(VP)
    reference = Recorder()
    rows = guidance(batch, x_t, reference, VP, weight=2.5)
    assert reference.roles == ["reference"]
    assert len(reference.calls[0][0]) == rows.network_evaluations == 4 * PAIRS
    ask = Recorder()
    for side in ("win", "lose"):
        c = ask("reference", getattr(x_t, side), batch.timestep, batch.prompt)
        degraded = ask("reference", getattr(x_t, side), batch.timestep, batch.degraded_prompt)
        assert torch.equal(getattr(rows.compared(), side), c)
        # guidance of scale 1 + weight with the degraded prompt as negative prompt
        torch.testing.assert_close(getattr(rows.target, side), degraded + 3.5 * (c - degraded))


def test_guidance_takes_its_weight_from_the_recipe() -> None:
    batch, x_t = make_batch(VP)
    found = target_source(Target(source="guidance", guidance_weight=0.0))(batch, x_t, Recorder(), VP)
    torch.testing.assert_close(found.target.stacked(), found.compared().stacked())
    assert target_source(Target(source="forward_noise")) is forward_noise


@pytest.mark.parametrize("source", ["training_free", "forward_noise", "data_driven", "guidance"])
def test_facts_foretell_the_rows_and_bare_targets_are_the_same_targets(source: str) -> None:
    batch, x_t = make_batch(VP)
    network, facts = make_network(), FACTS[source]
    with torch.no_grad():
        full, bare = (TARGETS[source](batch, x_t, network, VP, reference=asked) for asked in (True, False))
    assert (full.network_evaluations, bare.network_evaluations) == (facts.rows * PAIRS, facts.bare_rows * PAIRS)
    torch.testing.assert_close(bare.target.stacked(), full.target.stacked(), rtol=0, atol=1e-6)
    assert full.compared().win.shape == x_t.win.shape
    if source != "guidance":
        with pytest.raises(ValueError, match="without the reference"):
            bare.compared()


def test_only_sources_that_say_so_look_at_degraded_prompts() -> None:
    batch, x_t = make_batch(VP)
    other = dataclasses.replace(batch, degraded_prompt=Conditioning({"prompt_embeds": normal(PAIRS, 5, 16, seed=99)}))
    for source, facts in FACTS.items():
        one, two = (TARGETS[source](b, x_t, Recorder(), VP).target.stacked() for b in (batch, other))
        assert torch.equal(one, two) != facts.degraded_prompts, source

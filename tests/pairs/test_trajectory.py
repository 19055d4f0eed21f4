"""States on the way from noise to x_0: which, where on the path, what they are worth, what they cost, how they last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EDMEulerScheduler
from torch import Tensor

from ddspo.diffusion.noise_path import NoisePath
from ddspo.errors import UserError
from ddspo.pairs.build import build_pairs, estimate
from ddspo.pairs.store import PairStore
from ddspo.pairs.trajectory import check_on_path, kept_calls, kept_states
from ddspo.recipe import Recipe
from ddspo.tensors import Conditioning
from helpers.pair_making import STEPS, Spy, contents, small_recipe
from helpers.tiny_pipelines import make_scheduler


class Linear(Spy):
    """A network whose noise prediction is a slope times x_t; the slope follows from the prompt's length."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"slope": torch.tensor([self.slope(prompt) for prompt in prompts])})

    def predict(self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return conditioning.tensors["slope"][:, None, None, None] * x_t

    def slope(self, prompt: str, guidance_scale: float = 1.0) -> float:
        """What guidance makes of the slopes with and without the prompt."""
        return 0.3 + guidance_scale * 0.02 * len(prompt)


def with_states(recipe: Recipe, count: int) -> Recipe:
    return recipe.model_copy(update={"pairs": recipe.pairs.model_copy(update={"trajectory_states": count})})


def factors(scheduler: Any, steps: int, slope: float) -> list[float]:
    """What the network is fed at each call, as a multiple of x_T, when it predicts slope · x_t as the noise.

    ddim:  x' = alpha' (1 - sigma slope)/alpha x + sigma' slope x
    euler: with s = sigma/alpha and z = x_t/alpha:  z' = z + (s' - s) slope x_t,  x_t = z / sqrt(1 + s²)
    """
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    if hasattr(scheduler, "sigmas"):
        seen, z = [], float(scheduler.init_noise_sigma)
        sigmas = scheduler.sigmas.tolist()
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            seen.append(z / (sigma**2 + 1) ** 0.5)
            z += (following - sigma) * slope * seen[-1]
        return seen
    signal = [float(scheduler.alphas_cumprod[t]) for t in timesteps]
    seen = [1.0]
    for now, after in zip(signal[:-1], signal[1:], strict=True):
        cleaned = (1 - (1 - now) ** 0.5 * slope) / now**0.5
        seen.append(seen[-1] * (after**0.5 * cleaned + (1 - after) ** 0.5 * slope))
    return seen


def test_kept_are_the_middles_of_equal_parts() -> None:
    assert kept_calls(25, 5) == [2, 7, 12, 17, 22]
    assert kept_calls(4, 4) == [0, 1, 2, 3]
    assert kept_calls(7, 1) == [3]
    with pytest.raises(UserError, match=r"trajectory_states is 8, but the sampler visits 7.*steps"):
        kept_calls(7, 8)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_states_of_a_linear_network_have_their_closed_form(
    tmp_path: Path, family: Any, degraded: Path, sampler: str, guidance_scale: float
) -> None:
    recipe = small_recipe(sampler=sampler, guidance_scale=guidance_scale, steps=6)
    linear = Linear(family)
    build_pairs(with_states(recipe, 3), degraded, tmp_path / "pairs", family=linear)
    store = PairStore(tmp_path / "pairs")
    assert store.state_timesteps is not None
    scheduler = family.scheduler(sampler)
    scheduler.set_timesteps(6)
    assert store.state_timesteps.tolist() == scheduler.timesteps[[1, 3, 5]].tolist()
    for number, row in enumerate(store.rows):
        x_T = torch.randn(store.latent_shape, generator=torch.Generator().manual_seed(row["seed"]))  # noqa: N806
        sides = store.read_states([number] * 3, [0, 1, 2])
        for prompt, states in ((row["prompt"], sides.win), (row["degraded_prompt"], sides.lose)):
            seen = factors(family.scheduler(sampler), 6, linear.slope(prompt, guidance_scale))
            expected = torch.stack([seen[call] * x_T for call in (1, 3, 5)])
            torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(sides.win, sides.lose, atol=1e-3)


def test_states_are_exactly_what_the_network_was_fed_and_cost_no_call(
    tmp_path: Path, family: Any, degraded: Path
) -> None:
    recipe, spy = small_recipe(count=2), Spy(family)
    kept = build_pairs(with_states(recipe, STEPS), degraded, tmp_path / "kept", family=spy)
    store = PairStore(tmp_path / "kept")
    for state, (x_t, _) in enumerate(spy.calls):  # 4 unconditional rows, 2 winning, 2 losing
        sides = store.read_states([0, 1], [state, state])
        assert torch.equal(torch.cat([sides.win, sides.lose]), x_t[4:])
    plain = build_pairs(recipe, degraded, tmp_path / "plain", family=family)
    assert plain.network_evaluations == kept.network_evaluations
    both = [PairStore(tmp_path / name).read([0, 1]) for name in ("plain", "kept")]
    assert torch.equal(both[0].win, both[1].win)
    assert torch.equal(both[0].lose, both[1].lose)
    needs = estimate(with_states(recipe, STEPS), family, 5)
    assert needs.bytes_on_disk / 2 < kept.bytes_on_disk < needs.bytes_on_disk
    assert needs.bytes_on_disk - estimate(recipe, family, 5).bytes_on_disk == 2 * 2 * STEPS * 4 * 8 * 8 * 4


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_an_interruption_changes_no_bit(tmp_path: Path, family: Any, degraded: Path, stop_at: int) -> None:
    recipe = with_states(small_recipe(), 2)
    build_pairs(recipe, degraded, tmp_path / "unbroken", family=family)
    with pytest.raises(KeyboardInterrupt):
        build_pairs(recipe, degraded, tmp_path / "pairs", family=Spy(family, stop_at))
    build_pairs(recipe, degraded, tmp_path / "pairs", family=family)
    assert contents(tmp_path / "pairs") == contents(tmp_path / "unbroken")


def test_pairs_without_states_say_so_and_other_states_are_other_pairs(
    tmp_path: Path, family: Any, degraded: Path
) -> None:
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    store = PairStore(tmp_path / "pairs")
    assert store.state_timesteps is None
    with pytest.raises(UserError, match=r"no trajectory states.*pairs\.trajectory_states.*'forward'"):
        store.read_states([0], [0])
    with pytest.raises(UserError, match=r"trajectory_states: None there, \{'calls': \[1\], "):
        build_pairs(with_states(small_recipe(), 1), degraded, tmp_path / "pairs", family=family)


def test_an_altered_state_is_refused_and_the_others_are_read(tmp_path: Path, family: Any, degraded: Path) -> None:
    build_pairs(with_states(small_recipe(count=2), 2), degraded, tmp_path / "pairs", family=family)
    path = tmp_path / "pairs" / "shard-00000.safetensors"
    wanted = PairStore(tmp_path / "pairs").read_states([1], [1]).win.numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(wanted)] ^= 1
    path.write_bytes(content)
    store = PairStore(tmp_path / "pairs")
    store.read([0, 1])
    store.read_states([0, 0, 1], [0, 1, 0])
    with pytest.raises(UserError, match=r"shard-00000\.safetensors, row 1: state 1 was altered"):
        store.read_states([1], [1])
    for bad in (([2], [0]), ([0], [2]), ([0], [-1])):
        with pytest.raises(IndexError):
            store.read_states(*bad)


@pytest.mark.parametrize("name", ["pndm", "ddim", "euler", "euler_leading", "euler_ancestral", "dpm++"])
def test_samplers_feed_the_network_states_of_its_path(name: str) -> None:
    scheduler = make_scheduler(name)
    kept = kept_states(scheduler, NoisePath.from_scheduler(scheduler), 10, 10)
    assert kept is not None
    assert len(set(kept.calls)) == 10
    assert (kept.timesteps.diff() <= 0).all()


def test_a_sampler_of_another_scaling_is_refused_by_name() -> None:
    path, scheduler = NoisePath.from_scheduler(make_scheduler("ddim")), EDMEulerScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(UserError, match=r"EDMEulerScheduler holds alpha .* choose another pairs\.sampling\.sampler"):
        check_on_path(scheduler, path, [0, 5])

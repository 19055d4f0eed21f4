"""Which pair, timestep and noise: functions of (seed, step, position) and of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.pairs.store import PairStore
from ddspo.recipe import Recipe
from ddspo.training.data import Batches, draw, noise_path_on, pair_number, pairs_used
from helpers.training_cases import SHAPE, changed, make_case

Case = tuple[Recipe, PairStore, PromptTable, Path]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    recipe, pairs = make_case(tmp_path_factory.mktemp("case"), global_batch_pairs=8)
    store = PairStore(pairs)
    prompts = [text for row in store.rows for text in (row["prompt"], row["degraded_prompt"])]
    return recipe, store, PromptTable.build(load_family(recipe.model.base), prompts, device="cpu"), pairs


def whole_step(case: Case, step: int, micro: int = 2, processes: int = 1) -> list[Tensor]:
    """All of one global batch, in the order of positions."""
    recipe, store, table, _ = case
    recipe = changed(recipe, training=recipe.training.model_dump() | {"micro_batch_pairs": micro})
    path, device = load_family(recipe.model.base).noise_path, torch.device("cpu")
    shares = [Batches(recipe, store, table, path, device=device, rank=n, processes=processes) for n in range(processes)]
    pairs = [batch.pairs for share in shares for batch in share.micro_batches(step)]
    return [
        torch.cat([pair.x_0.win for pair in pairs]),
        torch.cat([pair.x_0.lose for pair in pairs]),
        torch.cat([pair.noise for pair in pairs]),
        torch.cat([pair.timestep for pair in pairs]),
        torch.cat([pair.prompt.tensors["prompt_embeds"] for pair in pairs]),
        torch.cat([pair.degraded_prompt.tensors["prompt_embeds"] for pair in pairs]),
    ]


def test_every_epoch_is_another_permutation_of_all_pairs() -> None:
    epochs = [[pair_number(0, 10, 10 * epoch + place) for place in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [pair_number(1, 10, place) for place in range(10)]


def test_pairs_used_are_those_of_the_first_steps(case: Case) -> None:
    recipe = changed(case[0], training={"max_steps": 2, "global_batch_pairs": 4})
    assert pairs_used(recipe, 100) == sorted({pair_number(3, 100, sample) for sample in range(8)})
    assert pairs_used(recipe, 8) == list(range(8))
    assert pairs_used(recipe, 5) == list(range(5))


def test_draws_are_stateless_and_their_distribution_is_right() -> None:
    uniform, noise = draw(3, 5, 7, SHAPE)
    again = draw(3, 5, 7, SHAPE)
    assert torch.equal(uniform, again[0])
    assert torch.equal(noise, again[1])
    draws = [draw(3, step, position, (4, 16, 16)) for step in range(10) for position in range(40)]
    uniforms, noises = torch.stack([u for u, _ in draws]), torch.stack([n for _, n in draws])
    assert len(uniforms.unique()) == 400
    assert uniforms.mean().item() == pytest.approx(0.5, abs=0.05)
    assert uniforms.std().item() == pytest.approx(12**-0.5, abs=0.03)
    assert noises.mean().item() == pytest.approx(0, abs=0.01)
    assert noises.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("micro", "processes"), [(8, 1), (1, 1), (2, 2), (2, 3)])
def test_any_cut_gives_the_same_global_batch(case: Case, micro: int, processes: int) -> None:
    for left, right in zip(whole_step(case, 1), whole_step(case, 1, micro, processes), strict=True):
        assert torch.equal(left, right)


def test_steps_walk_through_the_epochs_and_redraw_noise(case: Case) -> None:
    _, store, table, _ = case
    wins = torch.cat([whole_step(case, step)[0] for step in range(5)])  # 40 samples of 10 pairs: four epochs
    everything = store.read(range(10)).win
    for epoch in wins.split(10):
        assert sorted(epoch.flatten(1).sum(1).tolist()) == sorted(everything.flatten(1).sum(1).tolist())
    assert not torch.equal(whole_step(case, 0)[2], whole_step(case, 1)[2])
    rows = [store.rows[pair_number(3, 10, place)] for place in range(8)]
    assert torch.equal(whole_step(case, 0)[4], table.lookup([row["prompt"] for row in rows]).tensors["prompt_embeds"])
    degraded = table.lookup([row["degraded_prompt"] for row in rows]).tensors["prompt_embeds"]
    assert torch.equal(whole_step(case, 0)[5], degraded)


def test_only_the_last_micro_batch_says_so(case: Case) -> None:
    recipe, store, table, _ = case
    path = load_family(recipe.model.base).noise_path
    batches = Batches(recipe, store, table, path, device=torch.device("cpu"))
    assert [batch.is_last for batch in batches.micro_batches(0)] == [False, False, False, True]


def test_noise_path_on_a_device_computes_the_same(case: Case) -> None:
    path = load_family(case[0].model.base).noise_path
    moved = noise_path_on(path, torch.device("cpu"))
    x_0, noise, timestep = torch.randn(3, *SHAPE), torch.randn(3, *SHAPE), torch.tensor([0, 400, 999])
    assert torch.equal(path.add_noise(x_0, noise, timestep), moved.add_noise(x_0, noise, timestep))

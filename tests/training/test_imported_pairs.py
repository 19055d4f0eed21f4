"""Training on preferences from elsewhere: mixed sizes, true size conditioning, caption dropout, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.pairs import import_pairs as module
from ddspo.pairs.import_pairs import ImportSettings, import_pairs
from ddspo.pairs.store import PairStore
from ddspo.recipe import Recipe
from ddspo.tensors import Conditioning
from ddspo.training.data import Batches
from ddspo.training.loop import train
from ddspo.training.told import is_dropped
from helpers.preference_sets import mixed_rows, write_parquet
from helpers.tiny_families import tiny_sdxl
from helpers.tiny_pipelines import tiny_sd
from helpers.training_cases import changed, make_recipe, metrics_of, policy_bytes

Case = tuple[Recipe, Path]
FORWARD = {"source": "forward_noise"}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Pairs of three sizes; 16 px steps, which this U-Net bears, keep them small."""
    folder = tmp_path_factory.mktemp("case")
    base = tiny_sd(folder)
    source, recipe = write_parquet(folder / "set.parquet", mixed_rows()), make_recipe(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "needed_multiple_px", lambda family: 16)
        import_pairs(str(source), folder / "pairs", recipe, ImportSettings(batch_pairs=4))
    return changed(recipe, target=FORWARD), folder / "pairs"


def test_pairs_of_several_sizes_train_and_the_cut_into_micro_batches_does_not_matter(
    tmp_path: Path, case: Case
) -> None:
    recipe, pairs = case
    large = recipe.training.optimizer.model_copy(update={"learning_rate": 0.02, "adam_epsilon": 1e-4})
    training = {"max_steps": 2, "global_batch_pairs": 8, "optimizer": large.model_dump()}
    for micro in (1, 4):
        few = changed(recipe, training=training | {"micro_batch_pairs": micro})
        train(few, pairs, tmp_path / str(micro))
    one, four = (metrics_of(tmp_path / str(micro)) for micro in (1, 4))
    for left, right in zip(one, four, strict=True):
        for name in ("loss", "margin", "gradient_norm"):
            assert left[name] == pytest.approx(right[name], rel=1e-3, abs=2e-5)  # beta times what float32 rounds off
    assert abs(one[1]["margin"]) > 1e-3, "something moved"
    assert one[0]["network_evaluations"] == four[0]["network_evaluations"]


def test_resumed_training_on_several_sizes_is_the_unbroken_one(tmp_path: Path, case: Case) -> None:
    recipe, pairs = case
    train(recipe, pairs, tmp_path / "whole")
    train(changed(recipe, training={"max_steps": 4}), pairs, tmp_path / "torn")
    checkpoints = sorted((tmp_path / "torn" / "checkpoints").iterdir())
    import shutil

    shutil.rmtree(checkpoints[-1])
    shutil.rmtree(tmp_path / "torn" / "policy")
    train(recipe, pairs, tmp_path / "torn")
    assert policy_bytes(tmp_path / "torn") == policy_bytes(tmp_path / "whole")
    assert metrics_of(tmp_path / "torn") == metrics_of(tmp_path / "whole")


def test_training_free_targets_need_degraded_prompts(tmp_path: Path, case: Case) -> None:
    recipe = changed(case[0], target={"source": "training_free"})
    with pytest.raises(UserError, match="12 of 12 pairs have no degraded prompt.*--degraded") as caught:
        train(recipe, case[1], tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "settings.json").exists()


def test_caption_dropout_is_refused_where_it_would_poison_the_signal(case: Case) -> None:
    with pytest.raises(ValidationError, match="caption_dropout leaves target.source 'training_free' nothing to learn"):
        changed(case[0], target={"source": "training_free"}, training={"caption_dropout": 0.1})


def test_latents_of_another_autoencoder_are_refused(tmp_path: Path, case: Case) -> None:
    recipe = changed(case[0], model={"base": str(tiny_sd(tmp_path, seed=7))})
    with pytest.raises(UserError, match="latents of another autoencoder"):
        train(recipe, case[1], tmp_path / "run")


def batches_of(recipe: Recipe, pairs: Path) -> tuple[Batches, PromptTable]:
    family, store = load_family(recipe.model.base), PairStore(pairs)
    table = PromptTable.build(family, ["", *(row["prompt"] for row in store.rows)], device="cpu")
    return Batches(recipe, store, table, family.noise_path, device=torch.device("cpu")), table


def test_dropped_captions_are_the_empty_prompt_and_change_nothing_else(case: Case) -> None:
    training = {"global_batch_pairs": 12, "micro_batch_pairs": 4}
    plain, _ = batches_of(changed(case[0], training=training), case[1])
    dropping, table = batches_of(changed(case[0], training=training | {"caption_dropout": 0.5}), case[1])
    empty, dropped = table.lookup([""]).tensors["prompt_embeds"][0], 0
    for step in range(3):
        for ours, theirs in zip(dropping.micro_batches(step), plain.micro_batches(step), strict=True):
            assert torch.equal(ours.pairs.x_0.lose, theirs.pairs.x_0.lose)
            assert torch.equal(ours.pairs.noise, theirs.pairs.noise)
            assert torch.equal(ours.pairs.timestep, theirs.pairs.timestep)
            ids = ours.pairs.prompt.tensors["size_ids"]
            assert torch.equal(ids, theirs.pairs.prompt.tensors["size_ids"])
            for mine, full in zip(
                ours.pairs.prompt.tensors["prompt_embeds"], theirs.pairs.prompt.tensors["prompt_embeds"], strict=True
            ):
                dropped += torch.equal(mine, empty)
                assert torch.equal(mine, empty) or torch.equal(mine, full)
    expected = sum(is_dropped(case[0].seed, step, position, 0.5) for step in range(3) for position in range(12))
    assert dropped == expected and 8 <= dropped <= 28


def test_dropout_has_the_share_that_is_asked_for() -> None:
    drawn = [is_dropped(0, step, position, 0.1) for step in range(100) for position in range(100)]
    assert sum(drawn) == pytest.approx(1000, abs=120)
    assert not any(is_dropped(0, 0, position, 0.0) for position in range(100))
    assert all(is_dropped(0, 0, position, 1.0) for position in range(100))


def test_sdxl_is_told_original_size_and_crop_as_its_pipeline_tells_them(tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    base = tiny_sdxl(tmp_path)
    family: Any = load_family(str(base))
    told: list[torch.Tensor] = []
    denoiser = family.denoiser
    denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    ids = torch.tensor([[48, 96, 0, 16, 64, 64], [200, 100, 32, 0, 64, 64]])
    conditioning = family.encode_prompts(["a cat", "a dog"])
    x_t, timestep = torch.randn(2, 4, 8, 8), torch.tensor([500, 20])
    sized = Conditioning({**conditioning.tensors, "size_ids": ids})
    with torch.no_grad():
        first, second = (family.predict(x_t, timestep, given) for given in (sized, conditioning))
    assert torch.equal(told[0], ids.float()) and not torch.allclose(first, second)
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    for row, (original, crop) in zip(told[0], [((48, 96), (0, 16)), ((200, 100), (32, 0))], strict=True):
        expected = pipeline._get_add_time_ids(original, crop, (64, 64), torch.float32, 24)
        assert torch.equal(row[None], expected)
    assert told[1].tolist() == [[64, 64, 0, 0, 64, 64]] * 2

"""Costs foretold, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.base_facts import read_base_facts
from ddspo.errors import UserError
from ddspo.plan import make_plan, picture_cost, trained_parameters, training_cost
from ddspo.recipe import Model, Recipe, Sampling, Training
from helpers.base_folder import make_base
from helpers.tiny_pipelines import tiny_sd


def recipe(base: Path | str, prompt_file: Path, /, **sections: object) -> Recipe:
    data: dict[str, object] = {
        "model": {"base": str(base), "frozen_dtype": "bf16"},
        "prompts": {"source": str(prompt_file)},
        "pairs": {"count": 10, "sampling": {"steps": 5, "guidance_scale": 2.0}},
        "training": {
            "parameters": "full",
            "max_steps": 3,
            "global_batch_pairs": 4,
            "micro_batch_pairs": 2,
            "checkpoint_every_steps": 1,
            "keep_checkpoints": 2,
        },
        "baselines": {
            "dpo": {"target": {"source": "forward_noise"}},
            "sft": {"objective": {"name": "denoising"}},
        },
        "evaluation": {
            "prompts": str(prompt_file),
            "images_per_prompt": 2,
            "sampling": {"steps": 4, "guidance_scale": 1.0, "sampler": "ddim"},
        },
    }
    return Recipe.model_validate(data | sections)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat on a mat\na dog in rain\na bird\n", encoding="utf-8")
    return path


def test_network_evaluations_by_stage(prompts: Path, tmp_path: Path) -> None:
    plan = make_plan(recipe(make_base(tmp_path / "base"), prompts))
    costs = {stage.name: stage.network_evaluations for stage in plan.stages}
    assert costs == {
        "degrade": 0,
        "pairs": 10 * 2 * (5 + 1) * 2,  # PNDM: one call more than steps
        "train": 3 * 4 * 9,
        "baseline dpo": 3 * 4 * 8,
        "baseline sft": 3 * 4 * 3,
        "evaluate": 3 * 2 * 4 * 4,  # prompts, pictures, reference + three policies, steps without guidance
        "report": 0,
    }
    assert plan.network_evaluations == sum(costs.values())  # type: ignore[arg-type]
    assert "training sees each pair 1.2 times" in plan.text()


def test_disk_and_memory(prompts: Path, tmp_path: Path) -> None:
    plan = make_plan(recipe(make_base(tmp_path / "base"), prompts))
    stages = {stage.name: stage for stage in plan.stages}
    parameters = 43
    assert stages["pairs"].disk_bytes == 10 * 2 * (4 * 8 * 8) * 2
    assert stages["pairs"].memory_bytes == parameters * 2
    # two checkpoints of parameters and both Adam moments, and the policy
    assert stages["train"].disk_bytes == 2 * (3 * 4 * parameters) + 4 * parameters
    # weights, gradients, two moments in fp32; the frozen copy in bf16, which plain fine-tuning does not need
    assert stages["train"].memory_bytes == 4 * 4 * parameters + 2 * parameters
    assert stages["baseline sft"].memory_bytes == 4 * 4 * parameters


def test_training_cost_with_recomputed_activations(prompts: Path) -> None:
    costs = {}
    for source in ("training_free", "forward_noise"):
        settings = recipe("x", prompts, target={"source": source}, training={"gradient_checkpointing": True})
        costs[source] = training_cost(settings)
    assert costs == {"training_free": 3 + 2 * 4, "forward_noise": 2 + 2 * 4}


def test_pictures_without_guidance_cost_half(tmp_path: Path) -> None:
    facts = read_base_facts(Model(base=str(make_base(tmp_path / "base"))))
    assert picture_cost(Sampling(steps=25, guidance_scale=7.5), None) == 50
    assert picture_cost(Sampling(steps=25, guidance_scale=1.0), facts) == 26
    assert picture_cost(Sampling(steps=25, guidance_scale=1.0, sampler="ddim"), facts) == 25


def test_facts_of_a_real_pipeline_and_its_lora(tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    folder = tiny_sd(tmp_path)
    facts = read_base_facts(Model(base=str(folder)))
    assert facts is not None
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert facts.parameters == sum(parameter.numel() for parameter in unet.parameters())
    assert facts.latent_shape(Model(height_px=32, width_px=128)) == (4, 4, 16)
    unet.add_adapter(LoraConfig(r=3, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    adapters = sum(parameter.numel() for name, parameter in unet.named_parameters() if "lora" in name)
    assert trained_parameters(Training.model_validate({"lora": {"rank": 3}}), facts) == adapters


def test_what_is_not_there_yet_is_a_note(prompts: Path, tmp_path: Path) -> None:
    absent = {"source": str(tmp_path / "later.parquet")}
    plan = make_plan(recipe("nobody/nothing", prompts, prompts={**absent, "limit": 50}, pairs={}))
    text = plan.text()
    assert "model nobody/nothing is not on this machine yet" in text
    assert "later.parquet does not exist yet; 50 assumed" in text
    assert {stage.name: stage.work for stage in plan.stages}["pairs"].startswith("50 pairs")
    unknown = make_plan(recipe("nobody/nothing", prompts, prompts=absent, pairs={}))
    assert unknown.network_evaluations is None
    assert "?" in unknown.text()


def test_only_chosen_stages(prompts: Path, tmp_path: Path) -> None:
    plan = make_plan(recipe(make_base(tmp_path / "base"), prompts))
    assert [stage.name for stage in plan.only("pairs").stages] == ["pairs"]
    with pytest.raises(UserError, match="no stage 'x'"):
        plan.only("x")


def test_weights_that_are_cut_off(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    weights = base / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(UserError, match="cut off"):
        read_base_facts(Model(base=str(base)))

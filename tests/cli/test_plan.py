"""Costs foretold, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.base_facts import read_base_facts
from ddspo.errors import UserError
from ddspo.memory import trained_parameters, training_memory
from ddspo.plan import make_plan, picture_cost, training_cost
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
        "objective": {"beta": 16000.0},
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
    facts = read_base_facts(Model(base=str(tmp_path / "base")))
    assert facts is not None
    memory = training_memory(plan.recipe, facts)
    assert (memory.weights, memory.gradients, memory.optimizer) == (6 * parameters, 4 * parameters, 8 * parameters)
    assert stages["train"].memory_bytes == memory.total == 18 * parameters + memory.activations
    assert stages["baseline sft"].memory_bytes == 16 * parameters + memory.activations // 2, "one row, no frozen copy"
    assert "peak memory of train: weights" in plan.text() and "activations estimated" in plan.text()
    assert (
        "note: with training.trained_dtype bf16, " in plan.text()
        and "optimizer.name adamw_8bit it would" in plan.text()
    )


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


def test_stored_reference_rows_are_a_stage_of_their_own(prompts: Path, tmp_path: Path) -> None:
    base, rows = make_base(tmp_path / "base"), tmp_path / "rows"
    plain = recipe(base, prompts)
    training = plain.training.model_dump() | {"reference_rows": rows}
    same = {"objective": {"beta": 7.0}, "training": {"reference_rows": str(rows)}}
    plan = make_plan(recipe(base, prompts, training=training, baselines={"beta7": same, "sft": plain.baselines["sft"]}))
    stages = {stage.name: stage for stage in plan.stages}
    assert len(stages) == len(plan.stages)
    assert stages["reference rows"].network_evaluations == 3 * 4 * 3
    assert stages["reference rows"].disk_bytes == 3 * 4 * 3 * (4 * 8 * 8) * 4  # float32 whatever the model's precision
    assert stages["train"].network_evaluations == stages["baseline beta7"].network_evaluations == 3 * 4 * 6
    assert stages["baseline sft"].network_evaluations == 3 * 4 * 3  # asks nobody, and takes over no folder
    memory = {stage.name: stage.memory_bytes for stage in make_plan(plain).stages}
    assert memory["train"] - stages["train"].memory_bytes == (3 + 4 * 10) * 2  # type: ignore[operator]


def test_kept_states_are_counted_in_the_disk_of_pairs(prompts: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    pairs = {"count": 10, "trajectory_states": 3, "sampling": {"steps": 5, "guidance_scale": 2.0}}
    plain, states = (make_plan(recipe(base, prompts, **extra)) for extra in ({}, {"pairs": pairs}))
    stage, other = (next(stage for stage in plan.stages if stage.name == "pairs") for plan in (plain, states))
    assert other.disk_bytes == 4 * stage.disk_bytes == 4 * 10 * 2 * (4 * 8 * 8) * 2  # type: ignore[operator]
    assert other.network_evaluations == stage.network_evaluations
    assert "3 states a side" in other.work

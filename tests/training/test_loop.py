"""Whole runs on a tiny model: equal however cut, resumed bit for bit, stopped in time, readable by diffusers."""

from __future__ import annotations

import math
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.objectives import PairLoss
from ddspo.objectives.margin import preference_margin
from ddspo.recipe import Recipe
from ddspo.training import loop as loop_module
from ddspo.training import run as run_module
from ddspo.training import step as step_module
from ddspo.training.checkpoint import latest_checkpoint, save_checkpoint
from ddspo.training.loop import train
from ddspo.training.setup import start_accelerator, tracker_config
from helpers.training_cases import changed, make_case, make_pairs, metrics_of, policy_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the base and the pairs; runs go beside them."""
    path = tmp_path_factory.mktemp("case")
    make_case(path)
    return path


def trained(output: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    return checkpoint.tensors["trained"]


class Killed(Exception):  # noqa: N818
    """Stands in for a kill at a chosen place."""


def stop_in_checkpoint(monkeypatch: pytest.MonkeyPatch, step: int, *, before: bool) -> None:
    """Die while the checkpoint of `step` is due: before it is written, or right after."""

    def dying(folder: Path, checkpoint: Any, keep: int) -> Path:
        if checkpoint.step == step and before:
            raise Killed
        path = save_checkpoint(folder, checkpoint, keep)
        if checkpoint.step == step:
            raise Killed
        return path

    monkeypatch.setattr(run_module, "save_checkpoint", dying)


@pytest.mark.parametrize(
    ("parameters", "ema_decay", "before"), [("lora", None, True), ("lora", 0.9, False), ("full", 0.9, True)]
)
def test_resumed_equals_unbroken_bit_for_bit(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parameters: str,
    ema_decay: float | None,
    before: bool,
) -> None:
    schedule = {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 2}
    recipe, pairs = make_case(
        folder, parameters=parameters, ema_decay=ema_decay, max_steps=5, checkpoint_every_steps=2, optimizer=schedule
    )
    unbroken = train(recipe, pairs, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 4, before=before)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "broken")
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    resumed = train(recipe, pairs, tmp_path / "broken")

    assert policy_bytes(tmp_path / "broken") == policy_bytes(tmp_path / "unbroken") != {}
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "unbroken")
    assert [row["step"] for row in metrics_of(tmp_path / "broken")] == [1, 2, 3, 4, 5]
    assert resumed.cost["network_evaluations"] == unbroken.cost["network_evaluations"] == 5 * 4 * 9
    left, right = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("broken", "unbroken"))
    assert left is not None
    assert right is not None
    assert left.tensors.keys() == right.tensors.keys()
    for group, tensors in left.tensors.items():
        assert all(torch.equal(tensor, right.tensors[group][name]) for name, tensor in tensors.items())


def test_pairs_that_are_all_settled_do_not_stop_a_resumed_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    recipe = changed(recipe, objective={"name": "hinge"})
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 2, before=False)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "run")

    def settled(policy: Any, reference: Any, target: Any, settings: Any, beta: float) -> PairLoss:
        margin = preference_margin(policy, reference, target, beta=beta) * 0 + 2
        return PairLoss(torch.relu(1 - margin), margin)

    monkeypatch.setitem(step_module.OBJECTIVES, "hinge", settled)
    assert train(recipe, pairs, tmp_path / "run").steps == 4
    assert metrics_of(tmp_path / "run")[-1]["gradient_norm"] == 0


def test_dspo_whose_margin_stays_at_zero_is_not_called_stuck(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    recipe = changed(recipe, objective={"name": "dspo", "beta": 0.001}, target={"source": "forward_noise"})
    train(recipe, pairs, tmp_path / "run")
    assert not [row["warning"] for row in metrics_of(tmp_path / "run") if "warning" in row]


def test_a_torn_checkpoint_costs_only_time(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    train(recipe, pairs, tmp_path / "run")
    expected = policy_bytes(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "policy")
    torn = tmp_path / "run" / "checkpoints" / "step-000004" / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    train(recipe, pairs, tmp_path / "run")
    assert policy_bytes(tmp_path / "run") == expected
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_finished_run_is_returned_without_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    first = train(recipe, pairs, tmp_path / "run")
    monkeypatch.setattr("ddspo.training.loop.load_model", None)
    assert train(recipe, pairs, tmp_path / "run") == first
    assert first.policy == tmp_path / "run" / "policy"
    assert first.steps == first.metrics["step"] == 1


def test_a_finished_run_keeps_the_recipe_it_was_made_with(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    train(recipe, pairs, tmp_path / "run")
    written = {name: (tmp_path / "run" / name).read_bytes() for name in ("recipe.yaml", "environment.json")}
    (tmp_path / "run" / "environment.json").write_bytes(written["environment.json"] + b" ")
    train(make_case(folder, max_steps=1, checkpoint_every_steps=7)[0], pairs, tmp_path / "run")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == written["recipe.yaml"]
    assert (tmp_path / "run" / "environment.json").read_bytes() == written["environment.json"] + b" "
    shutil.rmtree(tmp_path / "run" / "policy")  # not finished: it goes on with what is asked now
    train(make_case(folder, max_steps=1, checkpoint_every_steps=7)[0], pairs, tmp_path / "run")
    assert "checkpoint_every_steps: 7" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_a_run_that_is_trained_already_is_left_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    again: list[str] = []

    def twice(run: Any) -> None:
        partial = tmp_path / "run" / ".recipe.yaml.1.partial"
        partial.touch()
        before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").glob("*.*"))
        with pytest.raises(UserError) as caught:
            train(recipe, pairs, tmp_path / "run")
        again.append(str(caught.value))
        assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").glob("*.*")) == before
        partial.unlink()

    genuine = loop_module.train_steps
    monkeypatch.setattr(loop_module, "train_steps", lambda run: (twice(run), genuine(run)))
    train(recipe, pairs, tmp_path / "run")
    assert len(again) == 1 and "run is in use: `ddspo train` is already at work there (process" in again[0]
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("content", ['{"step": 1, "lo', "[1]\n", ""])
def test_damaged_metrics_of_a_finished_run_are_told_in_one_line(folder: Path, tmp_path: Path, content: str) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    train(recipe, pairs, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        train(recipe, pairs, tmp_path / "run")


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_the_cut_into_micro_batches_does_not_matter(folder: Path, tmp_path: Path, parameters: str) -> None:
    states = []
    for micro in (1, 8):
        recipe, pairs = make_case(
            folder, parameters=parameters, global_batch_pairs=8, micro_batch_pairs=micro, max_steps=2
        )
        train(recipe, pairs, tmp_path / str(micro))
        states.append(metrics_of(tmp_path / str(micro)))
    for one, eight in zip(*states, strict=True):
        for name in ("loss", "margin", "contrast", "gradient_norm"):
            assert one[name] == pytest.approx(eight[name], rel=1e-3, abs=2e-6), name
        assert one["network_evaluations"] == eight["network_evaluations"]


def test_reference_and_base_stay_as_they_were(folder: Path, tmp_path: Path) -> None:
    for parameters in ("lora", "full"):
        recipe, pairs = make_case(folder, parameters=parameters)
        family = load_family(recipe.model.base)
        before = {name: tensor.clone() for name, tensor in family.denoiser.state_dict().items()}
        train(recipe, pairs, tmp_path / parameters, family=family)
        after = family.denoiser.state_dict()
        moved = [name for name in before if parameters == "full" and not torch.equal(before[name], after[name])]
        same = [name for name in before if torch.equal(before[name], after.get(name, after.get(layer(name))))]
        assert len(moved) > 100 if parameters == "full" else len(same) == len(before)
        assert load_family(recipe.model.base).fingerprint() == family.fingerprint()


def layer(name: str) -> str:
    """Where peft moves an adapted layer's own weight."""
    return ".base_layer.".join(name.rsplit(".", 1))


def test_checkpoints_hold_only_what_is_trained(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    train(recipe, pairs, tmp_path / "run")
    assert all(".lora_" in name for name in trained(tmp_path / "run"))
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-000002", "step-000004"]


def test_something_is_learned(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=12, global_batch_pairs=8, micro_batch_pairs=8)
    train(recipe, pairs, tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[-1]["loss"] < 0.66
    assert rows[-1]["margin"] > 0.05
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["saturation"] < 0.49


def test_the_average_is_the_result(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, ema_decay=0.9, max_steps=2)
    train(recipe, pairs, tmp_path / "run")
    checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    saved = load_file(tmp_path / "run" / "policy" / "pytorch_lora_weights.safetensors")
    saved_norm = float(sum(tensor.double().square().sum() for tensor in saved.values()))
    norms = {
        group: float(sum(tensor.double().square().sum() for tensor in checkpoint.tensors[group].values()))
        for group in ("trained", "average")
    }
    assert saved_norm == pytest.approx(norms["average"], rel=1e-12)
    assert norms["average"] != pytest.approx(norms["trained"], rel=1e-7)


def test_the_policy_loads_in_diffusers_and_differs_from_the_base(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    policy = train(recipe, pairs, tmp_path / "lora").policy
    full = train(changed(recipe, training={"parameters": "full"}), pairs, tmp_path / "full").policy

    def draw(pipe: StableDiffusionPipeline) -> np.ndarray[Any, Any]:
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return pipe("a red cat", num_inference_steps=2, generator=generator, output_type="np").images

    base = StableDiffusionPipeline.from_pretrained(recipe.model.base, safety_checker=None)
    pictures = [draw(base)]
    base.load_lora_weights(policy)
    pictures += [draw(base), draw(StableDiffusionPipeline.from_pretrained(full, safety_checker=None))]
    assert np.abs(pictures[0] - pictures[1]).max() > 1e-4
    assert np.abs(pictures[0] - pictures[2]).max() > 1e-4
    card = (policy / "README.md").read_text()
    assert f"from `{Path(recipe.model.base).name}`" in card and recipe.model.base not in card
    assert "base_model" not in card  # on the hub that name may be a stranger's
    assert "10, drawn by the base" in card
    assert "license: unknown" in card and "look it up before" in card.lower()


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"mixed_precision": "bf16"}])
def test_memory_savers_train_the_same_within_their_precision(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    recipe, pairs = make_case(folder, max_steps=2)
    train(recipe, pairs, tmp_path / "plain")
    train(changed(recipe, training=change), pairs, tmp_path / "other")
    plain, other = metrics_of(tmp_path / "plain")[-1], metrics_of(tmp_path / "other")[-1]
    exact = "gradient_checkpointing" in change
    assert other["loss"] == pytest.approx(plain["loss"], rel=1e-6 if exact else 1e-2)
    assert other["network_evaluations"] == 2 * 4 * (11 if exact else 9)
    dtypes = {tensor.dtype for tensor in trained(tmp_path / "other").values()}
    assert dtypes == {torch.float32}


@pytest.mark.parametrize(
    ("sections", "present", "cost"),
    [
        ({"target": {"source": "forward_noise"}}, {"margin", "win_drift", "lose_drift"}, 8),
        ({"objective": {"name": "denoising"}}, set(), 3),
    ],
)
def test_the_baselines_train_too(
    folder: Path, tmp_path: Path, sections: dict[str, Any], present: set[str], cost: int
) -> None:
    recipe, pairs = make_case(folder, max_steps=2)
    summary = train(changed(recipe, **sections), pairs, tmp_path / "run")
    row = metrics_of(tmp_path / "run", timing=True)[-1]
    always = {"step", "loss", "gradient_norm", "learning_rate", "pairs_per_second", "network_evaluations", "seconds"}
    margins = {"margin", "accuracy", "saturation", "margin_by_timestep"} if "margin" in present else set()
    by_timestep = {f"{name}_by_timestep" for name in present & {"win_drift", "lose_drift"}}
    assert row.keys() == always | present | margins | by_timestep
    assert summary.cost["network_evaluations"] == row["network_evaluations"] == 2 * 4 * cost
    assert row["gradient_norm"] > 0
    assert row["pairs_per_second"] == pytest.approx(4 / row["seconds"], rel=0.01)


def test_previews_show_fixed_prompts_at_start_middle_and_end(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, preview_every_steps=2, max_steps=3, optimizer={"learning_rate": 0.05})
    train(recipe, pairs, tmp_path / "run")
    names = ["step-000000.png", "step-000002.png", "step-000003.png"]
    assert sorted(path.name for path in (tmp_path / "run" / "previews").iterdir()) == names
    pictures = [np.asarray(Image.open(tmp_path / "run" / "previews" / name)) for name in names]
    assert pictures[0].shape == (64, 4 * 64, 3)
    assert not np.array_equal(pictures[0], pictures[2])
    alone, _ = make_case(folder, max_steps=3, optimizer={"learning_rate": 0.05})
    train(alone, pairs, tmp_path / "alone")
    assert policy_bytes(tmp_path / "alone") == policy_bytes(tmp_path / "run")


def test_numbers_that_are_not_finite_stop_the_run_and_leave_it_resumable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    unbroken = train(recipe, pairs, tmp_path / "unbroken")
    original = run_module.make_step

    def poisoned_step(*args: Any) -> Any:
        step, calls = original(*args), iter(range(1000))

        def poisoned(batch: Any, **options: Any) -> Any:
            outcome = step(batch, **options)
            if next(calls) == 5:  # the second micro batch of step 3
                outcome.loss.mul_(math.nan)
            return outcome

        return poisoned

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "make_step", poisoned_step)
        with pytest.raises(UserError, match="step 3: the loss is nan.*step-000002.*learning_rate.*beta.*bf16"):
            train(recipe, pairs, tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2]
    train(recipe, pairs, tmp_path / "run")
    assert policy_bytes(tmp_path / "run") == policy_bytes(tmp_path / "unbroken")
    assert metrics_of(tmp_path / "run")[-1]["loss"] == unbroken.metrics["loss"]


def test_a_runaway_learning_rate_is_told(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, parameters="full", optimizer={"learning_rate": 1e30}, checkpoint_every_steps=1)
    with pytest.raises(UserError, match="step 2: the loss is (nan|inf).*step-000001"):
        train(recipe, pairs, tmp_path / "run")


def test_degraded_prompts_equal_to_their_prompts_teach_nothing(folder: Path, tmp_path: Path) -> None:
    recipe, _ = make_case(folder)
    pairs = make_pairs(tmp_path / "pairs", Path(recipe.model.base), degraded="a red cat")
    with pytest.raises(UserError, match="nothing to learn.*degraded prompts"):
        train(recipe, pairs, tmp_path / "run")


def refusals(recipe: Recipe) -> list[tuple[Recipe, str]]:
    return [
        (changed(recipe, seed=4), "seed: 3 there, 4 now"),
        (changed(recipe, objective={"beta": 100.0}), "objective.beta: 200.0 there, 100.0 now"),
        (changed(recipe, training={"max_steps": 9}), "training.max_steps: 4 there, 9 now"),
        (changed(recipe, training={"ema_decay": 0.5}), "training.ema_decay"),
    ]


def test_another_runs_folder_is_refused_with_the_difference(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    train(recipe, pairs, tmp_path / "run")
    before = metrics_of(tmp_path / "run", timing=True)
    for other, message in refusals(recipe):
        with pytest.raises(UserError, match=message):
            train(other, pairs, tmp_path / "run")
    assert metrics_of(tmp_path / "run", timing=True) == before


def test_what_does_not_change_the_result_may_change_on_resume(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 2, before=False)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "run")
    other = changed(recipe, training={"checkpoint_every_steps": 3, "keep_checkpoints": 1, "micro_batch_pairs": 4})
    assert train(other, pairs, tmp_path / "run").steps == 4


def test_a_folder_with_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="already holds other files"):
        train(recipe, pairs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_pairs_of_another_reference_are_refused(folder: Path, tmp_path: Path) -> None:
    recipe, _ = make_case(folder)
    pairs = make_pairs(tmp_path / "pairs", Path(recipe.model.base), fingerprint="someone else's")
    with pytest.raises(UserError, match="another reference.*someone else's"):
        train(recipe, pairs, tmp_path / "run")


def test_a_full_disk_is_told_before_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pairs = make_case(folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("ddspo.files.shutil.disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(UserError, match="training needs .* GB"):
        train(recipe, pairs, tmp_path / "run")
    assert (
        not (tmp_path / "run" / "metrics.jsonl").read_text() if (tmp_path / "run" / "metrics.jsonl").exists() else True
    )


def test_fp16_on_a_cpu_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    recipe, pairs = make_case(folder, mixed_precision="fp16")
    with pytest.raises(UserError, match="fp16.*bf16"):
        train(recipe, pairs, tmp_path / "run")


def test_a_launch_that_would_train_twice_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes but each would train alone.*torchrun"):
        train(recipe, pairs, tmp_path / "run")


def test_an_unknown_tracker_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, trackers=("carrier_pigeon",))
    with pytest.raises(UserError, match="carrier_pigeon"):
        train(recipe, pairs, tmp_path / "run")


def test_tracker_config_is_flat(folder: Path) -> None:
    config = tracker_config(make_case(folder)[0])
    assert config["training.optimizer.learning_rate"] == 1e-3
    assert config["training.trackers"] == "[]"
    assert all(isinstance(value, str | int | float | bool) for value in config.values())


def test_a_resumed_run_goes_on_with_the_scale_it_had(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler of fp16, here on the CPU: it begins where gradients overflow and finds its scale step by step."""

    def scaled(recipe: Recipe, output: Path) -> Any:
        accelerator = start_accelerator(recipe, output)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
        return accelerator

    monkeypatch.setattr(loop_module, "start_accelerator", scaled)
    recipe, pairs = make_case(folder, max_steps=8, ema_decay=0.9)
    train(recipe, pairs, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 4, before=False)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "broken")
    train(recipe, pairs, tmp_path / "broken")
    skipped = [row["gradient_norm"] is None for row in metrics_of(tmp_path / "unbroken")]
    assert skipped[0] and 1 < skipped.count(True) < 7
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "unbroken")
    assert policy_bytes(tmp_path / "broken") == policy_bytes(tmp_path / "unbroken") != {}


def test_processes_exchange_gradients_once_a_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder, max_steps=2, global_batch_pairs=8)
    silent: list[Any] = []
    monkeypatch.setattr(Accelerator, "no_sync", lambda _, module: nullcontext(silent.append(module)))
    train(recipe, pairs, tmp_path / "run")
    assert len(silent) == 2 * 3  # four micro batches a step, of which the last is heard

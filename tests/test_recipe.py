"""Recipe files: what is read is what was written, overrides land, and every mistake is one line that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.overrides import apply_override, field_paths, merged, parse_yaml
from ddspo.recipe import Recipe
from ddspo.recipe_file import baseline_recipe, bundled_recipes, dump_recipe, load_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path | str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipe_validates_and_comes_back_equal(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    again = load_recipe(write(tmp_path, dump_recipe(recipe)))
    assert again == recipe
    assert dump_recipe(again) == dump_recipe(recipe)


def test_published_recipe_keeps_the_published_numbers() -> None:
    recipe = load_recipe("sd14_tf_cpp")
    training = recipe.training
    assert recipe.objective.beta == 16000
    assert training.global_batch_pairs == 2048
    # 4e-5 / beta, times the batch: the rule of the research scripts.
    assert training.optimizer.learning_rate == pytest.approx(4e-5 / 16000 * 2048)
    assert (training.max_steps, training.optimizer.warmup_steps) == (100, 100)
    assert (recipe.degradation.remove_low, recipe.degradation.remove_high) == (0.4, 0.7)
    assert (recipe.pairs.sampling.steps, recipe.pairs.sampling.guidance_scale) == (25, 7.5)


def test_dump_spells_out_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "seed: 3\n"))
    text = dump_recipe(recipe)
    assert "adam_epsilon" in text and "seed: 3" in text
    assert recipe == Recipe(seed=3, name="mine", output=Path("runs/mine"))


def test_scientific_notation_without_a_dot_is_a_number(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "training: {optimizer: {learning_rate: 1e-4}}"), ["objective.beta=2E3"])
    assert recipe.training.optimizer.learning_rate == 1e-4
    assert recipe.objective.beta == 2000.0
    assert parse_yaml("{a: 1e4x, b: 1.5e+3, c: -2e-2}", "") == {"a": "1e4x", "b": 1500.0, "c": -0.02}


def test_overrides_apply_in_order_and_reach_nested_fields(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {max_steps: 5}\n")
    recipe = load_recipe(
        path,
        [
            "training.max_steps=7",
            "training.max_steps=9",
            "evaluation.scorers=[clip_score:there, pickscore]",
            "training.ema_decay=null",
            "prompts.source=a=b.txt",
            "training.lora.targets=[to_q]",
            "baselines.sft.objective.name=denoising",
        ],
        output=tmp_path / "run",
    )
    assert recipe.training.max_steps == 9
    assert recipe.evaluation.scorers == ("clip_score:there", "pickscore")
    assert recipe.training.ema_decay is None
    assert recipe.prompts.source == "a=b.txt"
    assert recipe.training.lora.targets == ("to_q",)
    assert recipe.baselines["sft"].objective is not None
    assert recipe.output == tmp_path / "run"


def test_run_folder_stands_for_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 4", encoding="utf-8")
    assert load_recipe(tmp_path).seed == 4


def test_a_section_without_lines_is_the_default(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "training:\n  # max_steps: 3\n")).training == Recipe().training


def test_baseline_takes_from_the_main_run_what_it_leaves_out(tmp_path: Path) -> None:
    text = """
    objective: {beta: 500}
    training: {max_steps: 7, global_batch_pairs: 12, micro_batch_pairs: 4,
               optimizer: {learning_rate: 0.1, warmup_steps: 2}}
    baselines:
      dpo: {target: {source: forward_noise}, training: {micro_batch_pairs: 6, optimizer: {learning_rate: 0.2}}}
      plain: {objective: {name: denoising}}
    """
    recipe = load_recipe(write(tmp_path, text), ["training.max_steps=9"])
    dpo, plain = baseline_recipe(recipe, "dpo"), baseline_recipe(recipe, "plain")
    assert (dpo.target.source, dpo.objective.beta) == ("forward_noise", 500)
    assert (dpo.training.max_steps, dpo.training.global_batch_pairs, dpo.training.micro_batch_pairs) == (9, 12, 6)
    assert (dpo.training.optimizer.learning_rate, dpo.training.optimizer.warmup_steps) == (0.2, 2)
    assert (plain.objective.name, plain.target, plain.training) == ("denoising", recipe.target, recipe.training)
    assert dpo.baselines == {}
    again = load_recipe(write(tmp_path, dump_recipe(recipe)), ["training.max_steps=11"])
    assert baseline_recipe(again, "dpo").training.max_steps == 11, "a dumped baseline still follows the main run"
    with pytest.raises(UserError, match="it has: dpo, plain"):
        baseline_recipe(recipe, "sft")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "training: {optimiser: {learning_rate: 1}}",
            "training.optimiser: unknown key; did you mean training.optimizer?",
        ),
        (
            "learning_rate: 1",
            "learning_rate: unknown key; did you mean target.adapters.learning_rate "
            "or training.optimizer.learning_rate?",
        ),
        ("zzz: 1", "zzz: unknown key; a recipe has name, seed"),
        ("pairs: {zzz: 1}", "pairs.zzz: unknown key; pairs has count, sampling, pairs_per_shard"),
        ("baselines: {a: {training: {maxsteps: 1}}}", "did you mean baselines.a.training.max_steps?"),
        ("training: {max_steps: many}", "training.max_steps: expected a whole number; found 'many'"),
        ("training: {max_steps: 0}", "training.max_steps: expected a number greater than 0; found 0"),
        ("objective: {beta: fast}", "objective.beta: expected a number or 'auto'; found 'fast'"),
        ("objective: {beta: -3}", "objective.beta: expected a number greater than 0 or 'auto'; found -3"),
        ("baselines: {a: {objective: {beta: x}}}", "baselines.a.objective.beta: expected a number or 'auto'; found"),
        ("baselines: {a: {training: {max_steps: x}}}", "baselines.a.training.max_steps: expected a whole number"),
        ("training: {compile: maybe}", "training.compile: expected true or false; found 'maybe'"),
        ("evaluation: {scorers: tinyscenes}", "evaluation.scorers: expected a list, such as [a, b]"),
        ("evaluation: {scorers: [clipscore]}", "evaluation.scorers: there is no 'clipscore'; did you mean 'clip_s"),
        ("evaluation: {set_metrics: [fid]}", "evaluation.set_metrics: there is no 'fid'; there are frechet, incep"),
        ("training: {optimizer: {adam_betas: [1, 1, 1]}}", "adam_betas: expected at most 2 values; found [1, 1, 1]"),
        ("training: [1]", "training: expected a section with keys, found [1]"),
        (
            "target: {source: ddspo}",
            "target.source: expected 'training_free', 'forward_noise', 'data_driven' or 'guidance'; found 'ddspo'",
        ),
        ("model: {revision: 12}", "model.revision: expected text, found the number 12; put it in quotes"),
        (
            "training: {micro_batch_pairs: 7}",
            "training: global_batch_pairs (2048) must be a multiple of micro_batch_pairs (7)",
        ),
        ("degradation: {remove_low: 0.9}", "degradation: remove_low must not exceed remove_high"),
        ("baselines: {policy: {}}", "baselines.policy: not a usable name"),
        ("baselines: {../x: {}}", "baselines.../x: not a usable name"),
        ("zzz: 1\nyyy: 2\n", "(and 1 more)"),
        ("seed: 1\nseed: 2\n", "line 2: not valid YAML (seed is given twice)"),
        ("seed: 1\ntraining: [1\n", "line 3: not valid YAML"),
        ("\tseed: 1", "line 1: not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- 1\n", "found a list"),
        ("hello\n", "found plain text"),
        ("1: 2\n", "found keys that are not text"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(text: str, expected: str, tmp_path: Path) -> None:
    told = message(write(tmp_path, text))
    assert expected in told
    assert "mine.yaml" in told


def test_unreadable_recipe_files(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00seed")
    assert "not a text file in UTF-8" in message(binary)
    assert "no such file" in message(tmp_path / "absent.yaml")
    assert "folder without recipe.yaml" in message(tmp_path)
    assert "did you mean tinyscenes?" in message("tinyscene")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.max_steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("training..max_steps=3", "expected KEY=VALUE"),
        ("training.max_steps.x=3", "training.max_steps is a value, not a section"),
        ("training.lora.targets=[a", "not valid YAML"),
        ("training.max_stps=3", "did you mean training.max_steps?"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, expected: str, tmp_path: Path) -> None:
    assert expected in message(write(tmp_path, "training: {max_steps: 5}"), override)


def test_merging_leaves_its_arguments_alone() -> None:
    base, changes = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}, "d": {"e": 5}}
    assert merged(base, changes) == {"a": {"b": 4, "c": 2}, "d": {"e": 5}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
    data: dict[str, object] = {"a": None}
    apply_override(data, "a.b=1")
    assert data == {"a": {"b": 1}}


def test_field_paths_name_every_field_once() -> None:
    paths = field_paths(Recipe)
    assert len(paths) == len(set(paths))
    assert {"seed", "training.optimizer.learning_rate", "pairs.sampling.steps", "evaluation.sampling.steps"} <= set(
        paths
    )
    assert "baselines" not in paths


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("target: {winning: some_lora}", "target.winning has no effect with target.source 'training_free'"),
        ("target: {source: forward_noise, adapters: {rank: 8}}", "target.adapters has no effect"),
        ("training: {timesteps: {logit_mean: 1}}", "logit_mean: no effect with sampler 'uniform'"),
    ],
)
def test_fields_of_another_choice_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_recipe(write(tmp_path, text))


def test_a_baseline_with_another_target_leaves_the_main_runs_target_behind_but_not_its_error_space(
    tmp_path: Path,
) -> None:
    text = """
    target: {source: data_driven, winning: a, losing: b, adapters: {rank: 8}, error_space: x_0}
    baselines:
      dpo: {target: {source: forward_noise}}
      beta: {objective: {beta: 3}}
    """
    recipe = load_recipe(write(tmp_path, text))
    target = baseline_recipe(recipe, "dpo").target
    assert (target.source, target.winning, target.error_space) == ("forward_noise", None, "x_0")
    assert baseline_recipe(recipe, "beta").target == recipe.target


@pytest.mark.parametrize("name", ["a/../../b", "..", "/tmp/x", ""])
def test_a_name_becomes_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot name a folder in runs/; change it"):
        load_recipe(write(tmp_path, f"name: '{name}'"))
    assert load_recipe(write(tmp_path, f"name: '{name}'"), output=tmp_path / "run").output == tmp_path / "run"
    assert load_recipe(write(tmp_path, "name: a red cat, v1.2")).output == Path("runs/a red cat, v1.2")

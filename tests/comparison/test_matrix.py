"""The matrix file: what it accepts, what it refuses in one line, and the cells that it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ddspo.comparison.cells import AUTO, FIXED, Cell, all_cells, final_cells, make_cell, sweep_cells
from ddspo.comparison.matrix import Matrix, load_matrix
from ddspo.comparison.shared import MODELS, ROWS, models_tasks, rows_tasks, with_shared
from ddspo.errors import UserError
from ddspo.recipe import Lora, Recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DDSPO = {"target": {"source": "training_free"}, "objective": {"name": "preference"}}
DPO = {"target": {"source": "forward_noise"}, "objective": {"name": "preference"}}
SFT = {"target": {"source": "forward_noise"}, "objective": {"name": "denoising"}}
SWEEP = {"sweep": {"objective.beta": [200, 1000]}}


def load(folder: Path, **fields: Any) -> tuple[Matrix, Recipe]:
    data = {
        "base": "tinyscenes",
        "validation": {"prompts": "tinyscenes:validation"},
        "methods": {"ddspo": {**DDSPO, **SWEEP, "auto": True}, "dpo": {**DPO, **SWEEP}, "sft": SFT},
        **fields,
    }
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_matrix(path)


def names(cells: list[Cell]) -> list[str]:
    return [cell.name for cell in cells]


def test_cells_of_sweep_and_final_word(tmp_path: Path) -> None:
    matrix, base = load(tmp_path, seeds=[3, 4])
    assert names(sweep_cells(matrix, base)) == [
        "ddspo-200-seed3", "ddspo-1000-seed3", "ddspo-auto-seed3", "dpo-200-seed3", "dpo-1000-seed3",
    ]  # fmt: skip
    assert names(final_cells(matrix, base, {"ddspo": 1000.0, "dpo": 200.0})) == [
        "ddspo-1000-seed3", "ddspo-1000-seed4", "ddspo-auto-seed3", "ddspo-auto-seed4",
        "dpo-200-seed3", "dpo-200-seed4", "sft-seed3", "sft-seed4",
    ]  # fmt: skip
    assert set(names(all_cells(matrix, base))) > set(names(sweep_cells(matrix, base)))


def test_a_single_value_beside_auto_leaves_nothing_to_choose(tmp_path: Path) -> None:
    one = {**DDSPO, "sweep": {"objective.beta": [200]}, "auto": True}
    matrix, base = load(tmp_path, methods={"ddspo": one}, validation={}, seeds=[3])
    assert sweep_cells(matrix, base) == []
    assert names(final_cells(matrix, base, {})) == ["ddspo-200-seed3", "ddspo-auto-seed3"]


def test_a_cell_is_the_base_with_the_method_and_its_value_laid_over_it(tmp_path: Path) -> None:
    matrix, base = load(tmp_path, set={"training": {"max_steps": 7}})
    cell = make_cell(matrix, base, "dpo", 1000.0, 5)
    assert (cell.recipe.seed, cell.recipe.objective.beta, cell.recipe.target.source) == (5, 1000.0, "forward_noise")
    assert (
        cell.recipe.training.max_steps == 7 and cell.recipe.training.lora.rank == base.training.lora.rank != Lora().rank
    )
    assert base.objective.anchor > 0 and cell.recipe.objective.anchor == 0, "a method's objective stands alone"
    assert make_cell(matrix, base, "ddspo", AUTO, 5).recipe.objective.beta == "auto"
    assert cell.recipe.evaluation == base.evaluation and cell.recipe.training.preview_every_steps is None


def test_equal_network_evaluations_give_cheaper_methods_more_steps(tmp_path: Path) -> None:
    equal = {"set": {"training": {"max_steps": 80}}, "budget": "network_evaluations"}
    matrix, base = load(tmp_path, **equal)
    steps = {
        name: make_cell(matrix, base, name, FIXED, 0).recipe.training.max_steps for name in ("ddspo", "dpo", "sft")
    }
    assert steps == {"ddspo": 80, "dpo": 90, "sft": 240}, "9F, 8F and 3F per pair"


def test_rows_are_shared_by_runs_that_ask_the_reference_the_same(tmp_path: Path) -> None:
    ipo = {"target": {"source": "training_free"}, "objective": {"name": "ipo", "beta": 300}}
    matrix, base = load(
        tmp_path, methods={"ddspo": {**DDSPO, **SWEEP}, "ipo": ipo, "dpo": DPO, "sft": SFT}, seeds=[0, 1]
    )
    cells = {cell.name: cell for cell in with_shared(all_cells(matrix, base), tmp_path, base.seed)}
    folder = {name: cell.recipe.training.reference_rows for name, cell in cells.items()}
    assert folder["ddspo-200-seed0"] == folder["ddspo-1000-seed0"] == folder["ipo-seed0"] is not None
    assert folder["ddspo-200-seed0"].parent == tmp_path / ROWS
    assert folder["ddspo-200-seed1"] == folder["ipo-seed1"] != folder["ipo-seed0"], "other draws"
    assert folder["dpo-seed0"] is None, "nobody shares them, so nothing is stored"
    assert folder["sft-seed0"] is None, "nothing is asked"
    assert len(rows_tasks(list(cells.values()), tmp_path)) == 2


def test_target_models_are_trained_once_with_the_base_seed(tmp_path: Path) -> None:
    dd = {"target": {"source": "data_driven"}, "objective": {"name": "preference"}, **SWEEP}
    matrix, base = load(tmp_path, methods={"dd": dd}, seeds=[5, 6])
    cells = all_cells(matrix, base)
    (task,) = models_tasks(cells, base, tmp_path, tmp_path)
    assert task.recipe.seed == base.seed and task.folder.parent == tmp_path / MODELS
    shared = with_shared(cells, tmp_path, base.seed)
    assert {cell.recipe.target.winning for cell in shared} == {task.folder / "winning" / "policy"}


def test_target_models_that_are_trained_otherwise_are_others(tmp_path: Path) -> None:
    dd = {"target": {"source": "data_driven"}, "objective": {"name": "preference"}}
    late = {**dd, "training": {"timesteps": {"low": 0.5}}}
    longer = {**dd, "training": {"max_steps": 7}}
    matrix, base = load(tmp_path, methods={"dd": dd, "late": late, "longer": longer}, seeds=[5])
    cells = all_cells(matrix, base)
    found = {cell.method: cell.recipe.target.winning for cell in with_shared(cells, tmp_path, base.seed)}
    assert found["dd"] == found["longer"] != found["late"]
    assert len(models_tasks(cells, base, tmp_path, tmp_path)) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methodes": {}}, "methodes: unknown key; did you mean methods"),
        ({"seeds": [1, 1]}, "seeds: expected at least one seed and each once"),
        ({"versus": "dppo"}, r"versus: dppo is not among methods \(ddspo, dpo, sft\)"),
        ({"validation": {}}, "validation.prompts is missing"),
        ({"methods": {"a b": DDSPO}}, "methods.a b: not a usable name"),
        ({"methods": {"base_only": {"train": False}}}, "none of them trains anything"),
        ({"methods": {"x": {"objektive": {}}}}, "methods.x.objektive: unknown key; did you mean methods.x.objective"),
        ({"methods": {"x": {"sweep": {"objective.betta": [1, 2]}}}}, "did you mean objective.beta"),
        ({"methods": {"x": {"sweep": {"objective.beta": [1, 1]}}}}, "expected values that differ"),
        ({"methods": {"x": {**DDSPO, "train": False}}}, "train: false leaves the base as it is"),
        ({"methods": {"x": {**DDSPO, "evaluation": {"limit": 3}}}}, "prompts and scorers are the same for all methods"),
        ({"heldout": {"validation": {}}}, "heldout.validation: not a usable name"),
        (
            {"set": {"training": {"max_step": 3}}},
            "set: training.max_step: unknown key; did you mean training.max_steps",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, **fields)
    assert "\n" not in str(caught.value)


def test_a_value_that_a_recipe_refuses_names_method_and_value(tmp_path: Path) -> None:
    matrix, base = load(tmp_path, methods={"ddspo": {**DDSPO, "sweep": {"objective.beta": [-1, 2]}}})
    with pytest.raises(UserError, match=r"methods\.ddspo at -1.*objective\.beta"):
        sweep_cells(matrix, base)


def test_files_that_are_no_matrix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_matrix(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(UserError, match="expected keys"):
        load_matrix(tmp_path / "list.yaml")


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_benchmarks_are_valid(path: Path) -> None:
    matrix, base = load_matrix(path)
    cells = all_cells(matrix, base)
    assert len({cell.name for cell in cells}) == len(cells) > 4

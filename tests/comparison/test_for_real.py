"""A small comparison with real training and drawing: killed, taken up again, its ledger, and processes side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddspo.comparison.jobs import workers
from ddspo.comparison.matrix import load_matrix
from ddspo.comparison.run import compare

VALUES = [100, 200, 400, 800, 1600, 3200]


def write(folder: Path) -> Path:
    sampling = {"steps": 2, "guidance_scale": 1.0, "batch_images": 32}
    data = {
        "base": "tinyscenes",
        "output": str(folder / "out"),
        "set": {
            "pairs": {"count": 8, "sampling": sampling},
            "training": {"max_steps": 2, "global_batch_pairs": 4, "micro_batch_pairs": 4, "lora": {"rank": 2}},
            "evaluation": {"limit": 8, "images_per_prompt": 1, "bootstrap_samples": 50, "sampling": sampling},
        },
        "seeds": [1],
        "validation": {"prompts": "tinyscenes:validation", "limit": 6},
        "methods": {
            "ddspo": {
                "target": {"source": "training_free"},
                "objective": {"name": "preference"},
                "sweep": {"objective.beta": VALUES},
            },
            "negative_prompt": {
                "train": False,
                "evaluation": {"negative_prompt_baseline": True, "sampling": {"guidance_scale": 2.0}},
            },
        },
    }
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


class KilledError(Exception):
    """What ends the first attempt."""


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_clocks(inner) for name, inner in value.items() if name != "seconds"}
    return [without_clocks(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_costs_what_the_ledger_says(tmp_path: Path) -> None:
    matrix, base = load_matrix(write(tmp_path))
    lines: list[str] = []

    def kill(line: str) -> None:
        lines.append(line)
        if "ddspo-400-seed1" in line:
            raise KilledError

    with pytest.raises(KilledError):
        compare(matrix, base, say=kill)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    page = compare(matrix, base, say=lines.append)
    assert {path: path.stat().st_mtime_ns for path in done} == done, "nothing is made twice"
    result = json.loads(page.with_suffix(".json").read_text())

    per_pair = 2 * 4  # steps times pairs
    assert result["costs"]["training"]["network_evaluations"] == 6 * per_pair * 6
    assert result["costs"]["reference rows"]["network_evaluations"] == 3 * per_pair
    sharing = result["sharing"]
    assert sharing["training"]["ratio"] == pytest.approx((3 + 6 * 6) / (6 * 9)), "training alone: 0.72, not below 0.7"
    assert sharing["training and validation"]["ratio"] <= 0.75
    assert sharing["everything"]["ratio"] <= 0.7, "six separate runs make their own pairs and draw the reference anew"
    ddspo, negative = result["rows"]
    assert (ddspo["network_evaluations"], negative["network_evaluations"]) == (9 * per_pair, 0)
    assert result["costs"]["heldout"]["network_evaluations"] == 8 * 2 * (1 + 1 + 2), "guidance doubles the third's"
    assert (ddspo["frechet"]["mean"], negative["kind"]) == (pytest.approx(ddspo["frechet"]["low"]), "untrained")

    again = json.loads(compare(matrix, base, say=lines.append).with_suffix(".json").read_text())
    assert without_clocks(again) == without_clocks(result)


def test_processes_side_by_side_have_one_thread_each_and_answer_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with workers(2) as run:
        assert list(run(divmod, [7, 9, 4], [2, 4, 3])) == [(3, 1), (2, 1), (1, 1)]
        assert list(run(os.getenv, ["OMP_NUM_THREADS"] * 2)) == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "2"
    with workers(1) as run:
        assert run is map

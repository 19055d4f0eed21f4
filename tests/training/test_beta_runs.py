"""Whole runs with automatic beta: measured once, resumed bit for bit, held and stopped, told when stuck."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ddspo.recipe import Recipe
from ddspo.training import run as run_module
from ddspo.training.beta import beta_for
from ddspo.training.checkpoint import save_checkpoint
from ddspo.training.loop import train
from helpers.training_cases import Killed, changed, make_case, metrics_of, policy_bytes


def automatic(
    folder: Path, auto: dict[str, Any], source: str = "training_free", **training: Any
) -> tuple[Recipe, Path]:
    made, pairs = make_case(folder, **training)
    return changed(made, objective={"beta": "auto", "auto": auto}, target={"source": source}), pairs


def test_the_signal_of_the_first_step_decides(folder: Path, tmp_path: Path) -> None:
    made, pairs = automatic(folder, {"pairs": 4, "strength": 5.0}, max_steps=2)
    train(made, pairs, tmp_path / "run")
    chosen, first = json.loads((tmp_path / "run" / "beta.json").read_text()), metrics_of(tmp_path / "run")[0]
    assert chosen["scale"] == pytest.approx(first["contrast"], rel=1e-4)  # 4 pairs: those of the first step
    assert chosen["value"] == beta_for(5.0, chosen["scale"]) == first["beta"]
    assert first["network_evaluations"] == 4 * 9 + 4 * 3
    assert (
        f"beta {chosen['value']:g} at the last step, auto (strength 5)"
        in (tmp_path / "run" / "policy" / "README.md").read_text()
    )

    fixed = changed(made, objective={"beta": chosen["value"]})
    train(fixed, pairs, tmp_path / "fixed")
    assert policy_bytes(tmp_path / "fixed") == policy_bytes(tmp_path / "run")  # beta reaches the loss

    noise, _ = automatic(folder, {"pairs": 4, "strength": 5.0}, "forward_noise", max_steps=2, micro_batch_pairs=1)
    train(noise, pairs, tmp_path / "noise")
    other = json.loads((tmp_path / "noise" / "beta.json").read_text())
    assert other["yardstick"] == pytest.approx(chosen["scale"], rel=1e-4)  # the same pairs, the same contrast
    assert other["measured"] == "noise" and other["value"] < chosen["value"]
    assert metrics_of(tmp_path / "noise")[0]["network_evaluations"] == 4 * 8 + 4 * 3


@pytest.mark.parametrize("at", [2, 4])
def test_resumed_equals_unbroken_bit_for_bit_and_measures_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed before the first checkpoint, and between checkpoints, with a price that moves at every step."""
    made, pairs = automatic(
        folder, {"pairs": 6, "hold_drift": 1e-3, "stop_drift": None}, max_steps=5, checkpoint_every_steps=2
    )
    train(made, pairs, tmp_path / "unbroken")

    def dying(folder: Path, checkpoint: Any, keep: int) -> Path:
        if checkpoint.step == at:
            raise Killed
        return save_checkpoint(folder, checkpoint, keep)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", dying)
        with pytest.raises(Killed):
            train(made, pairs, tmp_path / "broken")
    with monkeypatch.context() as patch:
        patch.setattr("ddspo.training.beta.choose_beta", lambda *_, **__: pytest.fail("measured again"))
        train(made, pairs, tmp_path / "broken")
    assert policy_bytes(tmp_path / "broken") == policy_bytes(tmp_path / "unbroken") != {}
    rows = metrics_of(tmp_path / "unbroken")
    assert metrics_of(tmp_path / "broken") == rows
    assert rows[0]["drift_price"] == 0 < rows[-1]["drift_price"] != rows[-2]["drift_price"]


def test_a_wrecking_run_is_held_then_stopped_and_is_a_whole_run(folder: Path, tmp_path: Path) -> None:
    auto, fast = {"strength": 1e-3, "pairs": 4}, {"learning_rate": 0.03}
    made, pairs = automatic(folder, auto, max_steps=60, optimizer=fast, checkpoint_every_steps=50)
    summary = train(made, pairs, tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert summary.steps == len(rows) < 60
    assert rows[-1]["drift_price"] > 0.25 > rows[0]["drift_price"] == 0
    assert "stopped early" in rows[-1]["stopped"] and not any("stopped" in row for row in rows[:-1])
    assert rows[-1]["stopped"] in (tmp_path / "run" / "policy" / "README.md").read_text()
    weights = policy_bytes(tmp_path / "run")
    assert train(made, pairs, tmp_path / "run").steps == summary.steps

    shutil.rmtree(tmp_path / "run" / "policy")  # killed after the last checkpoint, before the policy was written
    train(made, pairs, tmp_path / "run")
    assert policy_bytes(tmp_path / "run") == weights
    assert metrics_of(tmp_path / "run") == rows


def test_a_stuck_run_is_told_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, pairs = automatic(folder, {"pairs": 4}, max_steps=4, optimizer={"learning_rate": 1e-9})
    train(made, pairs, tmp_path / "run")
    warnings = [row["warning"] for row in metrics_of(tmp_path / "run") if "warning" in row]
    assert len(warnings) == 1
    assert "log 2" in warnings[0] and "learning rate" in warnings[0] and warnings[0] in capsys.readouterr().err

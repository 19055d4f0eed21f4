"""Every field by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from ddspo.training.metrics import MetricSums, last_row, read_metrics, truncate_metrics
from ddspo.training.step import StepOutcome


def outcome(margin: list[float], timestep: list[int], **fields: torch.Tensor) -> StepOutcome:
    values = torch.tensor(margin)
    loss = torch.nn.functional.softplus(-values)
    return StepOutcome(loss, torch.tensor(timestep), 5 * len(margin), 2 * len(margin), values, **fields)


def test_means_over_micro_batches_of_different_size() -> None:
    sums = MetricSums(torch.device("cpu"), num_train_timesteps=1000, rows_per_backward=2)
    first = outcome(
        [2.0, -1.0, 0.0],
        [0, 99, 100],
        win_drift=torch.tensor([1.0, 2.0, 3.0]),
        lose_drift=torch.tensor([2.0, 2.0, 2.0]),
        contrast=torch.tensor([0.5, 0.5, 0.5]),
    )
    second = outcome(
        [4.0], [999], win_drift=torch.tensor([6.0]), lose_drift=torch.tensor([10.0]), contrast=torch.tensor([0.1])
    )
    sums.add(first, first.loss)
    sums.add(second, second.loss * 0.5)
    row = read_metrics(sums, sums.vector.tolist())

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    assert row["loss"] == pytest.approx((softplus(-2) + softplus(1) + math.log(2) + softplus(-4) / 2) / 4)
    assert row["margin"] == pytest.approx(5 / 4)
    assert row["accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert row["saturation"] == pytest.approx(sum(1 / (1 + math.exp(m)) for m in (2, -1, 0, 4)) / 4)
    assert row["win_drift"] == pytest.approx(3)
    assert row["lose_drift"] == pytest.approx(4)
    assert row["contrast"] == pytest.approx(0.4)
    assert row["drift_over_contrast"] == pytest.approx(10)
    assert row["margin_by_timestep"] == [pytest.approx(0.5), 0.0, *[None] * 7, 4.0]
    assert row["win_drift_by_timestep"] == [pytest.approx(1.5), 3.0, *[None] * 7, 6.0]
    assert row["lose_drift_by_timestep"] == [2.0, 2.0, *[None] * 7, 10.0]
    assert row["contrast_by_timestep"] == [0.5, 0.5, *[None] * 7, pytest.approx(0.1)]
    assert row["network_evaluations"] == 4 * 9


def test_fields_that_do_not_apply_are_left_out() -> None:
    sums = MetricSums(torch.device("cpu"), num_train_timesteps=1000, rows_per_backward=2)
    sums.add(StepOutcome(torch.ones(2), torch.tensor([1, 2]), 2, 2), torch.ones(2))
    assert read_metrics(sums, sums.vector.tolist()) == {"loss": 1.0, "network_evaluations": 6.0}
    sums = MetricSums(torch.device("cpu"), num_train_timesteps=1000, rows_per_backward=2)
    sums.add(outcome([1.0], [5], win_drift=torch.ones(1), lose_drift=torch.ones(1)), torch.ones(1))
    row = read_metrics(sums, sums.vector.tolist())
    assert "win_drift" in row
    assert row["lose_drift_by_timestep"] == [1.0, *[None] * 9]
    assert "contrast_by_timestep" not in row
    assert not {"contrast", "drift_over_contrast"} & row.keys()
    sums = MetricSums(torch.device("cpu"), num_train_timesteps=1000, rows_per_backward=2)
    sums.add(dataclasses.replace(outcome([1.0], [5]), settles=False), torch.ones(1))  # DSPO, MaPO, DPPO
    assert "saturation" not in read_metrics(sums, sums.vector.tolist())


def test_the_schedule_ends_where_the_path_does_and_the_larger_drift_counts() -> None:
    """500 timesteps; a flow path is fed its last timestep, 1000 sigma, itself; checkpointing makes backward rows 3F."""
    sums = MetricSums(torch.device("cpu"), num_train_timesteps=500, rows_per_backward=3)
    drifts = {"win_drift": torch.tensor([3.0, 5.0]), "lose_drift": torch.tensor([1.0, 1.0])}
    one = outcome([1.0, 2.0], [49, 500], contrast=torch.tensor([0.5, 0.5]), **drifts)
    sums.add(one, one.loss)
    row = read_metrics(sums, sums.vector.tolist())
    assert row["margin_by_timestep"] == [1.0, *[None] * 8, 2.0]
    assert row["drift_over_contrast"] == 8.0
    assert row["network_evaluations"] == 2 * (5 + 3 * 2)


@pytest.mark.parametrize(("margin", "accuracy"), [(0.0, 0.5), (9e-5, 0.5), (-9e-5, 0.5), (2e-4, 1.0), (-2e-4, 0.0)])
def test_margins_of_the_size_of_rounding_are_ties(margin: float, accuracy: float) -> None:
    sums = MetricSums(torch.device("cpu"), num_train_timesteps=1000, rows_per_backward=2)
    sums.add(dataclasses.replace(outcome([margin], [5]), tie=1e-4), torch.ones(1))
    assert read_metrics(sums, sums.vector.tolist())["accuracy"] == accuracy


def test_truncation_keeps_whole_rows_up_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "loss": 1 / step}) for step in (1, 2, 3)]
    path.write_text("\n".join(rows) + '\n{"step": 4, "lo')
    truncate_metrics(path, 9)
    assert path.read_text() == "\n".join(rows) + "\n"
    truncate_metrics(path, 2)
    assert path.read_text() == "\n".join(rows[:2]) + "\n"
    assert last_row(path) == {"step": 2, "loss": 0.5}
    truncate_metrics(path, 0)
    assert path.read_text() == ""
    assert last_row(path) == {}


def test_damaged_lines_are_left_out_and_told_and_the_rows_after_them_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step}).encode() + b"\n" for step in range(1, 7)]
    bad = [b'{"step": 2, "lo\n', b'{"warning": "caf\xe9"}\n', b"[3]\n", b'{"loss": 1}\n', b'{"step": "4"}\n']
    path.write_bytes(rows[0] + b"".join(bad) + b"".join(rows[1:]) + b'{"step": 7, "lo')
    truncate_metrics(path, 4)
    assert path.read_bytes() == b"".join(rows[:4])
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "metrics.jsonl: no row of a step in line 2, 3, 4, 5, 6; left out" in told


def test_what_a_kill_leaves_is_nothing_to_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    truncate_metrics(tmp_path / "metrics.jsonl", 1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert capsys.readouterr().err == ""


def test_truncation_of_nothing(tmp_path: Path) -> None:
    truncate_metrics(tmp_path / "metrics.jsonl", 0)
    assert last_row(tmp_path / "metrics.jsonl") == {}

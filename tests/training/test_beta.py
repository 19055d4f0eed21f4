"""Automatic beta: known signal, known beta; a run that drifts is held and stopped, one that stands still is told so."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddspo.diffusion.noise_path import NoisePath
from ddspo.errors import UserError
from ddspo.objectives.anchor import drift_anchor
from ddspo.objectives.errors import both_errors
from ddspo.objectives.preference import preference_loss
from ddspo.recipe import AutoBeta, Objective, Recipe, Target
from ddspo.targets import TargetRows
from ddspo.tensors import Conditioning, PreferenceBatch, WinLose
from ddspo.training import run as run_module
from ddspo.training.beta import Measured, beta_for, choose_beta, measure_batch, noise_scale
from ddspo.training.checkpoint import save_checkpoint
from ddspo.training.data import MicroBatch
from ddspo.training.loop import train
from ddspo.training.step import make_step
from ddspo.training.watch import FULL_STEP_PRICE, Watch
from helpers.training_cases import changed, make_case, metrics_of, policy_bytes

AUTO = AutoBeta(hold_drift=0.5, stop_drift=2.0)
EMPTY = Conditioning({})


def micro(weight: list[float]) -> MicroBatch:
    x, count = torch.zeros(len(weight), 1, 2, 2), torch.zeros(len(weight))
    return MicroBatch(PreferenceBatch(WinLose(x, x), x, count, EMPTY, EMPTY), torch.tensor(weight), is_last=False)


def rows(win: list[float], lose: list[float]) -> TargetRows:
    """Reference 0; targets at the given distance from it in every dimension."""
    side = WinLose(*(torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2) for values in (win, lose)))
    return TargetRows(side, WinLose(torch.zeros_like(side.win), torch.zeros_like(side.lose)), 3 * len(win))


def signal(win: list[float], lose: list[float], error: float | None = None, dimensions: int = 4) -> Measured:
    spread = None if error is None else torch.full((len(win),), error)
    made = rows(win, lose)
    return Measured(both_errors(made.compared(), made.target), spread, dimensions, 3 * len(win))


def recipe(**auto: Any) -> Recipe:
    return Recipe.model_validate({"objective": {"beta": "auto", "auto": auto}})


def test_beta_is_strength_over_the_weighted_mean_signal_of_both_sides() -> None:
    batches = [micro([1.0, 1.0]), micro([2.0])]
    of = {id(batches[0]): signal([0.0, 0.1], [0.3, 0.2]), id(batches[1]): signal([0.0], [0.5])}
    choice = choose_beta(recipe(strength=6.0), batches, lambda one: of[id(one)])
    scale = (0.09 + (0.01 + 0.04) + 2 * 0.25) / 4
    assert choice.scale == pytest.approx(scale)
    assert choice.yardstick == choice.scale
    assert choice.value == float(f"{6 / scale:.3g}") == 37.5
    assert (choice.pairs, choice.network_evaluations, choice.measured) == (3, 9, "contrast")
    assert "37.5" in choice.reason and "3 pairs" in choice.reason


def test_rounding_hides_the_order_of_summation() -> None:
    assert beta_for(4, 0.0173000001) == beta_for(4, 0.0172999999) == 231.0
    assert beta_for(4, 1.234e-7) == 32400000.0


def test_the_noise_scale_is_the_spread_of_the_margin_under_unrelated_movement() -> None:
    generator, error, dimensions, pairs = torch.Generator().manual_seed(0), 0.3, 64, 20_000
    draws = [torch.randn(pairs, dimensions, generator=generator) * math.sqrt(error) for _ in range(4)]
    u_win, r_win, u_lose, r_lose = draws
    per_beta = (u_lose * r_lose).mean(1) - (u_win * r_win).mean(1)
    assert float(per_beta.std()) == pytest.approx(noise_scale(error, dimensions), rel=0.03)


@pytest.mark.parametrize(
    ("contrast", "error", "measured", "scale", "yardstick"),
    [
        (0.04, 0.5, "noise", 0.5 * math.sqrt(2 / 50), 0.04),
        (0.3, 0.5, "contrast", 0.3, 0.3),
        (None, 0.5, "noise", 0.1, 0.1),
        (1e-13, 0.5, "noise", 0.1, 0.1),  # what rounding leaves where prompt and degraded prompt say the same
    ],
)
def test_with_forward_noise_the_larger_of_signal_and_spread_sets_beta(
    contrast: float | None, error: float, measured: str, scale: float, yardstick: float
) -> None:
    of = {  # the weighted means are contrast and error
        weight: Measured(
            None if contrast is None else torch.tensor([contrast * share]), torch.tensor([error * share]), 50, 3
        )
        for weight, share in ((1.0, 2.5), (3.0, 0.5))
    }
    batches = [micro([weight]) for weight in of]
    choice = choose_beta(recipe(strength=2.0), batches, lambda one: of[one.weight.item()])
    assert (choice.measured, choice.value) == (measured, pytest.approx(beta_for(2, scale)))
    assert (choice.scale, choice.yardstick) == (pytest.approx(scale), pytest.approx(yardstick))


@pytest.mark.parametrize("space", ["native", "x_0"])
@pytest.mark.parametrize(
    ("source", "contrast"), [("training_free", True), ("forward_noise", True), ("forward_noise", False)]
)
def test_a_batch_is_measured_in_the_space_of_the_recipe(space: str, source: str, contrast: bool) -> None:
    path = NoisePath.variance_preserving(torch.linspace(0.99, 0.05, 10, dtype=torch.float64), "epsilon")
    draws = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    told, degraded = (Conditioning({"c": torch.tensor(values)}) for values in ([[1.0], [2.0]], [[0.5], [0.4]]))
    batch = PreferenceBatch(WinLose(draws[0], draws[1]), draws[2], torch.tensor([2, 7]), told, degraded)
    asked = []

    def predict(role: str, x_t: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        asked.append((role, len(x_t)))
        return x_t * conditioning.tensors["c"][..., None, None]

    target = Target.model_validate({"source": source, "error_space": space})
    found = measure_batch(batch, target, predict, path, contrast=contrast)
    alpha, sigma = (part.float() for part in path.coefficients(batch.timestep))
    win, lose = alpha * draws[0] + sigma * draws[2], alpha * draws[1] + sigma * draws[2]
    factor = sigma / alpha if space == "x_0" else torch.ones_like(sigma)
    if contrast:  # d = (c - c⁻) x_lose, nothing on the winning side
        d = factor * lose * torch.tensor([0.5, 1.6])[:, None, None, None]
        assert found.signal is not None
        torch.testing.assert_close(found.signal, d.square().flatten(1).mean(1), rtol=1e-4, atol=1e-6)
    else:
        assert found.signal is None
    if source == "forward_noise":
        c = torch.tensor([1.0, 2.0])[:, None, None, None]
        errors = [(factor * (c * side - draws[2])).square().flatten(1).mean(1) for side in (win, lose)]
        assert found.error is not None
        torch.testing.assert_close(found.error, (errors[0] + errors[1]) / 2, rtol=1e-4, atol=1e-6)
    else:
        assert found.error is None
    assert found.dimensions == 16
    assert asked == [("reference", found.network_evaluations)] == [("reference", 6 if contrast else 4)]


def test_no_signal_is_refused() -> None:
    with pytest.raises(UserError, match="degraded prompts"):
        choose_beta(recipe(), [micro([1.0])], lambda _: signal([0.0], [0.0]))


def row(step: int, drift: float, saturation: float = 0.3, **more: float) -> dict[str, Any]:
    return {"step": step, "win_drift": drift / 2, "lose_drift": drift, "saturation": saturation, **more}


def test_drift_above_its_bound_has_a_price_that_falls_with_it() -> None:
    watch, smoothed, prices = Watch(beta=100.0, yardstick=0.1), 0.0, []
    for step, drift in enumerate([0.02, 0.04, 0.15, 0.15, 0.15, 0.15, 0.0, 0.0, 0.0, 0.0, 0.0], 1):
        price = watch.price(AUTO)
        added = watch.see(row(step, drift), AUTO, 30)
        assert added == {"beta": 100.0, "drift_price": price, "drift_over_signal": pytest.approx(drift / 0.1)}
        smoothed = 0.8 * smoothed + 0.2 * drift / 0.1
        assert watch.drift == pytest.approx(smoothed)
        prices.append(watch.price(AUTO))
    assert prices[:2] == [0.0, 0.0]
    assert max(prices) == prices[5] > 0.1
    assert prices[-1] == 0.0
    assert Watch(beta=1.0, drift=1.0).price(AutoBeta()) == FULL_STEP_PRICE  # one whole step
    assert Watch(drift=9.0).price(AUTO) == 0.0


def test_at_the_full_price_an_unsaturated_policy_stands_still_after_one_whole_step() -> None:
    signal = torch.randn(1, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros_like(signal)
    reference, target = WinLose(nothing, nothing), WinLose(nothing, -signal)
    beta = 1e-3  # never saturates
    moved = signal.clone().requires_grad_()
    policy = WinLose(moved, moved)
    loss = preference_loss(policy, reference, target, beta=beta).loss
    loss = loss + drift_anchor(policy, reference, unit=beta / 2, anchor=FULL_STEP_PRICE, lose_anchor=FULL_STEP_PRICE)
    loss.sum().backward()
    assert moved.grad is not None
    assert moved.grad.abs().max() < 1e-3 * beta * signal.abs().max()


def test_the_side_that_drifts_more_counts_and_saturation_is_smoothed() -> None:
    watch = Watch(beta=100.0, yardstick=0.1)
    added = watch.see({"step": 1, "win_drift": 0.3, "lose_drift": 0.1, "saturation": 0.1}, AUTO, 10)
    assert added["drift_over_signal"] == pytest.approx(3.0)
    assert (watch.drift, watch.saturation) == (pytest.approx(0.6), pytest.approx(0.8 * 0.5 + 0.2 * 0.1))


def test_too_much_drift_stops_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(beta=100.0, yardstick=0.1)
    told = [watch.see(row(step, 0.3), AUTO, 50) for step in range(1, 6)]
    stopped = [step for step, added in enumerate(told, 1) if "stopped" in added]
    assert stopped == [5]  # 3 (1 - 0.8^n) > 2 first at n = 5
    assert watch.stopped is not None
    assert told[4]["stopped"] == watch.stopped
    assert "step 5 of 50" in watch.stopped and "stop_drift" in watch.stopped
    assert watch.stopped in capsys.readouterr().err
    endless = Watch(beta=100.0, yardstick=0.1)
    for step in range(1, 50):
        endless.see(row(step, 30.0), AutoBeta(stop_drift=None), 50)
    assert endless.stopped is None


def test_state_taken_up_again_decides_alike() -> None:
    drifts = [0.02 * step for step in range(20)]
    whole, first = Watch(beta=7.0, yardstick=0.1), Watch(beta=7.0, yardstick=0.1)
    expected = [whole.see(row(step, drift, 0.02), AUTO, 20) for step, drift in enumerate(drifts, 1)]
    got = [first.see(row(step, drift, 0.02), AUTO, 20) for step, drift in enumerate(drifts[:9], 1)]
    second = Watch(**json.loads(json.dumps(first.as_dict())))
    got += [second.see(row(step, drift, 0.02), AUTO, 20) for step, drift in enumerate(drifts[9:], 10)]
    assert got == expected
    assert any("warning" in added for added in expected)


@pytest.mark.parametrize(
    ("drift", "saturation", "more", "words"),
    [
        (1e-6, 0.4999, {"contrast": 0.1}, "learning rate"),
        (0.05, 0.4999, {"contrast": 0.1}, "too small to see it"),
        (0.05, 0.4999, {}, "hardly moved, or objective.beta is too small"),
        (0.9, 0.001, {"contrast": 0.1}, "damages pictures"),
        (0.001, 0.001, {"contrast": 0.1}, "too large to learn more"),
        (0.9, 0.001, {}, "not known without a contrast"),
        (0.05, 0.3, {"contrast": 0.1}, None),
    ],
)
def test_plain_runs_are_warned_once(
    drift: float, saturation: float, more: dict[str, float], words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch()
    added = [watch.see(row(step, drift, saturation, **more), AUTO, 100) for step in range(1, 101)]
    assert watch.beta is None
    assert watch.price(AUTO) == 0
    assert watch.stopped is None
    warnings = [one["warning"] for one in added if "warning" in one]
    assert [set(one) for one in added if one] == [{"warning"}] * len(warnings)
    kinds = [warning for warning in warnings if words is not None and words in warning]
    assert len(kinds) == (0 if words is None else 1)
    assert len(warnings) == len(set(watch.told)) == capsys.readouterr().err.count("warning:")
    if saturation > 0.49:
        assert warnings[0].startswith("step 50")


def test_a_run_without_margin_is_left_in_peace() -> None:
    watch = Watch()
    assert [watch.see({"step": step, "loss": 0.1}, AUTO, 20) for step in range(1, 21)] == [{}] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("case")
    make_case(path)
    return path


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


class Killed(Exception):  # noqa: N818
    """Stands in for a kill."""


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


def test_automatic_beta_has_a_strength_of_the_objective_or_its_own() -> None:
    def objective(**fields: object) -> Objective:
        return Objective.model_validate({"beta": "auto", **fields})

    assert objective().strength == 4.0
    assert objective(name="ipo").strength == 0.5  # its best margin: one whole step along the signal
    assert objective(auto={"strength": 7}).beta_words == "auto (strength 7)"
    assert Objective(beta=200.0).beta_words == "200"
    for fields, words in (
        ({"name": "dspo"}, "beta 'auto' is not defined for name 'dspo'"),
        ({"auto": {"hold_drift": 3, "stop_drift": 2}}, "stop_drift .2. must be above hold_drift .3."),
        ({"name": "hinge", "protect": {"lose_reward": False}}, "protect: no effect with name 'hinge'"),
    ):
        with pytest.raises(ValidationError, match=words):
            objective(**fields)


def test_the_price_is_an_anchor_beside_the_recipes_own() -> None:
    path = NoisePath.variance_preserving(torch.linspace(0.99, 0.01, 10, dtype=torch.float64), "epsilon")
    told = Conditioning({"c": torch.tensor([[1.0], [2.0]])})
    degraded = Conditioning({"c": torch.tensor([[0.5], [0.5]])})
    draws = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    batch = PreferenceBatch(WinLose(draws[0], draws[1]), draws[2], torch.tensor([2, 7]), told, degraded)

    def predict(role: str, x_t: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return x_t * conditioning.tensors["c"][..., None, None] * (1.3 if role == "policy" else 1.0)

    def loss(anchor: float, lose_anchor: float | None, price: float) -> torch.Tensor:
        fields = {"beta": "auto", "anchor": anchor, "lose_anchor": lose_anchor}
        made = make_step(Recipe.model_validate({"objective": fields}), predict, path)
        return made(batch, beta=3.0, price=price).loss

    torch.testing.assert_close(loss(0.0, None, 0.2), loss(0.2, None, 0.0))
    torch.testing.assert_close(loss(0.1, 0.3, 0.2), loss(0.3, 0.5, 0.0))
    assert (loss(0.0, None, 0.2) > loss(0.0, None, 0.0)).all()

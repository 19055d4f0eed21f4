"""Runs on stored rows: the same bits as without, and no reference is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.errors import UserError
from ddspo.families import roles as roles_module
from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.files import read_json
from ddspo.training.checkpoint import latest_checkpoint
from ddspo.training.loop import train
from ddspo.training.reference_rows import make_reference_rows
from ddspo.training.target_models import train_target_models
from helpers.stored_rows import on_rows, shards
from helpers.training_cases import changed, make_case, metrics_of, policy_bytes


def without_cost(output: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "network_evaluations"} for row in metrics_of(output)]


def tensors_of(output: Path) -> dict[str, torch.Tensor]:
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    return checkpoint.tensors["trained"] | checkpoint.tensors["optimizer"]


@pytest.mark.parametrize("parameters", ["lora", "full"])
@pytest.mark.parametrize(("source", "frozen"), [("training_free", 3), ("forward_noise", 2)])
def test_the_same_bits_as_without(folder: Path, tmp_path: Path, parameters: str, source: str, frozen: int) -> None:
    recipe, pairs = make_case(folder, parameters=parameters)
    recipe = changed(recipe, target={"source": source})
    plain = train(recipe, pairs, tmp_path / "plain")
    stored = train(on_rows(recipe, tmp_path / "rows"), pairs, tmp_path / "stored")
    assert policy_bytes(tmp_path / "stored") == policy_bytes(tmp_path / "plain") != {}
    assert without_cost(tmp_path / "stored") == without_cost(tmp_path / "plain")
    ours, theirs = tensors_of(tmp_path / "stored"), tensors_of(tmp_path / "plain")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert plain.cost["network_evaluations"] == 4 * 4 * (6 + frozen)
    assert stored.cost["network_evaluations"] == 4 * 4 * 6
    assert read_json(tmp_path / "rows" / "cost.json")["network_evaluations"] == 4 * 4 * frozen
    held = sum(len(content) for content in shards(tmp_path / "rows").values())
    assert held == 4 * 4 * frozen * 4 * 8 * 8 * 4


def test_no_reference_is_asked_once_rows_are_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder, parameters="full")
    make_reference_rows(recipe, pairs, tmp_path / "rows")
    asked, frozen, predict = [], [], Roles.predict

    def watched(self: Roles, role: Any, *arguments: Any) -> torch.Tensor:
        asked.append(role)
        frozen.append(self._frozen)
        return predict(self, role, *arguments)

    def copied(*_: Any) -> Any:
        raise AssertionError("no copy is made, not even for a moment")

    monkeypatch.setattr(Roles, "predict", watched)
    monkeypatch.setattr(roles_module, "frozen_copy", copied)
    train(on_rows(recipe, tmp_path / "rows"), pairs, tmp_path / "run")
    assert set(asked) == {"policy"}
    assert set(frozen) == {None}


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_rows_of_winning_and_losing_models_stand_in_for_them(folder: Path, tmp_path: Path, parameters: str) -> None:
    recipe, pairs = make_case(folder, parameters=parameters, max_steps=2)
    adapters = {"rank": 2, "max_steps": 1, "global_batch_pairs": 4, "micro_batch_pairs": 4, "learning_rate": 1e-2}
    recipe = changed(recipe, target={"source": "data_driven", "adapters": adapters})
    recipe = train_target_models(recipe, pairs, tmp_path / "targets")
    train(recipe, pairs, tmp_path / "plain")
    train(on_rows(recipe, tmp_path / "rows"), pairs, tmp_path / "stored")
    train(on_rows(recipe, tmp_path / "rows"), pairs, tmp_path / "without models")
    assert policy_bytes(tmp_path / "stored") == policy_bytes(tmp_path / "plain") != {}
    assert policy_bytes(tmp_path / "without models") == policy_bytes(tmp_path / "plain")
    assert without_cost(tmp_path / "stored") == without_cost(tmp_path / "plain")
    assert read_json(tmp_path / "rows" / "cost.json")["network_evaluations"] == 2 * 4 * 4


def test_rows_of_guidance_serve_every_weight(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=2)
    for weight in (0.5, 2.0):
        target = {"source": "guidance", "guidance_weight": weight}
        own = changed(recipe, objective={"name": "guidance_distillation"}, target=target)
        train(own, pairs, tmp_path / f"plain-{weight}")
        train(on_rows(own, tmp_path / "rows"), pairs, tmp_path / f"stored-{weight}")
        assert policy_bytes(tmp_path / f"stored-{weight}") == policy_bytes(tmp_path / f"plain-{weight}") != {}
        assert without_cost(tmp_path / f"stored-{weight}") == without_cost(tmp_path / f"plain-{weight}")
    assert policy_bytes(tmp_path / "stored-0.5") != policy_bytes(tmp_path / "stored-2.0")
    assert read_json(tmp_path / "rows" / "cost.json")["network_evaluations"] == 2 * 4 * 4


def test_automatic_beta_finds_whom_to_ask_though_rows_are_there(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, parameters="full", max_steps=2)
    recipe = changed(recipe, objective={"beta": "auto"})
    train(recipe, pairs, tmp_path / "plain")
    make_reference_rows(recipe, pairs, tmp_path / "rows")
    train(on_rows(recipe, tmp_path / "rows"), pairs, tmp_path / "stored")
    assert policy_bytes(tmp_path / "stored") == policy_bytes(tmp_path / "plain") != {}


def test_a_forgotten_reference_is_not_mistaken_for_the_policy(folder: Path) -> None:
    roles = Roles.full(load_family(make_case(folder)[0].model.base))
    roles.forget_reference()
    x_t = torch.zeros(1, 4, 8, 8)
    with pytest.raises(UserError, match="no reference model here.*rows are stored"):
        roles.predict("reference", x_t, torch.tensor([3]), roles.family.encode_prompts(["a cat"]))


def test_a_sweep_shares_rows(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=2)
    for beta, rate in ((100.0, 1e-3), (400.0, 1e-4)):
        other = changed(recipe, objective={"beta": beta}, training={"optimizer": {"learning_rate": rate}})
        train(other, pairs, tmp_path / f"plain-{beta}")
        train(on_rows(other, tmp_path / "rows"), pairs, tmp_path / f"stored-{beta}")
        assert policy_bytes(tmp_path / f"plain-{beta}") == policy_bytes(tmp_path / f"stored-{beta}")
    assert read_json(tmp_path / "rows" / "cost.json")["network_evaluations"] == 2 * 4 * 3

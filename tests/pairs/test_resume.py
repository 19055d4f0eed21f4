"""Interrupted, torn or repeated: the same command ends in the same bits, and nothing is paid for twice."""

from __future__ import annotations

import multiprocessing
import os
import random
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.pairs.build import build_pairs
from ddspo.pairs.store import PairStore
from helpers.pair_making import STEPS, Spy, contents, small_recipe, write_degraded
from helpers.tiny_pipelines import tiny_sd


def test_the_same_again_makes_nothing_and_changes_nothing(tmp_path: Path, family: Any, degraded: Path) -> None:
    first = build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    before = contents(tmp_path / "pairs")
    second = build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=Spy(family, stop_at=0))
    assert (contents(tmp_path / "pairs"), second) == (before, first)


@pytest.mark.parametrize("damage", ["delete", "tear", "empty"])
def test_any_lost_or_torn_file_is_made_again_bit_for_bit(
    tmp_path: Path, family: Any, degraded: Path, damage: str
) -> None:
    folder = tmp_path / "pairs"
    cost = build_pairs(small_recipe(), degraded, folder, family=family).network_evaluations
    whole = contents(folder)
    for path in sorted(folder.glob("shard-*")):
        content = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "tear" else b"")
        again = build_pairs(small_recipe(), degraded, folder, family=family)
        assert contents(folder) == whole, path.name
        assert again.network_evaluations == cost, path.name


@pytest.mark.parametrize("stop_at", range(1, 9))
def test_an_interruption_anywhere_changes_no_bit_and_is_not_paid_twice(
    tmp_path: Path, family: Any, degraded: Path, stop_at: int
) -> None:
    unbroken = build_pairs(small_recipe(), degraded, tmp_path / "unbroken", family=family)
    with pytest.raises(KeyboardInterrupt):
        build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=Spy(family, stop_at))
    with pytest.raises(UserError, match="run the same `ddspo pairs` command again"):
        PairStore(tmp_path / "pairs")
    resumed = build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    assert contents(tmp_path / "pairs") == contents(tmp_path / "unbroken")
    assert resumed.network_evaluations == unbroken.network_evaluations


def test_pairs_that_are_being_made_already_are_left_alone(tmp_path: Path, family: Any, degraded: Path) -> None:
    second: list[str] = []

    class Again(Spy):
        def predict(self, *args: Any) -> Any:
            if not second:
                with pytest.raises(UserError) as caught:
                    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
                second.append(str(caught.value))
            return super().predict(*args)

    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=Again(family))
    assert "pairs is in use: `ddspo pairs` is already at work there" in second[0]
    build_pairs(small_recipe(), degraded, tmp_path / "unbroken", family=family)
    assert contents(tmp_path / "pairs") == contents(tmp_path / "unbroken")


def test_a_failure_before_the_first_pair_leaves_no_folder(tmp_path: Path, family: Any) -> None:
    with pytest.raises(UserError):
        build_pairs(small_recipe(), tmp_path / "gone.jsonl", tmp_path / "pairs", family=family)
    assert not (tmp_path / "pairs").exists()


def await_change(folder: Path, child: BaseProcess) -> None:
    """Return when a file of the folder appears, vanishes or is renamed, or the child has ended."""

    def names() -> list[str]:
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    before = names()
    while names() == before and child.is_alive():
        pass


@pytest.mark.slow
def test_kill_minus_nine_at_any_moment(tmp_path: Path, family: Any, degraded: Path) -> None:
    made = small_recipe(count=12)
    build_pairs(made, degraded, tmp_path / "unbroken", family=family)
    folder, attempts, moments = tmp_path / "pairs", 0, random.Random(0)
    while len(list(folder.glob("shard-*.safetensors"))) < 6 and attempts < 40:
        child = multiprocessing.get_context("fork").Process(
            target=build_pairs, args=(made, degraded, folder), kwargs={"family": family}
        )
        child.start()
        # Counted in what happens in the folder, not in seconds: a fast machine would be done before it is killed.
        for _ in range(moments.randint(1, 6)):
            await_change(folder, child)
        child.kill()  # SIGKILL: no handler runs, nothing is flushed
        child.join()
        attempts += 1
    assert attempts > 1
    summary = build_pairs(made, degraded, folder, family=family)
    assert contents(folder) == contents(tmp_path / "unbroken")
    assert summary.network_evaluations == 12 * STEPS * 4


def test_other_settings_are_refused_with_the_difference(tmp_path: Path, family: Any, degraded: Path) -> None:
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    before = contents(tmp_path / "pairs")
    other = small_recipe(steps=4, guidance_scale=5.0)
    with pytest.raises(UserError) as caught:
        build_pairs(other, degraded, tmp_path / "pairs", family=family)
    assert "sampling.steps: 3 there, 4 now; sampling.guidance_scale: 3.0 there, 5.0 now" in str(caught.value)
    write_degraded(degraded, [("red cat", ["cat"])])
    with pytest.raises(UserError, match=r"count: 5 there, 1 now; degraded_fingerprint: "):
        build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    assert contents(tmp_path / "pairs") == before


def test_another_reference_is_refused(tmp_path: Path, family: Any, degraded: Path) -> None:
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    other = load_family(str(tiny_sd(tmp_path / "base", scheduler="ddim", seed=1)))
    with pytest.raises(UserError, match="reference_fingerprint"):
        build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=other)
    with pytest.raises(UserError, match="another reference"):
        PairStore(tmp_path / "pairs").check_reference(other.fingerprint())


def test_an_attempt_that_made_nothing_binds_nobody(tmp_path: Path, family: Any, degraded: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_pairs(small_recipe(batch_images=100), degraded, tmp_path / "pairs", family=Spy(family, stop_at=0))
    assert build_pairs(small_recipe(batch_images=2), degraded, tmp_path / "pairs", family=family).pairs == 5


def test_settings_of_another_artifact_are_not_overwritten(tmp_path: Path, family: Any, degraded: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("settings.json", "metrics.jsonl"):
        (folder / name).write_text('{"max_steps": 100}')
    with pytest.raises(UserError, match="max_steps: 100 there, None now"):
        build_pairs(small_recipe(), degraded, folder, family=family)
    assert (folder / "settings.json").read_text() == '{"max_steps": 100}'

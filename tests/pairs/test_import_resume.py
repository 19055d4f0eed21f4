"""Imports that are interrupted, shared or repeated give the same bytes; changed ones are refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from ddspo.errors import UserError
from ddspo.folder_lock import only_one
from ddspo.pairs import import_pairs as module
from ddspo.pairs.import_pairs import ImportSettings, import_pairs
from ddspo.pairs.store import PairStore
from helpers.import_cases import SMALL, recipe
from helpers.preference_sets import folder_of_pictures, mixed_rows, row, write_parquet


def contents(folder: Path) -> dict[str, Any]:
    """Every file that the settings decide; part records without their seconds."""
    told: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.name.startswith("part-"):
            told[path.name] = json.loads(path.read_text()) | {"seconds": 0}
        elif "cost" not in path.name:
            told[path.name] = path.read_bytes()
    return told


class Stops:
    """A family whose autoencoder gives up at one call."""

    def __init__(self, family: Any, at: int) -> None:
        self.family, self.left = family, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def encode_images(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.family.encode_images(images)


@pytest.mark.parametrize("calls", [0, 1, 3, 5])
def test_interrupted_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path: Path, family: Any, sizes: list[tuple[int, int]], calls: int
) -> None:
    source, settings = write_parquet(tmp_path / "set.parquet", mixed_rows()), recipe(family)
    import_pairs(str(source), tmp_path / "whole", settings, SMALL, family=family)
    stopped: Any = Stops(family, calls)
    with pytest.raises(KeyboardInterrupt):
        import_pairs(str(source), tmp_path / "torn", settings, SMALL, family=stopped)
    with pytest.raises(UserError, match="not finished.*ddspo import"):
        PairStore(tmp_path / "torn")
    rest: Any = Stops(family, 100)
    import_pairs(str(source), tmp_path / "torn", settings, SMALL, family=rest)
    assert contents(tmp_path / "torn") == contents(tmp_path / "whole")
    idle: Any = Stops(family, 0)
    import_pairs(str(source), tmp_path / "torn", settings, SMALL, family=idle)  # nothing left to encode


def test_a_lost_shard_is_made_again(tmp_path: Path, family: Any) -> None:
    source, settings = write_parquet(tmp_path / "set.parquet", [row(n) for n in range(6)]), recipe(family)
    import_pairs(str(source), tmp_path / "pairs", settings, SMALL, family=family)
    before = contents(tmp_path / "pairs")
    victim = sorted((tmp_path / "pairs").glob("shard-*.safetensors"))[1]
    victim.unlink()
    import_pairs(str(source), tmp_path / "pairs", settings, SMALL, family=family)
    assert contents(tmp_path / "pairs") == before


def test_two_processes_share_the_parts(
    tmp_path: Path, family: Any, sizes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, settings = write_parquet(tmp_path / "set.parquet", mixed_rows()), recipe(family)
    import_pairs(str(source), tmp_path / "one", settings, SMALL, family=family)
    from ddspo.processes import Process

    ranks, load, one_at_a_time = threading.local(), family.folder.load_model, threading.Lock()
    monkeypatch.setattr(module, "this_process", lambda: Process(ranks.value, 2))

    def load_model(*args: Any) -> Any:
        with one_at_a_time:  # while diffusers loads, all of Python makes modules without memory
            return load(*args)

    monkeypatch.setattr(family.folder, "load_model", load_model)

    def work(rank: int) -> None:
        ranks.value = rank
        import_pairs(str(source), tmp_path / "two", settings, SMALL, family=family)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_an_import_that_is_at_work_already_is_left_alone(tmp_path: Path, family: Any) -> None:
    source = str(write_parquet(tmp_path / "set.parquet", [row(0)]))
    with only_one(tmp_path / "pairs", "ddspo import"), pytest.raises(UserError, match="`ddspo import` is already at"):
        import_pairs(source, tmp_path / "pairs", recipe(family), SMALL, family=family)


def test_other_settings_are_refused(tmp_path: Path, family: Any) -> None:
    source = str(write_parquet(tmp_path / "set.parquet", [row(0)]))
    import_pairs(source, tmp_path / "pairs", recipe(family), SMALL, family=family)
    with pytest.raises(UserError, match="flip: False there, True now"):
        import_pairs(source, tmp_path / "pairs", recipe(family), ImportSettings(flip=True), family=family)


def test_a_corrected_caption_is_refused_with_the_difference(tmp_path: Path, family: Any) -> None:
    source = folder_of_pictures(tmp_path / "set", 2)
    import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)
    (source / "1.txt").write_text("a dog 1")
    with pytest.raises(UserError, match=r"made with other settings \(source\.captions: '\w+' there, '\w+' now\)"):
        import_pairs(str(source), tmp_path / "pairs", recipe(family), SMALL, family=family)

"""The store alone: exact round trips, any order of reading, and no damaged file is read in silence."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from ddspo.errors import UserError
from ddspo.files import claim_folder
from ddspo.ledger import Ledger
from ddspo.pairs.store import FORMAT, Layout, PairStore, is_whole, write_shard
from ddspo.tensors import WinLose

PAIRS, PER_SHARD, SHAPE = 7, 3, (4, 5, 6)


def latents(dtype: torch.dtype = torch.float32) -> WinLose:
    generator = torch.Generator().manual_seed(1)
    return WinLose(*(torch.randn((PAIRS, *SHAPE), generator=generator).to(dtype) for _ in range(2)))


def write_store(folder: Path, dtype: torch.dtype = torch.float32, skip: int | None = None) -> Layout:
    claim_folder(
        folder,
        {"format": FORMAT, "count": PAIRS, "pairs_per_shard": PER_SHARD, "reference_fingerprint": "abc"},
        "pairs",
    )
    layout, x_0 = Layout(folder, PAIRS, PER_SHARD), latents(dtype)
    for shard in range(layout.shards):
        numbers = layout.numbers(shard)
        rows = [{"id": f"pair-{n}", "prompt": f"a cat {n}", "degraded_prompt": "a", "seed": n} for n in numbers]
        if shard != skip:
            part = slice(numbers.start, numbers.stop)
            write_shard(layout, shard, WinLose(x_0.win[part], x_0.lose[part]), rows, Ledger(network_evaluations=12))
    return layout


def test_layout_cuts_into_shards_with_a_shorter_last_one() -> None:
    layout = Layout(Path("x"), 7, 3)
    assert [list(layout.numbers(shard)) for shard in range(layout.shards)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert Layout(Path("x"), 6, 3).shards == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip_is_exact_in_any_order_of_indices(tmp_path: Path, dtype: torch.dtype) -> None:
    write_store(tmp_path / "pairs", dtype)
    store, x_0 = PairStore(tmp_path / "pairs"), latents(dtype)
    assert len(store) == len(store.rows) == PAIRS
    assert store.latent_shape == SHAPE
    order = [6, 0, 3, 3, 5, 1]
    read = store.read(order)
    assert read.win.dtype == read.lose.dtype == torch.float32
    assert torch.equal(read.win, x_0.win[order].float())
    assert torch.equal(read.lose, x_0.lose[order].float())
    assert [store.rows[n]["prompt"] for n in order] == [f"a cat {n}" for n in order]


def test_latents_are_stored_in_their_own_precision(tmp_path: Path) -> None:
    sizes = {}
    for dtype in (torch.float32, torch.float16):
        layout = write_store(tmp_path / str(dtype), dtype)
        sizes[dtype] = layout.tensors(0).stat().st_size
    values = 2 * PER_SHARD * 4 * 5 * 6
    assert values * 4 <= sizes[torch.float32] < values * 4 + 300
    assert values * 2 <= sizes[torch.float16] < values * 2 + 300


@pytest.mark.parametrize("index", [-1, PAIRS])
def test_index_out_of_range(tmp_path: Path, index: int) -> None:
    write_store(tmp_path / "pairs")
    with pytest.raises(IndexError, match=f"pair {index} of {PAIRS}"):
        PairStore(tmp_path / "pairs").read([0, index])


def read_in_child(store: PairStore, queue: multiprocessing.Queue[list[float]]) -> None:
    queue.put(store.read([5, 2]).lose.flatten(1).sum(1).tolist())


def test_a_forked_process_reads_too(tmp_path: Path) -> None:
    write_store(tmp_path / "pairs")
    store = PairStore(tmp_path / "pairs")
    expected = store.read([5, 2]).lose.flatten(1).sum(1).tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=read_in_child, args=(store, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=20), queue.get(timeout=20)] == [expected, expected]
    for child in children:
        child.join()
        assert child.exitcode == 0


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "shard-00001.jsonl", "shard-00001.cost.json"])
@pytest.mark.parametrize("damage", ["delete", "tear", "empty"])
def test_torn_or_missing_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    layout = write_store(tmp_path / "pairs")
    path = tmp_path / "pairs" / name
    ids = ["pair-3", "pair-4", "pair-5"]
    assert is_whole(layout, 1, ids)
    if damage == "delete":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "tear" else b"")
    assert not is_whole(layout, 1, ids)
    if name.endswith(".cost.json") and damage != "delete":
        return  # no part of what is read
    with pytest.raises(UserError, match=f"{name}.*run the same `ddspo pairs` command again"):
        PairStore(tmp_path / "pairs")


def test_missing_last_shard_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "pairs", skip=2)
    with pytest.raises(UserError, match=r"shard-00002\.safetensors does not exist"):
        PairStore(tmp_path / "pairs")


def test_altered_latents_are_refused_when_read(tmp_path: Path) -> None:
    layout = write_store(tmp_path / "pairs")
    path = layout.tensors(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of the last latent
    path.write_bytes(content)
    store = PairStore(tmp_path / "pairs")
    assert torch.equal(store.read([3, 4]).win, latents().win[[3, 4]])
    with pytest.raises(UserError, match=r"shard-00001\.safetensors, row 2.*pair-5.*delete the file"):
        store.read([5])


def test_an_altered_row_is_refused_when_its_pair_is_read(tmp_path: Path) -> None:
    layout = write_store(tmp_path / "pairs")
    text = layout.index(0).read_text()
    layout.index(0).write_text(text.replace("a cat 1", "a dog 1"))
    store = PairStore(tmp_path / "pairs")
    store.read([0, 2])
    with pytest.raises(UserError, match=r"row 1: latents and index .pair pair-1."):
        store.read([1])


def test_swapped_shards_are_refused(tmp_path: Path) -> None:
    layout = write_store(tmp_path / "pairs")
    first, second = layout.tensors(0).read_bytes(), layout.tensors(1).read_bytes()
    layout.tensors(0).write_bytes(second)
    layout.tensors(1).write_bytes(first)
    with pytest.raises(UserError, match="altered"):
        PairStore(tmp_path / "pairs").read([0])


def test_rows_of_another_plan_do_not_count_as_whole(tmp_path: Path) -> None:
    layout = write_store(tmp_path / "pairs")
    assert not is_whole(layout, 0, ["pair-0", "pair-2", "pair-1"])


def test_another_reference_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    write_store(tmp_path / "pairs")
    store = PairStore(tmp_path / "pairs")
    store.check_reference("abc")
    with pytest.raises(UserError, match=r"another reference \(fingerprint abc, this model has def\)") as caught:
        store.check_reference("def")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [None, {"format": FORMAT + 1, "count": 1, "pairs_per_shard": 1}, {"what": "scores"}]
)
def test_a_folder_that_holds_no_pairs_is_refused(tmp_path: Path, settings: dict[str, object] | None) -> None:
    if settings is not None:
        (tmp_path / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="ddspo pairs"):
        PairStore(tmp_path)


def test_a_shard_takes_exactly_its_pairs(tmp_path: Path) -> None:
    x_0 = latents()
    with pytest.raises(ValueError, match="shard 2 takes 1 pairs, found 7 rows and 7 latents"):
        write_shard(Layout(tmp_path, PAIRS, PER_SHARD), 2, x_0, [{}] * 7, Ledger())


@pytest.mark.parametrize("renamed", range(3))
def test_a_shard_that_was_interrupted_between_its_files_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    layout = write_store(tmp_path / "pairs", skip=2)
    x_0, calls, replace = latents(), [], os.replace

    def replace_some(source: Path, target: Path) -> None:
        if len(calls) == renamed:
            raise KeyboardInterrupt
        calls.append(target)
        replace(source, target)

    part = WinLose(x_0.win[6:], x_0.lose[6:])
    monkeypatch.setattr(os, "replace", replace_some)
    with pytest.raises(KeyboardInterrupt):
        write_shard(layout, 2, part, [{"id": "pair-6"}], Ledger())
    assert len(calls) == renamed
    assert not is_whole(layout, 2, ["pair-6"])
    with pytest.raises(UserError, match="shard-00002"):
        PairStore(tmp_path / "pairs")
    monkeypatch.undo()
    write_shard(layout, 2, part, [{"id": "pair-6"}], Ledger())
    assert is_whole(layout, 2, ["pair-6"])


def test_writing_removes_what_a_killed_attempt_left(tmp_path: Path) -> None:
    layout = write_store(tmp_path / "pairs", skip=1)
    leftovers = [layout.folder / f".shard-00001.{kind}.4242.partial" for kind in ("safetensors", "jsonl", "cost.json")]
    other = layout.folder / ".shard-00002.safetensors.4242.partial"
    for path in [*leftovers, other]:
        path.write_bytes(b"half")
    x_0 = latents()
    rows = [{"id": f"pair-{n}"} for n in (3, 4, 5)]
    write_shard(layout, 1, WinLose(x_0.win[3:6], x_0.lose[3:6]), rows, Ledger())
    assert sorted(layout.folder.glob(".*")) == [other]  # another process may be writing that one

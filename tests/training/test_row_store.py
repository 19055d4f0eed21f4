"""Stored rows: exact, found by position whatever the cut, whole or absent, never read when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ddspo.errors import UserError
from ddspo.files import read_json
from ddspo.ledger import Ledger
from ddspo.training.row_store import Batch, RowStore

SHAPE = (4, 3, 5)


def said(pairs: int, rows: int, seed: int) -> torch.Tensor:
    """A call's predictions, [rows·pairs, C, H, W]."""
    return torch.randn((rows * pairs, *SHAPE), generator=torch.Generator().manual_seed(seed))


def batches() -> list[Batch]:
    """Two micro batches of 2 and 3 pairs; the first call has 3 rows per pair, the second 1."""
    return [Batch([0, 1], [said(2, 3, 0), said(2, 1, 1)]), Batch([4, 2, 3], [said(3, 3, 2), said(3, 1, 3)])]


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    store = RowStore(tmp_path)
    store.write(7, 0, batches()[:1], Ledger(8, 2.0))
    store.write(7, 1, batches()[1:], Ledger(12, 3.0))
    return store


def test_micro_batches_come_back_bit_for_bit(store: RowStore) -> None:
    for batch in batches():
        read = store.read(7, batch.positions)
        assert [tensor.dtype for tensor in read] == [torch.float32] * 2
        assert all(torch.equal(one, other) for one, other in zip(read, batch.calls, strict=True))


def test_any_other_cut_gives_the_rows_of_those_pairs(store: RowStore) -> None:
    first, second = batches()
    three, one = store.read(7, [3, 1])
    in_second, in_first = 2, 1
    blocks = [(second.calls[0].unflatten(0, (3, 3)), in_second), (first.calls[0].unflatten(0, (3, 2)), in_first)]
    expected = torch.cat([torch.stack([block[row, place] for block, place in blocks]) for row in range(3)])
    assert torch.equal(three, expected)
    assert torch.equal(one, torch.stack([second.calls[1][2], first.calls[1][1]]))


def test_half_precision_is_stored_without_loss(tmp_path: Path) -> None:
    store, half = RowStore(tmp_path), said(2, 3, 0).bfloat16()
    store.write(0, 0, [Batch([0, 1], [half])], Ledger())
    assert torch.equal(store.read(0, [0, 1])[0], half.float())


def test_whole_means_in_form_and_of_these_micro_batches(store: RowStore) -> None:
    assert store.is_whole(7, 1, [range(4, 1, -1)]) is False
    assert store.is_whole(7, 1, [[4, 2, 3]])
    assert store.is_whole(7, 0, [range(2)])
    assert not store.is_whole(8, 0, [range(2)])
    path = store.path(7, 0)
    path.write_bytes(path.read_bytes()[:-4])
    assert not store.is_whole(7, 0, [range(2)])


def test_missing_positions_are_named(store: RowStore) -> None:
    with pytest.raises(UserError, match="no rows for step 7, position 5; run the same command again"):
        store.read(7, [0, 5])
    with pytest.raises(UserError, match="no rows for step 6, position 0"):
        store.read(6, [0])


@pytest.mark.parametrize("damage", ["bit", "tear"])
def test_altered_rows_are_refused_by_name(store: RowStore, damage: str) -> None:
    path = store.path(7, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if damage == "bit" else content[: len(content) // 2])
    with pytest.raises(UserError, match=r"step-000007-001\.safetensors (was altered|is damaged).*delete it and run"):
        store.read(7, [4])


def test_costs_add_up_over_shards(store: RowStore) -> None:
    store.write(7, 1, batches()[1:], Ledger(12, 3.0))  # made again: counts once
    store.save_cost()
    cost = read_json(store.folder / "cost.json")
    assert cost["network_evaluations"] == 20
    assert cost["seconds"] == pytest.approx(5, abs=1)


def test_writing_removes_what_a_killed_attempt_left(store: RowStore) -> None:
    leftover = store.folder / ".step-000007-000.safetensors.4242.partial"
    leftover.write_bytes(b"half")
    store.write(7, 0, batches()[:1], Ledger())
    assert not leftover.exists()
    assert not store.is_empty()

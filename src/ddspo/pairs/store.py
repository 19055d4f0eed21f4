"""Pairs on disk, read in any order.

A folder holds `settings.json` (what the pairs are), the shards, and, where its shards differ in size and shape,
`pairs.json` (which they are, see `mixed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files import read_json
from ..tensors import WinLose
from .mixed import MIXED_FORMAT, MixedLayout
from .selection import with_contrast
from .shards import FORMAT as FORMAT
from .shards import Layout as Layout
from .shards import Shard as Shard
from .shards import checksum as checksum
from .shards import is_whole as is_whole
from .shards import write_shard as write_shard


class PairStore:
    """Random access to the pairs in a folder; tensors are memory-mapped, any order of indices costs the same.

    Opening checks that every shard is there and in form; reading checks the checksum of each pair that is read.
    The maps are read-only and share no file position, so a forked process may read too.

    Args:
        folder: made by `ddspo pairs` or `ddspo import`.
        min_contrast: leave out pairs of a lower measured contrast (see `contrast`); the others are numbered anew.

    Attributes:
        left_out: how many pairs that are.
        rows: one dictionary per pair: id, prompt, degraded_prompt, kind, change, seed, ...
        settings: how the pairs were made.
        latent_shape: (C, H, W); of the first pair, where they differ.
        one_shape: whether all pairs have that shape.
        state_timesteps: what the network is fed with each of the K stored states, [K], falling; None without states.

    Raises:
        UserError: not a pairs folder, or not complete; names the file and the mend.
    """

    def __init__(self, folder: Path, *, min_contrast: float = 0.0) -> None:
        self.folder = folder
        record = folder / "settings.json"
        if not record.exists():
            raise UserError(f"{folder} holds no pairs (no settings.json); make them with `ddspo pairs`")
        self.settings: dict[str, Any] = read_json(record)
        self._layout = _layout(folder, self.settings)
        self._shards = [Shard.open(self._layout, number) for number in range(self._layout.shards)]
        self.rows: list[dict[str, Any]] = self._all_rows()
        self.left_out = 0
        if min_contrast > 0:
            chosen = with_contrast(self._layout, [row["id"] for row in self.rows], min_contrast)
            self.left_out = len(self) - chosen.pairs
            self._layout = chosen
            self.rows = self._all_rows()
        self.latent_shape: tuple[int, int, int] = self._shards[0].latent_shape
        self.one_shape = all(shard.latent_shape == self.latent_shape for shard in self._shards)

        states = self._shards[0].states
        self.state_timesteps: Tensor | None = None if states is None else states.timesteps

    def _all_rows(self) -> list[dict[str, Any]]:
        return [self._shards[shard].rows[row] for shard, row in map(self._layout.place, range(len(self)))]

    @property
    def layout(self) -> Layout:
        """Which files hold which pairs."""
        return self._layout

    def __len__(self) -> int:
        return self._layout.pairs

    def shape_of(self, index: int) -> tuple[int, int, int]:
        """(C, H, W) of the pair with this number."""
        return self._shards[self._layout.place(index)[0]].latent_shape

    def read(self, indices: Sequence[int]) -> WinLose:
        """x_0 of the pairs with these numbers, in this order, repeats allowed: [B, C, H, W] each, float32, on the CPU.

        Args:
            indices: pairs of one shape.

        Raises:
            IndexError: a number outside 0 .. len - 1.
            UserError: a shard was altered after it was made.
        """
        return _stacked([shard.read(row) for shard, row in map(self._place, indices)])

    def read_states(self, indices: Sequence[int], states: Sequence[int]) -> WinLose:
        """x_t of pairs: for each, one of the states that sampling visited; [B, C, H, W] each, float32, on the CPU.

        Args:
            indices: numbers of pairs, repeats allowed.
            states: for each of them which state, 0 .. K - 1; its timestep is `state_timesteps[state]`.

        Raises:
            IndexError: a number outside its range.
            UserError: the folder holds no states, or a shard was altered after it was made.
        """
        sides = []
        for index, state in zip(indices, states, strict=True):
            shard, row = self._place(index)
            if shard.states is None or self.state_timesteps is None:
                raise UserError(
                    f"{self.folder} holds no trajectory states; make pairs with pairs.trajectory_states, or train with "
                    "training.timesteps.states 'forward'"
                )
            if not 0 <= state < len(self.state_timesteps):
                raise IndexError(f"state {state} of {len(self.state_timesteps)}")
            sides.append(shard.states.read(row, state))
        return _stacked(sides)

    def _place(self, index: int) -> tuple[Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        shard, row = self._layout.place(index)
        return self._shards[shard], row

    @property
    def is_imported(self) -> bool:
        """Whether the pairs came from outside (`ddspo import`), so that no reference made them."""
        return "autoencoder_fingerprint" in self.settings

    def check_autoencoder(self, fingerprint: str) -> None:
        """Refuse imported pairs whose latents another autoencoder made.

        Raises:
            UserError: the fingerprints differ; says both.
        """
        made_with = self.settings["autoencoder_fingerprint"]
        if made_with != fingerprint:
            raise UserError(
                f"{self.folder} holds latents of another autoencoder (fingerprint {made_with}, this model's has "
                f"{fingerprint}); import the pairs again for this model, into another folder"
            )

    def check_reference(self, fingerprint: str) -> None:
        """Refuse pairs that another model made: its scores would not be those of the model that is trained.

        Raises:
            UserError: the fingerprints differ; says both.
        """
        made_with = self.settings.get("reference_fingerprint")
        if made_with != fingerprint:
            raise UserError(
                f"{self.folder} holds pairs made with another reference (fingerprint {made_with}, this model has "
                f"{fingerprint}); train on the model that made them, or make new pairs in another folder"
            )


def _stacked(sides: Sequence[tuple[Tensor, Tensor]]) -> WinLose:
    return WinLose(torch.stack([win for win, _ in sides]).float(), torch.stack([lose for _, lose in sides]).float())


def _layout(folder: Path, settings: dict[str, Any]) -> Layout:
    if settings.get("format") == MIXED_FORMAT:
        return MixedLayout.read(folder)
    if settings.get("format") != FORMAT or not {"count", "pairs_per_shard"} <= settings.keys():
        record = folder / "settings.json"
        raise UserError(f"{record} does not describe pairs of format {FORMAT}; choose a folder made by `ddspo pairs`")
    return Layout(folder, settings["count"], settings["pairs_per_shard"])

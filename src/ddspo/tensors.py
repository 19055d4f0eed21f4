"""The named tensor groups that flow between rooms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class WinLose:
    """The two sides of a batch of pairs, each [B, ...], same shape."""

    win: Tensor
    lose: Tensor

    def stacked(self) -> Tensor:
        """[2B, ...], winning rows first: one network call for both sides."""
        return torch.cat([self.win, self.lose])

    def swapped(self) -> WinLose:
        """The sides exchanged."""
        return WinLose(self.lose, self.win)

    @classmethod
    def split(cls, stacked: Tensor) -> Self:
        """Undo `stacked`."""
        win, lose = stacked.chunk(2)
        return cls(win, lose)


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told besides x_t and timestep: named tensors that share their first dimension, [B, ...].

    A family decides the names (`prompt_embeds`, `pooled_prompt_embeds`, ...); others only select and join rows.
    """

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def rows(self, index: Tensor | Sequence[int] | slice) -> Conditioning:
        """The rows at `index`, in that order, repeats allowed."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, dtype=torch.long, device=next(iter(self.tensors.values())).device)
        return Conditioning({name: tensor[index] for name, tensor in self.tensors.items()})

    def repeat(self, times: int) -> Conditioning:
        """All rows, `times` over: [B, ...] -> [times·B, ...]."""
        return Conditioning({name: torch.cat([tensor] * times) for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Moved; `dtype` applies to floating-point tensors only."""
        return Conditioning(
            {
                name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
                for name, tensor in self.tensors.items()
            }
        )

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenate along the first dimension."""
        return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


Role = Literal["policy", "reference", "winning", "losing"]
"""Who predicts: what is trained, the frozen start, or a model of winning or of losing pictures (data-driven targets)"""
RolePredict = Callable[[Role, Tensor, Tensor, Conditioning], Tensor]
"""(role, x_t [N, ...], timestep [N], conditioning [N, ...]) -> prediction [N, ...]; only the policy's has a gradient"""


@dataclass(frozen=True)
class PreferenceBatch:
    """A batch of B pairs, ready for targets and objective.

    x_0: clean latents of both sides, [B, C, H, W]. noise and timestep are shared within a pair. x_t: states that
    sampling visited, which are used in place of x_0 and noise mixed; `diffusion.states` reads both kinds.
    """

    x_0: WinLose
    noise: Tensor | None  # [B, C, H, W]; None with stored states, whose noise differs between the sides
    timestep: Tensor  # [B], what the network is fed
    prompt: Conditioning  # [B, ...]
    degraded_prompt: Conditioning  # [B, ...]
    x_t: WinLose | None = None  # [B, C, H, W] a side

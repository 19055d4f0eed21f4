"""x_t of both sides of a batch, from either state source, and the noise in it.

forward:     x_t = alpha x_0 + sigma noise, one noise for both sides
trajectory:  x_t is what the sampler visited on its way to x_0; each side has its own
"""

from __future__ import annotations

from ..tensors import PreferenceBatch, WinLose
from .noise_path import NoisePath


def states(batch: PreferenceBatch, noise_path: NoisePath) -> WinLose:
    """x_t of both sides, [B, ...]: stored states if the batch has them, else x_0 and noise mixed."""
    if batch.x_t is not None:
        return batch.x_t
    noise = added_noise(batch, noise_path)
    return WinLose(
        noise_path.add_noise(batch.x_0.win, noise.win, batch.timestep),
        noise_path.add_noise(batch.x_0.lose, noise.lose, batch.timestep),
    )


def added_noise(batch: PreferenceBatch, noise_path: NoisePath) -> WinLose:
    """The noise that makes x_t of x_0, [B, ...] a side: what was drawn, or what stored states imply.

        noise = (x_t - alpha x_0) / sigma

    A stored state and x_0 lie on one trajectory, not on one forward path: this noise is no standard normal draw, and
    it differs between the sides. With it x_t = alpha x_0 + sigma noise holds again.

    Raises:
        ValueError: the batch has neither noise nor states.
    """
    if batch.x_t is not None:
        return WinLose(
            noise_path.convert(batch.x_0.win, batch.x_t.win, batch.timestep, source="sample", to="epsilon"),
            noise_path.convert(batch.x_0.lose, batch.x_t.lose, batch.timestep, source="sample", to="epsilon"),
        )
    if batch.noise is None:
        raise ValueError("a batch needs noise, or states that have it in them")
    return WinLose(batch.noise, batch.noise)

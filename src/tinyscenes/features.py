"""A small feature network for Fréchet distance and Inception Score on 32×32 scenes. It is not Inception-v3.

A convolutional network of 0.14M parameters, trained by `tinyscenes.build` on clean and slightly noisy renders to tell
what is in a picture (see `tinyscenes.build.features`). Its numbers compare models of this small world with one another
and with real renders; they say nothing beside published Inception-v3 figures.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .scenes import COLORS, SHAPES

WEIGHTS = Path(__file__).parent / "data" / "features.safetensors"
#: length of a picture's feature vector
FEATURES = 64
#: what the class head tells: shape and color of the largest object (among equals the topmost, then the leftmost)
CLASSES: tuple[tuple[str, str], ...] = tuple((shape, color) for shape in SHAPES for color in COLORS)
DESCRIPTION = (
    "features: 64 values of a small convolutional network trained on tinyscenes renders (not Inception-v3); "
    "classes of the Inception Score: shape and color of the largest object"
)


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.GroupNorm(8, channels_out), nn.SiLU())


class FeatureNetwork(nn.Module):
    """Picture -> 64 features -> logits of the largest object's class."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _block(3, 16, 1), _block(16, 32, 2), _block(32, 48, 2), _block(48, 48, 1), _block(48, 64, 2)
        )
        self.features = nn.Linear(4 * 4 * 64, FEATURES)
        self.classes = nn.Linear(FEATURES, len(CLASSES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, 32, 32] in [-1, 1] -> features [N, 64] and class logits [N, 24]."""
        features = nn.functional.silu(self.features(self.convolutions(images).flatten(1)))
        return features, self.classes(features)


@cache
def load_feature_network() -> FeatureNetwork:
    """The shipped network, float32, frozen. Weights are package data in half precision."""
    network = FeatureNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval().requires_grad_(False)


@torch.no_grad()
def extract(
    images: np.ndarray, network: FeatureNetwork | None = None, batch: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Features and class probabilities of pictures.

    Args:
        images: uint8 [N, 32, 32, 3].
        network: another network than the shipped one.
        batch: pictures per call; changes memory, not the result beyond rounding.

    Returns:
        Features, float64 [N, 64], and probabilities over `CLASSES`, float64 [N, 24].
    """
    network = load_feature_network() if network is None else network
    features, probabilities = [], []
    for start in range(0, len(images), batch):
        pixels = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
        found, logits = network(pixels)
        features.append(found.double().numpy())
        probabilities.append(logits.double().softmax(-1).numpy())
    return np.concatenate(features), np.concatenate(probabilities)

"""Stage `features`: train the feature network of Fréchet distance and Inception Score from a seed, in minutes.

Heads that are thrown away make the features hold what pictures of this world differ in: which shape has which color,
how many of each shape there are, which shape has which texture, and where the objects' mass lies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..features import CLASSES, FEATURES, FeatureNetwork
from ..render import render
from ..scenes import CANVAS_PX, COLORS, MAX_COUNT, SHAPES, TEXTURES, Scene, realize
from .captions import sample_true_description

_PRESENCE = len(CLASSES) + len(SHAPES) * len(TEXTURES)
_PLACES = 2 * len(SHAPES)


def largest_class(scene: Scene) -> int:
    """Index into `CLASSES` of the largest object; among equals the topmost, then the leftmost."""
    largest = min(scene.objects, key=lambda o: (-o.radius, o.y, o.x))
    return CLASSES.index((largest.shape, largest.color))


def _facts(scene: Scene) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Presence bits [_PRESENCE], count of each shape, mean place of each shape in [0, 1] (NaN where there is none)."""
    presence = np.zeros(_PRESENCE, np.float32)
    places = np.full((len(SHAPES), 2), np.nan, np.float32)
    counts = []
    for index, shape in enumerate(SHAPES):
        mine = [o for o in scene.objects if o.shape == shape]
        counts.append(len(mine))
        if mine:
            places[index] = np.mean([(o.x, o.y) for o in mine], 0) / CANVAS_PX
        for o in mine:
            presence[index * len(COLORS) + COLORS.index(o.color)] = 1
            presence[len(CLASSES) + index * len(TEXTURES) + TEXTURES.index(o.texture)] = 1
    return presence, counts, places.ravel()


class _Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.presence = nn.Linear(FEATURES, _PRESENCE)
        self.counts = nn.Linear(FEATURES, len(SHAPES) * (MAX_COUNT + 1))
        self.places = nn.Linear(FEATURES, _PLACES)

    def loss(self, features: Tensor, scenes: list[Scene]) -> Tensor:
        facts = [_facts(scene) for scene in scenes]
        presence, counts, places = (torch.from_numpy(np.stack([fact[part] for fact in facts])) for part in range(3))
        known = ~places.isnan()
        return (
            nn.functional.binary_cross_entropy_with_logits(self.presence(features), presence)
            + nn.functional.cross_entropy(self.counts(features).view(-1, MAX_COUNT + 1), counts.view(-1))
            + (self.places(features)[known] - places[known]).pow(2).mean()
        )


def _draw(batch: int, rng: np.random.Generator) -> tuple[Tensor, list[Scene]]:
    """Renders in [-1, 1], half of them with a little noise: a sampler's pictures are never perfectly clean."""
    scenes = [realize(sample_true_description(rng), rng) for _ in range(batch)]
    pixels = np.stack([render(scene) for scene in scenes]).astype(np.float32) / 127.5 - 1
    noise = rng.standard_normal(pixels.shape, np.float32)
    noise *= rng.uniform(0, 0.15, (batch, 1, 1, 1)).astype(np.float32) * (rng.random((batch, 1, 1, 1)) < 0.5)
    return torch.from_numpy((pixels + noise).clip(-1, 1)).permute(0, 3, 1, 2), scenes


def train_features(seed: int, steps: int, log: Callable[[str], None], batch: int = 64) -> FeatureNetwork:
    """Cross entropy of the largest object's class, plus the facts; AdamW with one-cycle learning rate."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 4])
    network, heads = FeatureNetwork(), _Heads()
    parameters = [*network.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    right = 0.0
    for step in range(1, steps + 1):
        images, scenes = _draw(batch, rng)
        features, logits = network(images)
        classes = torch.tensor([largest_class(scene) for scene in scenes])
        loss = nn.functional.cross_entropy(logits, classes) + heads.loss(features, scenes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        right = 0.98 * right + 0.02 * (logits.argmax(-1) == classes).float().mean().item()
        if step % 250 == 0 or step == steps:
            log(f"features {step}/{steps} loss {loss.item():.4f} largest object right {right:.3f}")
    return network.eval().requires_grad_(False)


def save_features(network: FeatureNetwork, path: Path) -> None:
    """Weights in half precision, as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, path)
    path.chmod(0o644)  # safetensors makes files that only their owner may read

"""tinyscenes: a world of pixel-art scenes, its language, an exact scorer, and a tiny Stable Diffusion trained on it.

The checkpoint in `pipeline_folder()` is an ordinary `StableDiffusionPipeline` folder; `tinyscenes.build` made it.
"""

from __future__ import annotations

from pathlib import Path

_DATA = Path(__file__).parent / "data"


def pipeline_folder() -> Path:
    """The embedded diffusers pipeline (weights in half precision)."""
    return _DATA / "pipeline"


def build_record() -> Path:
    """JSON with the seed, the figures and the alignment screen of the embedded pipeline."""
    return _DATA / "build.json"

"""The outside of a diffusers folder: configurations and weight headers, no working model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def make_base(folder: Path) -> Path:
    """The files of a diffusers folder that a plan reads: configurations, and a denoiser of 3 + 4·(6 + 4) numbers."""
    for name, config in {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "unet/config.json": {"in_channels": 4, "sample_size": 8},
        "vae/config.json": {"block_out_channels": [8, 8, 8]},
        "scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler"},
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
    weights = {"conv_in.weight": np.zeros(3, np.float32)}
    for layer in ("to_q", "to_k", "to_v", "to_out.0"):
        weights[f"attn1.{layer}.weight"] = np.zeros((5, 2), np.float32)
    save_file(weights, folder / "unet/diffusion_pytorch_model.safetensors")
    save_file(weights, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    return folder

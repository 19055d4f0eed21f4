"""`python -m tinyscenes.build OUT`: train the embedded checkpoint from a seed and record its figures.

Stages run in order and each is kept: autoencoder, text encoder, feature network, denoiser, record. The same command
again takes up where it stopped. On two idle cores the whole takes about an hour, most of it the denoiser.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from .captions import CaptionNoise
from .features import save_features, train_features
from .measure import accuracy, draw, probe_descriptions, prompts_of
from .record import record
from .text import new_tokenizer, train_text_encoder
from .unet import LatentBank, UNetTraining, new_scheduler, new_unet
from .vae import train_vae

VAE_STEPS, TEXT_STEPS, FEATURE_STEPS = 4000, 2500, 2000
UNET_IMAGES, BANK_IMAGES = 600_000, 100_000
REPORT_EVERY_STEPS = 1600


def log(message: str) -> None:
    """One line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def assemble(work: Path, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """The pipeline of the parts made so far around this denoiser."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae").eval(),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder").eval(),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_vae(work: Path, seed: int) -> None:
    """Stage 1."""
    if not (work / "vae").exists():
        train_vae(seed, VAE_STEPS, log).save_pretrained(work / "vae")


def build_text(work: Path, seed: int) -> None:
    """Stage 2."""
    if not (work / "text_encoder").exists():
        tokenizer = new_tokenizer()
        tokenizer.save_pretrained(work / "tokenizer")
        train_text_encoder(tokenizer, seed, TEXT_STEPS, log).save_pretrained(work / "text_encoder")


def build_features(out: Path, seed: int) -> None:
    """Stage 3: the network behind Fréchet distance and Inception Score."""
    if not (out / "features.safetensors").exists():
        save_features(train_features(seed, FEATURE_STEPS, log), out / "features.safetensors")


def build_unet(work: Path, seed: int, images: int) -> UNet2DConditionModel:
    """Stage 4; reports accuracy and kinds of failure as it goes, so that the swap rate is watched from the start."""
    torch.manual_seed(seed)
    unet = new_unet()
    parts = assemble(work, unet)
    bank = LatentBank.draw(parts.vae, BANK_IMAGES, np.random.default_rng([seed, 5]), log)
    training = UNetTraining(unet, parts.text_encoder, parts.tokenizer, bank, CaptionNoise(), seed)
    state = work / "unet_state.safetensors"
    if state.exists():
        with safe_open(state, "pt") as file:
            training.load(state, int(file.metadata()["images"]))
    probes = probe_descriptions(24, seed)
    for seen in training.run(images, REPORT_EVERY_STEPS):
        drawn = draw(assemble(work, training.average), prompts_of(probes), guidance_scale=4.0, steps=15, seed=seed)
        log(f"unet {seen}/{images} loss {training.loss:.4f} {accuracy(drawn, probes)}")
        training.save(state)
    return training.average


def forget_places(pipeline: Path) -> None:
    """Take out of every configuration where its part once lay on this machine, which diffusers writes down."""
    for path in pipeline.rglob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse arguments and run the stages."""
    parser = argparse.ArgumentParser(prog="python -m tinyscenes.build", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the pipeline, its record and the work in progress")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=UNET_IMAGES, help="training images for the denoiser")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(arguments.threads)
    work = arguments.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    build_vae(work, arguments.seed)
    build_text(work, arguments.seed)
    build_features(arguments.out, arguments.seed)
    unet = build_unet(work, arguments.seed, arguments.images)
    pipeline = assemble(work, unet)
    pipeline.to(torch.float16).save_pretrained(arguments.out / "pipeline")
    forget_places(arguments.out / "pipeline")
    shipped = StableDiffusionPipeline.from_pretrained(arguments.out / "pipeline", dtype=torch.float32)
    shipped.set_progress_bar_config(disable=True)
    figures = {"seed": arguments.seed, "unet_images": arguments.images, **record(shipped, arguments.seed, log)}
    (arguments.out / "build.json").write_text(json.dumps(figures, indent=2) + "\n")
    log(f"wrote {arguments.out / 'pipeline'} and build.json")


if __name__ == "__main__":
    main()

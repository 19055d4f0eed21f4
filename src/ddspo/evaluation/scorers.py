"""Scorers of single pictures, chosen as "name" or "name:argument", such as "clip_score:FOLDER"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..prompts.sources import PromptRecord

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Scores:
    """One number per picture, and what there is to say about each (JSON-ready; may be empty)."""

    values: NDArray[np.float64]  # [N]
    details: list[dict[str, Any]]


class Scorer(Protocol):
    """Looks at pictures and the prompts they were drawn for."""

    name: str
    higher_is_better: bool
    description: str
    """one plain sentence for the report"""

    def check(self, records: Sequence[PromptRecord]) -> None:
        """Raise a `UserError` when these prompts cannot be scored: asked before any picture is drawn."""
        ...

    def __call__(self, images: Images, records: Sequence[PromptRecord]) -> Scores:
        """Score uint8 pictures [N, H, W, 3] of N records."""
        ...


class TinyscenesScorer:
    """1 when every clause of a tinyscenes prompt is true of the picture and nothing else is drawn, else 0.

    Detail: 'failed' clauses, 'fraction' of true clauses, and the kind of 'failure' in one word.
    """

    name = "tinyscenes"
    higher_is_better = True
    description = (
        "share of pictures in which every clause of the prompt is true and nothing else is drawn, read from pixels"
    )

    def check(self, records: Sequence[PromptRecord]) -> None:
        """Every prompt must be of the tinyscenes language."""
        from tinyscenes.language import PromptError, parse

        for record in records:
            try:
                parse(record.prompt)
            except PromptError as error:
                raise UserError(
                    f"the tinyscenes scorer reads only tinyscenes prompts: {error}; use another of evaluation.scorers"
                ) from error

    def __call__(self, images: Images, records: Sequence[PromptRecord]) -> Scores:
        """Judge each picture, uint8 [N, 32, 32, 3]."""
        from tinyscenes.language import parse
        from tinyscenes.scenes import CANVAS_PX
        from tinyscenes.score import failure_kind, judge

        if images.shape[1:] != (CANVAS_PX, CANVAS_PX, 3):
            height, width = images.shape[1:3]
            raise UserError(f"the tinyscenes scorer reads {CANVAS_PX}×{CANVAS_PX} pictures, not {width}×{height}")
        details = []
        for image, record in zip(images, records, strict=True):
            description = parse(record.prompt)
            verdict = judge(image, description)
            details.append(
                {
                    "failed": list(verdict.failed),
                    "fraction": verdict.fraction,
                    "failure": "none" if verdict.exact else failure_kind(image, description),
                }
            )
        return Scores(np.array([float(not detail["failed"]) for detail in details]), details)


class _ClipModelScorer:
    """What CLIPScore and PickScore share: a `CLIPModel` and the cosine of picture and prompt embeddings."""

    name: str
    higher_is_better = True
    description: str
    default_model: str
    default_processor: str

    def __init__(self, model: str | None, device: str) -> None:
        from transformers import CLIPConfig, CLIPProcessor

        self._source = model or self.default_model
        self._device = device
        self._model: Any = None
        try:
            self._config = CLIPConfig.from_pretrained(self._source)
            self._processor = CLIPProcessor.from_pretrained(model or self.default_processor)
        except (OSError, ValueError) as error:
            raise UserError(
                f"scorer {self.name}: no CLIP model at '{self._source}'; give a folder or hub id as '{self.name}:PATH'"
            ) from error
        # A wrong folder gives a tokenizer of two tokens and no error.
        if len(self._processor.tokenizer) < 0.9 * self._config.text_config.vocab_size:
            raise UserError(f"scorer {self.name}: '{self._source}' has no tokenizer files; download it whole")

    def check(self, records: Sequence[PromptRecord]) -> None:
        """Any text can be scored."""

    def _cosines(self, images: Images, records: Sequence[PromptRecord]) -> NDArray[np.float64]:
        import torch
        from PIL import Image

        inputs = self._processor(
            text=[record.prompt for record in records],
            images=[Image.fromarray(image) for image in images],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._config.text_config.max_position_embeddings,
        )
        with torch.no_grad():
            output = self._clip()(**inputs.to(self._device))
        pairs = [embeds / embeds.norm(dim=-1, keepdim=True) for embeds in (output.image_embeds, output.text_embeds)]
        return np.asarray((pairs[0] * pairs[1]).sum(-1).double().cpu().numpy())

    def _clip(self) -> Any:
        """The model, loaded when first used: the scorer is made before the pictures are, and then waits."""
        if self._model is None:
            from transformers import CLIPModel

            try:
                model = CLIPModel.from_pretrained(self._source, dtype="float32", use_safetensors=True)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"scorer {self.name}: '{self._source}' has no safetensors weights that can be loaded; convert them "
                    "with transformers' save_pretrained: pickled weights are never loaded"
                ) from error
            self._model = model.eval().to(self._device)
        return self._model


class ClipScore(_ClipModelScorer):
    """100 · max(0, cos(picture, prompt)) (Hessel et al. 2021, with the factor that torchmetrics uses)."""

    name = "clip_score"
    description = "CLIPScore: 100 · cosine of the CLIP embeddings of picture and prompt"
    default_model = "openai/clip-vit-large-patch14"
    default_processor = default_model

    def __call__(self, images: Images, records: Sequence[PromptRecord]) -> Scores:
        """Score uint8 pictures [N, H, W, 3]."""
        return Scores(100 * self._cosines(images, records).clip(0), [{} for _ in records])


class PickScore(_ClipModelScorer):
    """exp(logit_scale) · cos(picture, prompt) of a CLIP model tuned on people's choices (Kirstain et al. 2023)."""

    name = "pickscore"
    description = (
        "PickScore: scaled cosine of the embeddings of picture and prompt, of a CLIP tuned on people's choices"
    )
    default_model = "yuvalkirstain/PickScore_v1"
    default_processor = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"

    def __call__(self, images: Images, records: Sequence[PromptRecord]) -> Scores:
        """Score uint8 pictures [N, H, W, 3]."""
        scale = float(self._clip().logit_scale.detach().exp())
        return Scores(scale * self._cosines(images, records), [{} for _ in records])


#: name -> maker of a scorer from (argument after ':' or None, device)
SCORERS: dict[str, Callable[[str | None, str], Scorer]] = {
    "tinyscenes": lambda argument, device: TinyscenesScorer(),
    "clip_score": ClipScore,
    "pickscore": PickScore,
}


def load_scorer(choice: str, device: str = "cpu") -> Scorer:
    """The scorer that 'name' or 'name:argument' stands for.

    Raises:
        UserError: there is none by that name, or its model is not where the argument says.
    """
    name, _, argument = choice.partition(":")
    if name not in SCORERS:
        raise UserError(f"evaluation.scorers: there is no scorer '{name}'; there are {', '.join(SCORERS)}")
    return SCORERS[name](argument or None, device)

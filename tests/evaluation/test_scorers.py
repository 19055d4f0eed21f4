"""Scorers: exact on tinyscenes, and CLIP-like ones on a random model of the real architecture."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from ddspo import recipe_evaluation
from ddspo.errors import UserError
from ddspo.evaluation.features import real_renders
from ddspo.evaluation.scorers import SCORERS, load_scorer
from ddspo.files import content_id
from ddspo.prompts.sources import PromptRecord
from helpers.tiny_pipelines import tiny_tokenizer


def _records(*prompts: str) -> list[PromptRecord]:
    return [PromptRecord(content_id(prompt), prompt) for prompt in prompts]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of 2 + 2 layers with random weights."""
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **sizes,
    }
    config = CLIPConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 8, **sizes}, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(config)
    processor = CLIPProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer
    )
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_tinyscenes_scorer() -> None:
    records = _records("a red circle and a blue square", "two green crosses", "a striped triangle and a plain circle")
    images = real_renders(records, seed=0, per_prompt=1)
    scorer = load_scorer("tinyscenes")
    right = scorer(images, records)
    assert right.values.tolist() == [1, 1, 1]
    assert right.details[0] == {"failed": [], "fraction": 1.0, "failure": "none"}
    wrong = scorer(images[[1, 0, 2]], [records[0], records[1], records[2]])
    assert wrong.values.tolist() == [0, 0, 1]
    assert wrong.details[0]["failed"] and 0 < wrong.details[0]["fraction"] < 1
    assert wrong.details[0]["failure"] != "none"


def test_tinyscenes_scorer_refuses_what_it_cannot_judge() -> None:
    scorer = load_scorer("tinyscenes")
    with pytest.raises(UserError, match="only tinyscenes prompts"):
        scorer.check(_records("a cat on a mat"))
    with pytest.raises(UserError, match="32×32 pictures, not 64×48"):
        scorer(np.zeros((1, 48, 64, 3), np.uint8), _records("a red circle"))


@pytest.mark.parametrize("name", ["clip_score", "pickscore"])
def test_clip_scorers_by_hand(name: str, clip_folder: Path) -> None:
    """Against embeddings computed one picture at a time with the towers called separately."""
    records = _records("a red cat", "blue")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
    scores = load_scorer(f"{name}:{clip_folder}")(images, records)

    model = CLIPModel.from_pretrained(clip_folder, dtype="float32").eval()
    processor = CLIPProcessor.from_pretrained(clip_folder)
    for image, record, score in zip(images, records, scores.values, strict=True):
        with torch.no_grad():
            inputs = processor(text=[record.prompt], images=[image], return_tensors="pt")
            picture = model.visual_projection(model.vision_model(inputs.pixel_values).pooler_output)[0]
            text = model.text_projection(
                model.text_model(inputs.input_ids, attention_mask=inputs.attention_mask).pooler_output
            )[0]
            cosine = torch.cosine_similarity(picture, text, dim=0).item()
        scale = model.logit_scale.exp().item()
        assert score == pytest.approx(100 * max(0, cosine) if name == "clip_score" else scale * cosine, abs=1e-3)
    assert len(scores.details) == 2


def test_clip_scorer_does_not_depend_on_the_batch_and_cuts_long_prompts(clip_folder: Path) -> None:
    records = _records("a red cat", "blue " * 200, "a blue cat")
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    scorer = load_scorer(f"pickscore:{clip_folder}")
    together = scorer(images, records).values
    apart = [scorer(images[[i]], [records[i]]).values[0] for i in range(3)]
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_unknown_scorer_and_missing_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no scorer 'clips'.*tinyscenes, clip_score, pickscore"):
        load_scorer("clips")
    with pytest.raises(UserError, match="no CLIP model at"):
        load_scorer(f"clip_score:{tmp_path / 'nowhere'}")
    assert tuple(SCORERS) == recipe_evaluation.SCORERS, "recipes are checked against the names without loading these"


def test_pickled_weights_are_never_loaded(clip_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    torch.save(CLIPModel.from_pretrained(clip_folder).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    scorer = load_scorer(f"clip_score:{copy}")
    with pytest.raises(UserError, match="pickled weights are never loaded"):
        scorer(np.zeros((1, 32, 32, 3), np.uint8), _records("a red circle"))


def test_missing_tokenizer_is_noticed(clip_folder: Path, tmp_path: Path) -> None:
    for file in clip_folder.iterdir():
        if not file.name.startswith("tokenizer"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="tokenizer|no CLIP model"):
        load_scorer(f"clip_score:{tmp_path}")

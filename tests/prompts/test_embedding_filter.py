from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddspo.alignment import degrade_stage
from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.text_embedding import TextEmbedder, pooled
from ddspo.recipe import Degradation, Model, Recipe
from ddspo.tensors import Conditioning


def test_pooled_by_hand() -> None:
    states = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pooled(Conditioning({"prompt_embeds": states[:, :2]})).tolist() == [[2.0, 1.0]]
    assert pooled(Conditioning({"prompt_embeds": states, "prompt_attention_mask": mask})).tolist() == [[2.0, 1.0]]
    vector = torch.tensor([[5.0]])
    assert pooled(Conditioning({"prompt_embeds": states, "pooled_prompt_embeds": vector})) is vector


def test_the_encoder_is_loaded_at_the_first_text_and_asked_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    family = load_family("tinyscenes")
    sizes: list[int] = []
    encode = type(family).encode_prompts

    def counted(self: object, prompts: list[str]) -> Conditioning:
        sizes.append(len(prompts))
        return encode(self, prompts)  # type: ignore[arg-type]

    monkeypatch.setattr(type(family), "encode_prompts", counted)
    embed = TextEmbedder(Model(), batch=4, family=family)
    assert "text_encoder" not in family.loaded()
    texts = ["a red circle", "a blue circle", "a red circle", *["two squares"] * 6]
    vectors = embed(texts)
    assert sizes == [4, 4, 1] and vectors.shape[0] == 9
    assert np.allclose(vectors[0], vectors[2], atol=1e-6) and not np.allclose(vectors[0], vectors[1], atol=1e-3)
    assert family.loaded() <= {"text_encoder", "tokenizer"}
    embed.release()
    assert not family.loaded()


def recipe(tmp_path: Path, **fields: object) -> Recipe:
    (tmp_path / "p.txt").write_text(
        "\n".join(["a red circle and a blue square", "two green crosses", "a cyan triangle"]), encoding="utf-8"
    )
    prompts = Recipe().prompts.model_copy(update={"source": str(tmp_path / "p.txt")})
    return Recipe(prompts=prompts, degradation=Degradation(**fields))  # type: ignore[arg-type]


def how(path: Path) -> list[dict[str, float]]:
    return [each for line in path.read_text(encoding="utf-8").splitlines() for each in json.loads(line)["how"]]


def test_distances_are_recorded_and_filtered_on(tmp_path: Path) -> None:
    degrade_stage(recipe(tmp_path, measure_embedding_distance=True), tmp_path / "measured")
    measured = how(tmp_path / "measured" / "degraded.jsonl")
    distances = sorted(each["embedding_distance"] for each in measured)
    assert 0 < distances[0] < distances[-1] < 2
    middle = distances[len(distances) // 2]
    told = degrade_stage(recipe(tmp_path, min_embedding_distance=middle), tmp_path / "filtered")
    kept = how(tmp_path / "filtered" / "degraded.jsonl")
    assert [each for each in measured if each["embedding_distance"] >= middle] == kept
    assert f"{len(measured) - len(kept)} nearer in embedding than min_embedding_distance" in told
    settings = json.loads((tmp_path / "measured" / "degraded.settings.json").read_text(encoding="utf-8"))
    assert settings["text_encoder"]["base"] == "tinyscenes"
    with pytest.raises(UserError, match="measure_embedding_distance: True there, None now"):
        degrade_stage(recipe(tmp_path), tmp_path / "measured")


def test_the_encoder_is_left_alone_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddspo.families.load.load_family", lambda *a, **k: pytest.fail("loaded"))
    degrade_stage(recipe(tmp_path), tmp_path / "run")
    assert "embedding_distance" not in how(tmp_path / "run" / "degraded.jsonl")[0]

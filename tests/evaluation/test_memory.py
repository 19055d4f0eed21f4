"""What an evaluation holds in memory: one denoiser at a time, and text on disk."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ddspo.evaluation import work
from ddspo.evaluation.evaluate import evaluate
from ddspo.families import pipeline, stored_prompts
from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.families.roles import Roles
from ddspo.families.stable_diffusion import StableDiffusion
from ddspo.files import write_jsonl
from ddspo.recipe import Lora, Recipe
from ddspo.tensors import Conditioning
from helpers.tiny_pipelines import tiny_sd

PROMPTS = ["a red circle", "two blue squares", "a green cross and a red circle"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, lora/ and full/ (policies that change nothing), prompts.jsonl."""
    folder = tmp_path_factory.mktemp("home")
    tiny_sd(folder, scheduler="ddim").rename(folder / "base")
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    Roles.lora(load_family(str(folder / "base")), Lora(rank=2), seed=0).save_policy(folder / "lora")
    Roles.full(load_family(str(folder / "base"))).save_policy(folder / "full")
    return folder


def recipe_for(home: Path) -> Recipe:
    settings = {
        "prompts": str(home / "prompts.jsonl"),
        "sampling": {"steps": 1, "guidance_scale": 3.0, "batch_images": 2},
        "bootstrap_samples": 50,
        "set_metrics": [],
    }
    model = {"base": str(home / "base"), "height_px": 32, "width_px": 32}
    return Recipe.model_validate({"seed": 5, "model": model, "evaluation": settings})


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("images/*/*.png")}


@pytest.fixture(scope="module")
def whole(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "scores"
    evaluate(recipe_for(home), {"lora": home / "lora"}, output)
    return output


class Killed(BaseException):
    """As sudden as a signal."""


def test_no_denoiser_is_held_while_the_next_is_loaded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor while text encoders are: of a large model the device has room for one of them."""
    alive: list[weakref.ref[Any]] = []
    genuine = pipeline.PipelineFamily._load_network

    def load(family: Any, name: str, dtype: Any) -> Any:
        held = sum(network() is not None for network in alive)
        assert name == "vae" or not held, f"{held} denoisers in memory while {name} is loaded"
        network = genuine(family, name, dtype)
        if name == "unet":
            alive.append(weakref.ref(network))
        return network

    gc.collect()
    monkeypatch.setattr(pipeline.PipelineFamily, "_load_network", load)
    family = load_family(str(home / "base"))
    assert family.denoiser is not None  # as training leaves it
    evaluate(recipe_for(home), {name: home / name for name in ("lora", "full")}, tmp_path / "scores", family=family)
    assert len(alive) == 4  # the one of before, then reference, lora, full
    gc.collect()
    assert not [network for network in alive if network() is not None]


def test_text_is_read_from_disk_and_gives_the_same_pictures(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = tmp_path / "memory"
    with monkeypatch.context() as patch:
        patch.setattr(
            "ddspo.evaluation.generate.prompts_on_disk",
            lambda family, prompts, folder: PromptTable.build(family, ["", *prompts]),
        )
        evaluate(recipe_for(home), {"lora": home / "lora"}, in_memory)
    assert pictures(in_memory) == pictures(whole) and len(pictures(whole)) == 6
    assert sorted(path.name for path in whole.iterdir()) == sorted(path.name for path in in_memory.iterdir())


def test_an_interrupted_evaluation_encodes_nothing_twice(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    genuine, encode, output = work.write_png, StableDiffusion.encode_prompts, tmp_path / "scores"

    def counted(family: Any, prompts: Sequence[str]) -> Conditioning:
        asked.extend(prompts)
        return encode(family, prompts)

    def dying(path: Path, image: Any) -> None:
        if len(list(output.glob("images/*/*.png"))) == 3:
            raise Killed
        genuine(path, image)

    monkeypatch.setattr(StableDiffusion, "encode_prompts", counted)
    with monkeypatch.context() as patch:
        patch.setattr(work, "write_png", dying)
        with pytest.raises(Killed):
            evaluate(recipe_for(home), {"lora": home / "lora"}, output)
    assert sorted(asked) == sorted(["", *PROMPTS])
    assert list((output / work.TEXT).rglob("text-*.safetensors"))
    evaluate(recipe_for(home), {"lora": home / "lora"}, output)
    assert len(asked) == 1 + len(PROMPTS)
    assert pictures(output) == pictures(whole)
    assert not (output / work.TEXT).exists()  # gigabytes for large encoders


def test_text_alone_binds_no_settings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between text and the first picture; then with another batch."""
    with monkeypatch.context() as patch:
        patch.setattr("ddspo.evaluation.generate.sample", killed)
        with pytest.raises(Killed):
            evaluate(recipe_for(home), {}, tmp_path / "scores")
    assert list((tmp_path / "scores" / work.TEXT).rglob("text-*.safetensors"))
    recipe = recipe_for(home)
    sampling = recipe.evaluation.sampling.model_copy(update={"batch_images": 1})
    other = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"sampling": sampling})})
    assert evaluate(other, {}, tmp_path / "scores").models.keys() == {"reference"}


def test_one_process_of_several_waits_for_nobody(
    home: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process of a script under torchrun may evaluate alone."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(stored_prompts.time, "sleep", killed)
    evaluate(recipe_for(home), {}, tmp_path / "scores")
    assert pictures(tmp_path / "scores").items() <= pictures(whole).items()


def killed(*args: Any, **kwargs: Any) -> Any:
    raise Killed

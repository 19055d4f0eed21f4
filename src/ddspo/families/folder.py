"""A diffusers pipeline folder: which parts it has, which files they are, and how one part is loaded."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, first_line
from ..files import read_json

INDEX = "model_index.json"
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".pb"}
_WEIGHT_STEM = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_PART_NAME = re.compile(r"[A-Za-z0-9_]+")
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))


class PipelineFolder:
    """A local folder in diffusers' layout (`model_index.json` and one subfolder a part).

    Only safetensors weights are read and only classes of diffusers and transformers are used; nothing is unpickled and
    no code from the folder runs.

    Args:
        path: the folder.
        variant: prefer weight files of this variant ('fp16': `model.fp16.safetensors`) in parts that have them.

    Raises:
        UserError: no such folder, no `model_index.json`, or no part has the variant.
    """

    def __init__(self, path: Path, variant: str | None = None) -> None:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give a diffusers pipeline folder (one with {INDEX})")
        if not (path / INDEX).is_file():
            raise UserError(
                f"{path} has no {INDEX}, so it is no diffusers pipeline; a single-file checkpoint becomes one with "
                "diffusers' from_single_file(...).save_pretrained(folder)"
            )
        self.path = path
        self.variant = variant
        self.index: dict[str, Any] = read_json(path / INDEX)
        if variant and not any(path.glob(f"*/*.{variant}.safetensors")) and not any(path.glob(f"*/*.{variant}-*")):
            raise UserError(f"{path} has no weights of variant '{variant}'; leave model.variant out or check its name")

    @property
    def pipeline_class(self) -> str:
        """`_class_name` of the pipeline, such as 'StableDiffusionPipeline'."""
        return str(self.index.get("_class_name", "(unnamed)"))

    def parts(self) -> dict[str, tuple[str, str]]:
        """Part name -> (library, class name), without the parts that are null.

        Raises:
            UserError: a name that is no plain subfolder.
        """
        parts = {
            name: (value[0], value[1])
            for name, value in self.index.items()
            if isinstance(value, list) and len(value) == 2 and value[0] and value[1]
        }
        for name in parts:
            if not _PART_NAME.fullmatch(name):
                raise UserError(
                    f"{self.path / INDEX}: {name!r} cannot name a part; get the folder from its maker again"
                )
        return parts

    def require(self, names: tuple[str, ...]) -> None:
        """Check, without loading anything, that these parts are here with their files.

        Raises:
            UserError: names the first part that is missing or incomplete.
        """
        for name in names:
            library, _ = self._part(name)
            if name.startswith("tokenizer"):
                self._check_tokenizer_files(name)
            elif name == "scheduler":
                self.config(name)
            elif library in _WEIGHT_STEM:
                self.config(name)
                self.weight_files(name)

    def _part(self, name: str) -> tuple[str, str]:
        part = self.parts().get(name)
        if part is None:
            raise UserError(f"{self.path / INDEX} names no '{name}', which a {self.pipeline_class} needs")
        if part[0] not in _WEIGHT_STEM:
            raise UserError(
                f"{self.path / INDEX}: '{name}' is a class of '{part[0]}'; only diffusers and transformers are used"
            )
        if not (self.path / name).is_dir():
            raise UserError(f"{self.path} lacks the subfolder '{name}' that its {INDEX} names; download it again")
        return part

    def config(self, name: str) -> dict[str, Any]:
        """The part's configuration as written, without loading the part."""
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        return dict(read_json(self.path / name / file))

    def weight_files(self, name: str) -> list[Path]:
        """The files that hold this part's weights: one, or an index and its shards (the index first).

        Raises:
            UserError: no safetensors weights, or a shard is missing or lies elsewhere.
        """
        library, _ = self._part(name)
        folder, stem = self.path / name, _WEIGHT_STEM[library]
        for variant in dict.fromkeys([self.variant, None]):
            middle = f".{variant}" if variant else ""
            whole, index = folder / f"{stem}{middle}.safetensors", folder / f"{stem}.safetensors.index{middle}.json"
            if whole.is_file():
                return [whole]
            if index.is_file():
                names = sorted(set(map(str, read_json(index)["weight_map"].values())))
                outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
                if outside:
                    raise UserError(
                        f"{index}: {outside[0]!r} is no .safetensors file of this folder; get it from its maker again"
                    )
                shards = [folder / name for name in names]
                missing = [shard.name for shard in shards if not shard.is_file()]
                if missing:
                    raise UserError(f"{folder} lacks weight files {', '.join(missing)}; download it again")
                return [index, *shards]
        if any(file.suffix in WEIGHT_SUFFIXES for file in folder.iterdir()):
            found = sorted(file.name for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)
            raise UserError(
                f"{folder} has no {stem}.safetensors (found {', '.join(found)}); name its model.variant, or convert "
                "with diffusers' save_pretrained(safe_serialization=True): pickled weights are never loaded"
            )
        raise UserError(f"{folder} holds no weights ({stem}.safetensors); download it again")

    def _used_variant(self, name: str) -> str | None:
        first = self.weight_files(name)[0].name
        return self.variant if self.variant and f".{self.variant}." in first else None

    def load_model(self, name: str, dtype: torch.dtype, device: torch.device) -> Any:
        """The network of one part, frozen, in eval mode.

        Raises:
            UserError: the files are damaged or do not match the configuration.
        """
        cls = self._class(name)
        self.config(name)
        variant = self._used_variant(name)
        _hush_loading_bars()
        try:
            # The libraries differ in their default dtype and fill missing weights with noise: neither is left to them.
            model, info = cls.from_pretrained(
                self.path / name,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **self._no_foreign_code(name),
            )
        except Exception as error:
            raise UserError(f"cannot load {self.path / name}: {first_line(error)}") from error
        missing = sorted(info["missing_keys"])
        if missing:
            raise UserError(
                f"{self.path / name}: weights lack {len(missing)} tensors that the model needs ({missing[0]}, ...)"
            )
        return model.requires_grad_(False).eval().to(device)

    def load_tokenizer(self, name: str, vocab_size: int) -> Any:
        """A tokenizer that is sure to be the one on disk.

        transformers makes a nearly empty tokenizer without complaint when files are missing, so both files and
        vocabulary size are checked.

        Args:
            vocab_size: rows of the text encoder's embedding.

        Raises:
            UserError: files are missing or the vocabulary does not fit the text encoder.
        """
        self._check_tokenizer_files(name)
        try:
            options = self._no_foreign_code(name)
            tokenizer = self._class(name).from_pretrained(self.path / name, local_files_only=True, **options)
        except Exception as error:
            raise UserError(f"cannot load {self.path / name}: {first_line(error)}") from error
        if not 0.9 * vocab_size < len(tokenizer) <= vocab_size:
            raise UserError(
                f"{self.path / name} has {len(tokenizer)} tokens but the text encoder knows {vocab_size}; "
                "the tokenizer's files are missing or belong to another model"
            )
        return tokenizer

    def load_scheduler(self) -> Any:
        """A fresh scheduler as the checkpoint has it."""
        cls = self._class("scheduler")
        return cls.from_config(self.config("scheduler"))

    def fingerprints(self, names: tuple[str, ...]) -> dict[str, str]:
        """Part name -> digest of its configuration and weights; equal folders agree wherever they lie."""
        return {name: self._fingerprint(name) for name in names}

    @functools.lru_cache(maxsize=32)  # noqa: B019 - a folder lives as long as its family
    def _fingerprint(self, name: str) -> str:
        config = {key: value for key, value in self.config(name).items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
        for file in [] if name == "scheduler" else self.weight_files(name):
            # Names carry the variant and are left out, so that the same weights under another name agree.
            digest.update(_file_digest(file).encode())
        return digest.hexdigest()[:32]

    def _no_foreign_code(self, name: str) -> dict[str, bool]:
        """transformers' Auto classes ask at the terminal whether to run a folder's code, unless told not to."""
        return {"trust_remote_code": False} if self._part(name)[0] == "transformers" else {}

    def _class(self, name: str) -> Any:
        library, class_name = self._part(name)
        cls = getattr(importlib.import_module(library), class_name, None)
        if cls is None:
            raise UserError(
                f"{self.path / INDEX}: '{name}' is a {class_name}, which this version of {library} does not know"
            )
        return cls

    def _check_tokenizer_files(self, name: str) -> None:
        self._part(name)
        folder = self.path / name
        if not any(all((folder / file).is_file() for file in files) for files in _TOKENIZER_FILES):
            raise UserError(
                f"{folder} has no tokenizer files (tokenizer.json, or vocab.json and merges.txt); download it again"
            )


def _file_digest(file: Path) -> str:
    """SHA-256 of a file. In the Hugging Face cache a large file is a link whose target's name is its SHA-256."""
    target = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _hush_loading_bars() -> None:
    """transformers draws a bar for every model it loads, in the middle of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()

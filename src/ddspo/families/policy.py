"""A trained policy on disk: written so that plain diffusers reads it, read back only onto the base it belongs to."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..files import read_json, write_json
from .folder import INDEX, WEIGHT_SUFFIXES, PipelineFolder
from .lora import load_lora, save_lora
from .pipeline import PipelineFamily

RECORD = "ddspo.json"
FORMAT = 1


def save_lora_policy(
    family: PipelineFamily, denoiser: nn.Module, weights: Mapping[str, Tensor], folder: Path, card: str | None
) -> None:
    """Adapter weights, record and card; see `Roles.save_policy`."""
    with atomic_folder(folder) as partial:
        save_lora(family, denoiser, weights, partial)
        write_record(family, partial, "lora", card)


def save_full_policy(
    family: PipelineFamily, denoiser: nn.Module, weights: Mapping[str, Tensor], folder: Path, card: str | None
) -> None:
    """A complete pipeline folder; see `Roles.save_policy`.

    Only the denoiser is written. Frozen parts are the base's own files (hard links where possible): saved again by
    another version of transformers their keys change, and they would load as random weights elsewhere.
    """
    base = family.folder
    with atomic_folder(folder) as partial:
        index = dict(base.index)
        for name in base.parts():
            if name == family.denoiser_part:
                denoiser.save_pretrained(partial / name, safe_serialization=True)  # type: ignore[operator]
                shutil.copyfile(base.path / name / "config.json", partial / name / "config.json")
            elif not link_part(base, name, partial):
                index[name] = [None, None]
        index = {key: value for key, value in index.items() if key != "_name_or_path"}
        write_json(partial / INDEX, index)
        write_record(family, partial, "full", card)


def load_policy(
    folder: Path | str,
    *,
    base: str | None = None,
    lora: Sequence[Path] | None = None,
    dtype: str = "fp32",
    device: torch.device | str = "cpu",
) -> PipelineFamily:
    """The family whose denoiser is base + policy, to draw pictures with.

    Args:
        folder: what `Roles.save_policy` wrote.
        base: where the base is now; None: where it was when the policy was trained. Not needed by a full policy.
        lora: where the LoRAs merged into the base are now; None: where they were.
        dtype: 'fp32', 'bf16' or 'fp16'.
        device: where networks go.

    Raises:
        UserError: not a policy folder, or the base is missing or not the one that the policy was trained on.
    """
    from .load import load_family

    folder = Path(folder)
    record = read_record(folder)
    if record["kind"] == "full":
        family = load_family(str(folder), dtype=dtype, device=device)
        _check_base(family, record, folder, but={family.denoiser_part, "lora"})
        return family
    family = base_of(record, base=base, lora=lora, dtype=dtype, device=device)
    _check_base(family, record, folder)
    load_lora(family, folder)
    return family


def read_record(folder: Path) -> dict[str, Any]:
    """What `ddspo.json` of a policy says.

    Raises:
        UserError: not a policy folder, or one of a newer version.
    """
    if not (folder / RECORD).is_file():
        raise UserError(
            f"{folder} has no {RECORD}, so it is no policy saved by ddspo; give the 'policy' folder of a run"
        )
    record: dict[str, Any] = read_json(folder / RECORD)
    if record.get("format") != FORMAT or record.get("kind") not in ("lora", "full"):
        raise UserError(
            f"{folder / RECORD} is of a format that this version of ddspo does not know; install a newer one"
        )
    return record


def base_of(
    record: Mapping[str, Any],
    *,
    base: str | None = None,
    lora: Sequence[Path] | None = None,
    dtype: str = "fp32",
    device: torch.device | str = "cpu",
) -> PipelineFamily:
    """The base that a LoRA policy was trained on, with the LoRAs that were merged into it; see `load_policy`."""
    from .load import load_family

    source: dict[str, Any] = {"base": base, "revision": None, "variant": None} if base else record["base"]
    return load_family(
        source["base"],
        dtype=dtype,
        device=device,
        revision=source["revision"],
        variant=source["variant"],
        lora=[Path(path) for path in record["base"].get("lora", ())] if lora is None else lora,
    )


def _check_base(family: PipelineFamily, record: Mapping[str, Any], folder: Path, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    wanted = {name: digest for name, digest in record["base_parts"].items() if name not in but}
    found = {name: digest for name, digest in family.part_fingerprints().items() if name not in but}
    changed = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if changed:
        raise UserError(
            f"{folder} was trained on another base than {family.base}: {', '.join(changed)} differ "
            f"(fingerprint {record['base_fingerprint']} then, {family.fingerprint()} now); give the original base"
        )


def write_record(family: PipelineFamily, folder: Path, kind: str, card: str | None) -> None:
    """Write `ddspo.json`, which says what the policy is and which base it belongs to, and the card as README.md."""
    record = {
        "format": FORMAT,
        "kind": kind,
        "family": family.name,
        "base": family.source,
        "base_fingerprint": family.fingerprint(),
        "base_parts": family.part_fingerprints(),
    }
    write_json(folder / RECORD, record)
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")


def link_part(base: PipelineFolder, name: str, target: Path) -> bool:
    """Give `target` the base's files of one part, weights under their plain name; False: the part is not complete."""
    source = base.path / name
    if not source.is_dir():
        return False
    files = {file.name: file for file in source.iterdir() if file.is_file() and file.suffix not in WEIGHT_SUFFIXES}
    files = {file_name: file for file_name, file in files.items() if ".index." not in file_name}
    if "config.json" in files and name != "feature_extractor":
        try:
            first, *shards = _weights_of(base, name)
        except UserError:
            return False
        files[first.name.replace(f".{base.variant}.", ".") if base.variant else first.name] = first
        files.update({shard.name: shard for shard in shards})
    (target / name).mkdir()
    for file_name, file in files.items():
        _link_or_copy(file.resolve(), target / name / file_name)
    return True


def _weights_of(base: PipelineFolder, name: str) -> list[Path]:
    """A safety checker's class belongs to its pipeline, so it is never loaded here; its file is handed on."""
    if name != "safety_checker":
        return base.weight_files(name)
    names = [f"model.{base.variant}.safetensors"] * bool(base.variant) + ["model.safetensors"]
    found = [base.path / name / file for file in names if (base.path / name / file).is_file()]
    if not found:
        raise UserError(f"{base.path / name} holds no weights")
    return found[:1]


def _link_or_copy(source: Path, target: Path) -> None:
    if source.suffix != ".json":
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty sibling folder that takes the place of `folder` when the block ends well.

    What killed attempts left beside it is removed.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder; choose another one")
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise UserError(f"{folder} already holds other files and is not a policy; choose an empty folder")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
            if re.fullmatch(r"\d+\.(partial|old)", leftover.name.removeprefix(f".{folder.name}.")):
                shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)  # the new one could not be put in its place
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

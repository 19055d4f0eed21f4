"""Checkpoints: a folder per step that is whole or absent, with tensors in safetensors and the rest in JSON.

    checkpoints/step-000050/ trained.safetensors  optimizer.safetensors  [average.safetensors]
                             [reference.safetensors]  state.json

The frozen base is never stored. A checkpoint is written under a temporary name, synced and renamed, so a crash leaves
the previous one; `state.json` records the size of every file, and a checkpoint with a file missing or cut short is
passed over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import UserError
from ..files import write_json
from ..progress import announce

FORMAT = 1
STATE_FILE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next optimizer step depends on.

    Attributes:
        step: optimizer steps done.
        tensors: groups of named tensors: 'trained', 'optimizer', 'average' if parameters are averaged, 'reference' if
            it moves.
        extra: JSON values: costs so far, the state of the loss scaler.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    extra: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `folder`/step-NNNNNN, then keep it and the `keep` - 1 before it. Call it on one process only.

    Later ones go as well: a run that gets here had passed them over, because they are not whole.

    Raises:
        UserError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final = folder / f"step-{checkpoint.step:06d}"
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    try:
        partial.mkdir(parents=True)
        for group, tensors in checkpoint.tensors.items():
            save_file(
                {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
                partial / f"{group}.safetensors",
            )
        sizes = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
        write_json(
            partial / STATE_FILE, {"format": FORMAT, "step": checkpoint.step, "files": sizes, "extra": checkpoint.extra}
        )
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write checkpoint {final}: {error}; free some space and run the same command again to go on"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    found = numbered(folder)
    place = found.index(final)
    for other in found[:place] + found[place + keep :]:
        shutil.rmtree(other, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path, device: str = "cpu") -> Checkpoint | None:
    """The newest whole checkpoint in `folder`, or None. Torn ones are passed over with one line for all processes."""
    for path in numbered(folder):
        try:
            return _load(path, device)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            announce(f"warning: {path} is not whole ({error}); using the one before it")
    return None


def remove_leftovers(folder: Path) -> None:
    """Delete the files and folders that a killed process was writing into `folder`."""
    for path in folder.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def numbered(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def sync(path: Path) -> None:
    """Have the operating system put a file or a folder's entries on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(path: Path, device: str) -> Checkpoint:
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    if state["format"] != FORMAT:
        raise ValueError(f"format {state['format']}, this version reads {FORMAT}")
    for name, size in state["files"].items():
        found = (path / name).stat().st_size
        if found != size:
            raise ValueError(f"{name} has {found} of {size} bytes")
    tensors = {Path(name).stem: load_file(path / name, device=device) for name in state["files"]}
    return Checkpoint(state["step"], tensors, state["extra"])

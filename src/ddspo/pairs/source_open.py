"""From what the user named to a source: a table, a folder, parquet files, a hub data set."""

from __future__ import annotations

import functools
import glob
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from .source_latents import METADATA, LatentSource
from .source_parquet import ParquetSource
from .source_table import FolderSource, TableSource
from .sources import Source

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_KINDS = (
    "a .parquet file, folder or pattern, a .csv or .jsonl table, a folder with chosen/ and rejected/ or with "
    f"{METADATA} and latents/, or a Hugging Face data set (owner/name)"
)


def open_source(
    name: str, rows_per_part: int, *, channels: int, files: str = "**/*.parquet", allow_outside: bool = False
) -> Source:
    """The preference set that `name` means.

    Args:
        name: see the message for an unknown one.
        rows_per_part: how many rows are one unit of work.
        channels: of the model's latents, for a source that holds latents.
        files: which files of a folder or hub data set, as a pattern.
        allow_outside: let a table name files outside its folder.

    Raises:
        UserError: nothing of that name, or its content is not a preference set.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() in (".csv", ".jsonl"):
            return TableSource(path, rows_per_part, allow_outside=allow_outside)
        if path.suffix.lower() == ".parquet":
            return _parquet({path.name: path}, rows_per_part)
        raise UserError(f"{path} is no preference set; give {_KINDS}")
    if path.is_dir():
        return _folder(path, rows_per_part, channels, files, allow_outside)
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else []
    if matches:
        return _parquet({match: Path(match) for match in matches}, rows_per_part)
    if name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise UserError(f"{name} does not exist; give {_KINDS}")
    return _hub(name, files, rows_per_part)


def _folder(path: Path, rows_per_part: int, channels: int, files: str, allow_outside: bool) -> Source:
    if (path / METADATA).is_file() and (path / "latents").is_dir():
        return LatentSource(path, rows_per_part, channels=channels)
    if (path / "chosen").is_dir() and (path / "rejected").is_dir():
        return FolderSource(path, rows_per_part, allow_outside=allow_outside)
    found = sorted(file for file in path.glob(files) if file.is_file())
    if not found:
        raise UserError(f"{path} holds no preference set; give {_KINDS}")
    return _parquet({str(file.relative_to(path)): file for file in found}, rows_per_part)


def _parquet(files: dict[str, Path], rows_per_part: int, identity: dict[str, Any] | None = None) -> ParquetSource:
    _require_pyarrow()
    return ParquetSource({name: functools.partial(str, file) for name, file in files.items()}, rows_per_part, identity)


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError("reading parquet needs pyarrow; install it with: pip install pyarrow") from error


def _hub(name: str, pattern: str, rows_per_part: int) -> ParquetSource:
    """Files of a hub data set at one commit, read over the network as they are needed; offline: its local copy."""
    _require_pyarrow()
    from huggingface_hub import HfApi, HfFileSystem, snapshot_download

    try:
        commit = str(HfApi().dataset_info(name).sha)
        system = HfFileSystem()
        root = f"datasets/{name}@{commit}/"
        paths = sorted(str(path) for path in system.glob(root + pattern))
    except Exception as error:  # the client's errors have no common base: not found, gated, offline, no name server
        try:
            folder = Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
        except Exception:
            raise UserError(
                f"the data set {name} is neither here nor within reach on the Hugging Face hub ({first_line(error)}); "
                "check the name, log in with 'hf auth login' if it is gated, or download it where there is a network"
            ) from error
        found = {str(file.relative_to(folder)): file for file in sorted(folder.glob(pattern))}
        if not found:
            raise UserError(
                f"the local copy of {name} has no files {pattern}; download them, or give --files"
            ) from error
        return _parquet(found, rows_per_part, {"dataset": name, "commit": folder.name})
    if not paths:
        raise UserError(f"the data set {name} has no files {pattern}; give the right pattern with --files")
    openers: dict[str, Callable[[], Any]] = {
        path.removeprefix(root): functools.partial(system.open, path, "rb") for path in paths
    }
    return ParquetSource(openers, rows_per_part, {"dataset": name, "commit": commit})

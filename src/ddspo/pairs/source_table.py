"""Preference pairs of picture files: a .csv or .jsonl table, or a folder chosen/ rejected/ with captions.

    pairs.csv                    columns chosen, rejected, caption (or prompt), and if you have them degraded_prompt
    chosen/NAME.png  rejected/NAME.png  NAME.txt         a folder; the caption may also lie in captions/

Paths are relative to the table. What leads out of its folder is refused: a table from elsewhere must not decide which
files of this machine are read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import content_id, file_fingerprint, read_jsonl
from .pictures import MISSING
from .sources import NO_CAPTION, Example, Part, Skip, caption, cut

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def inside(root: Path, name: str, where: str, *, allow_outside: bool = False) -> Path:
    """The file that a table names, links followed.

    Raises:
        UserError: it lies outside `root`.
    """
    path = (root / name).resolve()
    if not allow_outside and not path.is_relative_to(root.resolve()):
        raise UserError(
            f"{where}: {name!r} lies outside {root}; move the files there, or allow it with --allow-outside"
        )
    return path


class TableSource:
    """A .csv or .jsonl table of picture files.

    Raises:
        UserError: a column is missing, a path leads out of the folder, or there are no rows; names file and line.
    """

    def __init__(self, path: Path, rows_per_part: int, *, allow_outside: bool = False) -> None:
        self.path, self._allow_outside = path, allow_outside
        self._rows = list(_csv_rows(path) if path.suffix.lower() == ".csv" else _jsonl_rows(path))
        if not self._rows:
            raise UserError(f"{path} holds no rows; give a table with columns chosen, rejected and caption")
        for where, row in self._rows:
            for side in ("chosen", "rejected"):
                if isinstance(row[side], str):
                    inside(path.parent, row[side], where, allow_outside=allow_outside)
        self.parts = cut(len(self._rows), rows_per_part)
        self.description: dict[str, Any] = {"kind": "table", "digest": file_fingerprint([path])}

    def read(self, part: Part) -> Iterator[Example | Skip]:
        """The rows of one part."""
        for where, row in self._rows[part.skip : part.skip + part.take]:
            text = caption(row.get("caption", row.get("prompt")))
            if text is None:
                yield Skip(NO_CAPTION, where)
            elif not (isinstance(row["chosen"], str) and isinstance(row["rejected"], str)):
                yield Skip(MISSING, where)
            elif not (row["chosen"] and row["rejected"]):
                yield Skip(MISSING, where)
            else:
                win, lose = (self._file(row[side], where) for side in ("chosen", "rejected"))
                yield Example(where, text, win, lose, caption(row.get("degraded_prompt")))

    def _file(self, name: str, where: str) -> Path:
        return inside(self.path.parent, name, where, allow_outside=self._allow_outside)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _check(path, "line 1", reader.fieldnames or [])
            for row in reader:
                yield f"{path.name}, line {reader.line_num}", row
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid CSV in UTF-8 ({error}); mend it") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(read_jsonl(path), 1):
        _check(path, f"row {number}", list(row))
        yield f"{path.name}, row {number}", row


def _check(path: Path, where: str, found: Any) -> None:
    missing = [name for name in ("chosen", "rejected") if name not in found]
    if not {"caption", "prompt"} & set(found):
        missing.append("caption")
    if missing:
        raise UserError(f"{path}, {where}: no column {', '.join(missing)} (found: {', '.join(found) or 'none'})")


class FolderSource:
    """A folder chosen/NAME.png, rejected/NAME.png and NAME.txt.

    Raises:
        UserError: chosen/ holds no pictures.
    """

    def __init__(self, folder: Path, rows_per_part: int, *, allow_outside: bool = False) -> None:
        self.folder, self._allow_outside = folder, allow_outside
        self._chosen, self._rejected = _pictures(folder / "chosen"), _pictures(folder / "rejected")
        self._names = sorted(self._chosen)
        if not self._names:
            raise UserError(f"{folder / 'chosen'} holds no pictures ({', '.join(_SUFFIXES)})")
        self.parts = cut(len(self._names), rows_per_part)
        files = [*self._chosen.values(), *self._rejected.values()]
        listed = [f"{file.parent.name}/{file.name} {file.stat().st_size}" for file in files]
        # Read once: what is imported is what the digest is of.
        self._captions = {name: self._read_caption(name) for name in self._names}
        texts = [f"{name}.txt {len(text)} {text}" for name, text in self._captions.items() if text is not None]
        self.description: dict[str, Any] = {
            "kind": "folder",
            "digest": content_id(*sorted(listed)),
            "captions": content_id(*texts),
        }

    def read(self, part: Part) -> Iterator[Example | Skip]:
        """The rows of one part."""
        for name in self._names[part.skip : part.skip + part.take]:
            rejected = self._rejected.get(name)
            text = caption(self._captions[name])
            if rejected is None:
                yield Skip(MISSING, f"rejected/{name}")
            elif text is None:
                yield Skip(NO_CAPTION, f"{name}.txt")
            else:
                win, lose = (self._file(file) for file in (self._chosen[name], rejected))
                yield Example(f"chosen/{name}", text, win, lose)

    def _file(self, path: Path) -> Path:
        return inside(self.folder, str(path.relative_to(self.folder)), str(path), allow_outside=self._allow_outside)

    def _read_caption(self, name: str) -> str | None:
        for place in (self.folder, self.folder / "captions"):
            file = place / f"{name}.txt"
            if file.is_file():
                return file.read_text(encoding="utf-8", errors="replace")
        return None


def _pictures(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES}

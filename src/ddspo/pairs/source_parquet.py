"""Preference sets in parquet, local or on the Hugging Face hub, streamed row group by row group.

Columns as in Pick-a-Pic: jpg_0, jpg_1, label_0 (1: the first was chosen, 0: the second, 0.5: tie), caption, and where
they are there are_different and has_label; or chosen, rejected and caption. `prompt` does for `caption`. Pictures are
bytes, or structs {bytes, path} as the datasets library writes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..files import content_id
from .pictures import MISSING
from .sources import NO_CAPTION, NO_LABEL, TIE, Example, Part, Skip, caption, cut

_ROWS_AT_ONCE = 16
_PICKAPIC, _CHOSEN = ("jpg_0", "jpg_1", "label_0"), ("chosen", "rejected")
_OPTIONAL = ("are_different", "has_label")


class ParquetSource:
    """Some parquet files of the same columns.

    Args:
        files: name -> what opens it for pyarrow (a path, or a file of another file system).
        rows_per_part: parts are whole row groups of together about this many rows; larger groups are cut.
        identity: what else identifies the content (a hub's commit).

    Raises:
        UserError: no files, no rows, a file that is not parquet, or columns that are missing.
    """

    def __init__(
        self, files: dict[str, Callable[[], Any]], rows_per_part: int, identity: dict[str, Any] | None = None
    ) -> None:
        self.names, self._open = list(files), list(files.values())
        self.parts: list[Part] = []
        described = []
        for number, name in enumerate(self.names):
            with self._file(number) as file:
                groups = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
                self._columns(number, file.schema_arrow.names)
                described += [name, str(file.metadata.serialized_size), *map(str, groups)]
            self.parts += _parts(number, groups, rows_per_part)
        if not self.parts:
            raise UserError(f"{', '.join(self.names[:3]) or 'the source'} holds no rows; give a file with some")
        self.description = {
            "kind": "parquet",
            "files": len(files),
            "digest": content_id(*described),
            **(identity or {}),
        }

    @contextlib.contextmanager
    def _file(self, number: int) -> Iterator[Any]:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        with contextlib.ExitStack() as stack:
            try:
                place = self._open[number]()
                if not isinstance(place, str):
                    stack.enter_context(place)  # pyarrow closes only what it opened itself
                file = stack.enter_context(parquet.ParquetFile(place, pre_buffer=False))
            except (arrow.ArrowException, OSError) as error:
                raise UserError(
                    f"{self.names[number]} is not a readable parquet file ({first_line(error)}); get it anew, or try "
                    "again"
                ) from error
            yield file

    def _columns(self, number: int, found: Sequence[str]) -> list[str]:
        text = next((name for name in ("caption", "prompt") if name in found), None)
        for wanted in (_PICKAPIC, _CHOSEN):
            if text and set(wanted) <= set(found):
                return [*wanted, text, *(name for name in _OPTIONAL if name in found)]
        raise UserError(
            f"{self.names[number]} lacks columns: a preference set has {', '.join(_PICKAPIC)} and caption, or "
            f"{', '.join(_CHOSEN)} and caption (found: {', '.join(found) or 'none'})"
        )

    def read(self, part: Part) -> Iterator[Example | Skip]:
        """The rows of one part."""
        with self._file(part.file) as file:
            columns = self._columns(part.file, file.schema_arrow.names)
            before = sum(file.metadata.row_group(group).num_rows for group in range(part.groups[0]))
            for number, row in enumerate(self._rows(part, file, columns)):
                if number >= part.skip + part.take:
                    return
                if number >= part.skip:
                    yield _example(row, f"{Path(self.names[part.file]).name}, row {before + number + 1}")

    def _rows(self, part: Part, file: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
        batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=list(part.groups), columns=columns, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:  # arrow's, the file system's, or whatever the hub's client raises on the way
                mend = "run the same command again; if it fails again, download the file anew"
                raise UserError(f"cannot read {self.names[part.file]} ({first_line(error)}); {mend}") from error
            if batch is None:
                return
            yield from batch.to_pylist()


def _parts(file: int, groups: Sequence[int], rows_per_part: int) -> list[Part]:
    """Row groups joined to parts of about `rows_per_part` rows; one that is larger by half is cut instead."""
    parts: list[Part] = []
    waiting: list[int] = []
    for group, rows in enumerate(groups):
        if rows > 1.5 * rows_per_part:
            parts += _joined(file, waiting, groups)
            parts += [Part(file, (group,), part.skip, part.take) for part in cut(rows, rows_per_part)]
            waiting = []
        elif rows:
            waiting.append(group)
            if sum(groups[number] for number in waiting) >= rows_per_part:
                parts += _joined(file, waiting, groups)
                waiting = []
    return parts + _joined(file, waiting, groups)


def _joined(file: int, numbers: Sequence[int], groups: Sequence[int]) -> list[Part]:
    return [Part(file, tuple(numbers), 0, sum(groups[number] for number in numbers))] if numbers else []


def _example(row: dict[str, Any], where: str) -> Example | Skip:
    if row.get("has_label") is False:
        return Skip(NO_LABEL, where)
    if row.get("are_different") is False:
        return Skip(TIE, where)
    if "label_0" in row:
        label = row["label_0"]
        if label == 0.5:
            return Skip(TIE, where)
        if label not in (0, 1):
            return Skip(NO_LABEL, where)
        win, lose = ("jpg_0", "jpg_1") if label == 1 else ("jpg_1", "jpg_0")
    else:
        win, lose = _CHOSEN
    text = caption(row.get("caption", row.get("prompt")))
    if text is None:
        return Skip(NO_CAPTION, where)
    chosen, rejected = _bytes(row[win]), _bytes(row[lose])
    if chosen is None or rejected is None:
        return Skip(MISSING, where)
    return Example(where, text, chosen, rejected)


def _bytes(cell: Any) -> bytes | None:
    value = cell.get("bytes") if isinstance(cell, dict) else cell
    return value if isinstance(value, bytes) and value else None

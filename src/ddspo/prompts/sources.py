"""Read prompts from files and from the embedded sets: unique, cleaned, and with every omission counted.

Formats: .txt (one prompt a line), .jsonl, .csv (with a header), .parquet (DiffusionDB's `metadata.parquet` works; needs
pyarrow), tinyscenes' own sets. Files are streamed: kept are a digest per unique prompt and what is returned.
"""

from __future__ import annotations

import csv
import heapq
import json
import unicodedata
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import content_id
from ..rng import seed_for
from .records import PromptList as PromptList
from .records import PromptRecord as PromptRecord
from .records import Skipped as Skipped

_MAX_CSV_FIELD = 1 << 24  # a longer cell is an error of the file, not a prompt


@dataclass
class _Row:
    """One raw row: the value of the prompt field, the rest, and where it stands."""

    value: Any
    meta: dict[str, Any]
    where: str


def _text_lines(path: Path, repaired: Skipped) -> Iterator[str]:
    """Lines of a text file: UTF-8, or UTF-16 with a byte order mark; a line that is neither is read as Windows-1252."""
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"\xff\xfe", b"\xfe\xff"):
        with path.open(encoding="utf-16", errors="replace", newline="") as text:
            yield from text
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                repaired.add("not UTF-8, read as Windows-1252", f"line {number}")
                yield line.decode("cp1252", errors="replace")


def _txt_rows(path: Path, column: str, skipped: Skipped, repaired: Skipped) -> Iterator[_Row]:
    for number, line in enumerate(_text_lines(path, repaired), 1):
        yield _Row(line, {}, f"line {number}")


def _jsonl_rows(path: Path, column: str, skipped: Skipped, repaired: Skipped) -> Iterator[_Row]:
    for number, line in enumerate(_text_lines(path, repaired), 1):
        where = f"line {number}"
        if not line.strip():
            skipped.add("empty", where)
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            skipped.add("not valid JSON", where)
            continue
        if not isinstance(row, dict):
            skipped.add("not a JSON object", where)
            continue
        if column not in row:
            raise _missing_column(path, column, list(row), where)
        yield _Row(row.pop(column), row, where)


def _csv_rows(path: Path, column: str, skipped: Skipped, repaired: Skipped) -> Iterator[_Row]:
    csv.field_size_limit(_MAX_CSV_FIELD)
    reader = csv.DictReader(_text_lines(path, repaired))
    if column not in (reader.fieldnames or []):
        raise _missing_column(path, column, list(reader.fieldnames or []), "line 1")
    try:
        for row in reader:
            meta = {key: value for key, value in row.items() if key is not None and key != column}
            yield _Row(row[column], meta, f"line {reader.line_num}")
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error}); mend that line") from error


def _parquet_rows(path: Path, column: str, skipped: Skipped, repaired: Skipped) -> Iterator[_Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs pyarrow; install it with: pip install pyarrow") from error
    try:
        file = parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({error}); download it again") from error
    with file:
        if column not in file.schema_arrow.names:
            raise _missing_column(path, column, file.schema_arrow.names, "schema")
        number = 0
        for batch in file.iter_batches(batch_size=8192, columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield _Row(value, {}, f"row {number}")


def _missing_column(path: Path, column: str, columns: list[str], where: str) -> UserError:
    found = ", ".join(map(str, columns)) or "none"
    return UserError(f"{path}, {where}: no field '{column}' (found: {found}); name the right one with prompts.column")


_READERS = {".txt": _txt_rows, ".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}


def _tinyscenes_rows(source: str) -> Iterator[_Row]:
    from tinyscenes.prompts import heldout_prompts, train_prompts, validation_prompts

    sets = {
        "tinyscenes:train": train_prompts,
        "tinyscenes:validation": validation_prompts,
        "tinyscenes:heldout": heldout_prompts,
    }
    if source not in sets:
        raise UserError(f"prompts.source: '{source}' is unknown; the embedded sets are {', '.join(sets)}")
    for number, row in enumerate(sets[source](), 1):
        yield _Row(row.pop("prompt"), dict(row), f"prompt {number}")


def _rows(source: str, column: str, skipped: Skipped, repaired: Skipped) -> Iterator[_Row]:
    if source.startswith("tinyscenes:"):
        yield from _tinyscenes_rows(source)
        return
    path = Path(source).expanduser()
    if not path.exists():
        kinds = ", ".join(_READERS)
        raise UserError(f"prompts.source: {path} does not exist; give a {kinds} file or 'tinyscenes:train'")
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        raise UserError(f"prompts.source: {path} is not a {', '.join(_READERS)} file")
    try:
        yield from reader(path, column, skipped, repaired)
    except OSError as error:
        raise UserError(f"prompts.source: cannot read {path}: {error.strerror or error}") from error


def clean_prompt(text: str) -> str:
    """`text` without control characters and lone surrogates (each becomes a space), trimmed.

    Joiners and direction marks stay: emoji, Persian and Hindi need them.
    """
    text = text.strip()
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    return text.strip()


def iterate_prompts(
    source: str, column: str, skipped: Skipped, repaired: Skipped, part: Container[str] | None = None
) -> Iterator[PromptRecord]:
    """Stream the unique prompts of a source, counting what is left out in `skipped` and what is mended in `repaired`.

    Of them only those whose id is in `part`; None: all.

    Raises:
        UserError: the file is missing, of unknown kind or unreadable, or lacks the field; names file, line and field.
    """
    seen: set[int] = set()
    for row in _rows(source, column, skipped, repaired):
        if row.value is None:
            skipped.add("empty", row.where)
            continue
        if not isinstance(row.value, str):
            skipped.add("not text", row.where)
            continue
        prompt = clean_prompt(row.value)
        if not prompt:
            skipped.add("empty", row.where)
            continue
        if prompt != row.value.strip():
            repaired.add("control characters replaced by spaces", row.where)
        identity = content_id(prompt)
        if int(identity, 16) in seen:
            skipped.add("duplicate", row.where)
            continue
        seen.add(int(identity, 16))
        if part is None or identity in part:
            yield PromptRecord(identity, prompt, row.meta)


def _sampled(records: Iterator[PromptRecord], limit: int, seed: int) -> list[PromptRecord]:
    """`limit` records drawn without replacement, in source order: those whose ids have the smallest seeded hashes."""
    keyed = ((seed_for(seed, "prompts", record.id), number, record) for number, record in enumerate(records))
    chosen = heapq.nsmallest(limit, keyed, key=lambda item: item[:2])
    return [record for _, _, record in sorted(chosen, key=lambda item: item[1])]


def read_prompts(
    source: str,
    column: str = "prompt",
    limit: int | None = None,
    seed: int = 0,
    part: Container[str] | None = None,
) -> PromptList:
    """The unique prompts of a source.

    Args:
        source: a .txt, .jsonl, .csv or .parquet file, or 'tinyscenes:train', ':validation' or ':heldout'.
        column: the field that holds the prompt, in formats that have fields; others (.jsonl, .csv) become `meta`.
        limit: draw this many without replacement. The draw depends on `seed` and on the prompts, not on their order.
        seed: the run seed.
        part: ids that may be used, such as a `HeldOut` set or what it leaves; None: all.

    Returns:
        Records in source order, with `.skipped` and `.repaired` telling what was left out or mended, and why.

    Raises:
        UserError: as `iterate_prompts`, and when no prompt is left.
    """
    skipped, repaired = Skipped(), Skipped()
    stream = iterate_prompts(source, column, skipped, repaired, part)
    records = list(stream) if limit is None else _sampled(stream, limit, seed)
    if not records:
        raise no_prompt(source, skipped)
    return PromptList(records, skipped, repaired)


def no_prompt(source: str, skipped: Skipped) -> UserError:
    """What to say of a source in which no prompt is left."""
    found = str(skipped) or "it is empty"
    return UserError(f"prompts.source: {source} holds no prompt ({found}); give a list with at least one")

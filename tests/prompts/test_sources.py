from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.files import content_id
from ddspo.prompts.sources import PromptRecord, clean_prompt, read_prompts


def test_txt_counts_every_omission_and_mends_what_it_can(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a cat\n\n   \na cat\r\na\x00dog\n" + b"caf\xe9 at night\n" + "猫 🐈‍⬛ قطة\n".encode())
    prompts = read_prompts(str(path))
    assert [p.prompt for p in prompts] == ["a cat", "a dog", "café at night", "猫 🐈‍⬛ قطة"]
    assert prompts[0] == PromptRecord(content_id("a cat"), "a cat", {})
    assert prompts.skipped.counts == {"empty": 2, "duplicate": 1}
    assert prompts.skipped.first == {"empty": "line 2", "duplicate": "line 4"}
    assert prompts.repaired.counts == {
        "control characters replaced by spaces": 1,
        "not UTF-8, read as Windows-1252": 1,
    }


def test_byte_order_marks(tmp_path: Path) -> None:
    for name, encoding in (("a.txt", "utf-8-sig"), ("b.txt", "utf-16")):
        (tmp_path / name).write_text("ein Bär\nzwei Bären\n", encoding=encoding)
        assert [p.prompt for p in read_prompts(str(tmp_path / name))] == ["ein Bär", "zwei Bären"]


def test_jsonl_keeps_the_rest_as_meta_and_counts_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [
        json.dumps({"tag": "colors", "prompt": "a red car"}),
        "{oops",
        "[1]",
        json.dumps({"prompt": None}),
        json.dumps({"prompt": 3}),
        '{"prompt": "a \\ud800 lone surrogate"}',
        "[" * 100_000,
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    prompts = read_prompts(str(path))
    assert [(p.prompt, p.meta) for p in prompts] == [
        ("a red car", {"tag": "colors"}),
        ("a   lone surrogate", {}),
    ]
    assert prompts.skipped.counts == {"not valid JSON": 2, "not a JSON object": 1, "empty": 1, "not text": 1}


def test_csv_with_quoted_newline_and_long_cell(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text('name,caption\nx,"a tall\ntree"\ny,' + "long " * 40_000 + "\nz\n", encoding="utf-8")
    prompts = read_prompts(str(path), column="caption")
    assert [p.prompt[:6] for p in prompts] == ["a tall", "long l"]
    assert prompts[0].prompt == "a tall tree"
    assert prompts[0].meta == {"name": "x"}
    assert prompts.skipped.counts == {"empty": 1}


def test_parquet_like_diffusiondb(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "metadata.parquet"
    values = [f"prompt {i % 15_000}" for i in range(20_000)] + [None, ""]
    parquet.write_table(arrow.table({"image_name": ["x"] * 20_002, "prompt": values}), path)
    prompts = read_prompts(str(path))
    assert len(prompts) == 15_000
    assert prompts.skipped.counts == {"duplicate": 5_000, "empty": 2}
    with pytest.raises(UserError, match=r"metadata.parquet, schema: no field 'text' \(found: image_name, prompt\)"):
        read_prompts(str(path), column="text")
    path.write_bytes(b"not parquet")
    with pytest.raises(UserError, match="not a readable parquet"):
        read_prompts(str(path))


def test_parquet_without_pyarrow_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs pyarrow"):
        read_prompts(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"\n \n", "holds no prompt .2 empty"),
        ("x.txt", b"", "holds no prompt .it is empty"),
        ("x.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', "x.jsonl, line 2: no field 'prompt' .found: text"),
        ("x.csv", b"a,b\n1,2\n", "x.csv, line 1: no field 'prompt' .found: a, b"),
        ("x.csv", b"", "x.csv, line 1: no field 'prompt' .found: none"),
        ("x.docx", b"a", "is not a .txt, .jsonl"),
    ],
)
def test_user_errors_name_file_line_and_field(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(tmp_path / name))


def test_missing_file_folder_and_unknown_set(tmp_path: Path) -> None:
    for source, message in [
        (str(tmp_path / "no.txt"), "does not exist"),
        (str(tmp_path), "is not a"),
        ("tinyscenes:x", "embedded sets are"),
    ]:
        with pytest.raises(UserError, match=message):
            read_prompts(source)


def test_limit_draws_by_seed_and_not_by_order(tmp_path: Path) -> None:
    names = [f"prompt number {i}" for i in range(200)]
    (tmp_path / "a.txt").write_text("\n".join(names), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(reversed(names)), encoding="utf-8")
    first = [p.prompt for p in read_prompts(str(tmp_path / "a.txt"), limit=20, seed=1)]
    assert len(first) == 20
    assert first == sorted(first, key=names.index)
    assert set(first) == {p.prompt for p in read_prompts(str(tmp_path / "b.txt"), limit=20, seed=1)}
    assert first != [p.prompt for p in read_prompts(str(tmp_path / "a.txt"), limit=20, seed=2)]
    assert max(names.index(p) for p in first) > 100


def test_embedded_sets_carry_categories() -> None:
    train, heldout = read_prompts("tinyscenes:train"), read_prompts("tinyscenes:heldout")
    assert not {p.prompt for p in train} & {p.prompt for p in heldout}
    assert all(set(p.meta) == {"category"} for p in [*train, *heldout])


def test_clean_prompt_keeps_joiners_and_direction_marks() -> None:
    assert clean_prompt(" a\tb\x1bc \n") == "a b c"
    assert clean_prompt("می‌خواهم ‏👩‍🚀") == "می‌خواهم ‏👩‍🚀"

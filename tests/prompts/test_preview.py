from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.preview import (
    PreviewRow,
    kind_statistics,
    marked,
    preview_html,
    preview_rows,
    preview_table,
    read_rows,
)
from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation

ROWS = [
    PreviewRow("a red car", (("a blue car", "change", "red -> blue"), ("a car", "drop", "- red"))),
    PreviewRow("<script>alert(1)</script> & [bold]x[/bold]", (("[red]<b>", "drop", "<i>"),)),
    PreviewRow("cat", (), "one word"),
]


def test_marks_give_both_texts_back() -> None:
    assert marked("a red car", "a blue car") == [("same", "a"), ("gone", " red"), ("new", " blue"), ("same", " car")]
    for prompt, variant in [("a b c d", "d c b a"), ("", "x"), ("x y", ""), ("猫 和 狗", "狗")]:
        parts = marked(prompt, variant)
        assert "".join(text for mark, text in parts if mark != "gone").split() == variant.split()
        assert "".join(text for mark, text in parts if mark != "new").split() == prompt.split()


def test_statistics_by_hand() -> None:
    (drop, change) = kind_statistics(ROWS)
    assert drop["kind"] == "drop" and drop["variants"] == 2 and drop["share"] == pytest.approx(2 / 3)
    assert drop["prompts"] == 2 and change["prompts"] == 1
    assert change["mean_text_distance"] == pytest.approx(1 / 3)
    assert kind_statistics([]) == []


def printed(rows: list[PreviewRow], **options: object) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None, **options)
    console.print(preview_table(rows))
    return console.file.getvalue()


def test_table_shows_text_as_text() -> None:
    text = printed(ROWS)
    assert "[bold]x[/bold]" in text and "a red blue car" in text
    assert "one word" in text and "66.7%" in text
    nasty = printed([PreviewRow("a\x1b[2J b \u202e c", (("x" * 9999, "k", "c"),))])
    assert "\x1b" not in nasty and "\u202e" not in nasty and "…" in nasty


def test_table_marks_what_changed() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(preview_table(ROWS[:1]))
    assert re.search(r"\x1b\[9;31m *red", console.file.getvalue())
    assert re.search(r"\x1b\[1;32m *blue", console.file.getvalue())


def test_page_is_escaped_and_self_contained(tmp_path: Path) -> None:
    page = preview_html(ROWS, tmp_path / "preview.html", "5 < 6").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "5 &lt; 6" in page
    assert "<del> red</del><ins> blue</ins>" in page
    assert "(skipped: one word)" in page
    assert not re.search(r"(src|href)=|url\(", page)


def test_rows_are_those_of_the_stage(tmp_path: Path) -> None:
    given = [PromptRecord(f"{i:016x}", f"a red car and {i} dogs") for i in range(2, 9)]
    settings = Degradation(method="rules", variants=3)
    degrade_prompts(settings, given, tmp_path / "d.jsonl", seed=4)
    assert preview_rows(settings, given[:3], seed=4) == read_rows(tmp_path / "d.jsonl", limit=3)
    assert len(read_rows(tmp_path / "d.jsonl")) == 7


def test_changes_are_marked_without_colors_too() -> None:
    def printed(colored: bool, **console: object) -> str:
        file = io.StringIO()
        Console(file=file, width=120, **console).print(preview_table(ROWS, colored=colored))  # type: ignore[arg-type]
        return file.getvalue()

    plain = printed(False)
    assert "a [-red-] {+blue+} car" in plain and "a [-red-] car" in plain
    styled = printed(True, force_terminal=True, color_system="standard")
    assert "\x1b[9;31mred\x1b[0m \x1b[1;32mblue\x1b[0m" in styled.replace("\x1b[0m\x1b[1;32m ", "\x1b[0m \x1b[1;32m")


def test_the_verb_shows_what_the_stage_will_make(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from ddspo.cli import app

    (tmp_path / "p.txt").write_text("a red cat on a blue mat\ncat\na dog and a bird\n", encoding="utf-8")
    run = tmp_path / "run"
    options = [
        "degrade", "tinyscenes", "--output", str(run), "--set", f"prompts.source={tmp_path / 'p.txt'}",
        "--set", "degradation.method=rules", "--set", "degradation.kinds=[drop_attribute,drop_object,swap_objects]",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*options, "--preview", "--rows", "10"])
    assert result.exit_code == 0, result.output
    assert not run.exists()
    page = (tmp_path / "run.degraded.html").read_text(encoding="utf-8")
    assert "3 prompts" in page and "no rule applies" in page
    made = CliRunner().invoke(app, options)
    assert made.exit_code == 0 and "skipped: 1 no rule applies" in made.output
    for row in read_rows(run / "degraded.jsonl"):
        for text, _, _ in row.variants:
            words = "".join(part for mark, part in marked(row.prompt, text) if mark != "gone")
            assert words.split() == text.split() and row.prompt in page
    again = CliRunner().invoke(app, [*options, "--preview"])
    assert again.exit_code == 0 and "2 prompts" in (tmp_path / "run.degraded.html").read_text(encoding="utf-8")

"""Look at degraded prompts before spending anything on them: a table in the terminal, a page in the browser."""

from __future__ import annotations

import difflib
import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ..files import read_jsonl, write_text
from ..recipe import Degradation, Recipe
from .degrade import outcomes
from .held_out import trained_part
from .methods import DEGRADERS
from .quality import text_distance
from .sources import PromptRecord, read_prompts

Mark = Literal["same", "gone", "new"]
#: a cell shows this much; text encoders read less
_MAX_CHARACTERS = 1000
# What could break a terminal or turn the text around. Joiners stay: emoji and several scripts need them.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class PreviewRow:
    """One prompt, its variants as (text, kind, change), and the reason when there are none."""

    prompt: str
    variants: tuple[tuple[str, str, str], ...]
    skipped: str | None = None


def preview_rows(settings: Degradation, records: Sequence[PromptRecord], seed: int) -> list[PreviewRow]:
    """Degrade a few prompts without writing anything; the draws are those of the real stage."""
    degrader = DEGRADERS[settings.method](settings, None)
    made = outcomes(degrader, records, seed, settings.variants)
    return [
        PreviewRow(record.prompt, tuple((v.text, v.kind, v.change) for v in outcome.variants), outcome.skipped)
        for record, outcome in zip(records, made, strict=True)
    ]


def show_preview(recipe: Recipe, prompts: int) -> Path:
    """Print the preview of so many drawn prompts and write it as a page beside the run folder, `RUN.degraded.html`.

    A finished `degraded.jsonl` in the run folder is shown; without one the prompts are degraded now, and nothing else
    is written. (A language model is then asked for these prompts; its answers are not kept.)

    Returns:
        the path of the page.

    Raises:
        UserError: as reading prompts and degrading them.
    """
    source, run = recipe.prompts, recipe.output
    limit = min(prompts, source.limit or prompts)
    records = read_prompts(source.source, source.column, limit, recipe.seed, trained_part(recipe))
    finished = run / "degraded.jsonl"
    rows = read_rows(finished, limit) if finished.is_file() else preview_rows(recipe.degradation, records, recipe.seed)
    console = Console()
    console.print(preview_table(rows, colored=console.color_system is not None))
    return preview_html(rows, run.with_name(f"{run.name}.degraded.html"), f"Degraded prompts of {recipe.name}")


def read_rows(degraded: Path, limit: int | None = None) -> list[PreviewRow]:
    """The rows of a finished `degraded.jsonl`, the first `limit` of them."""
    rows: list[PreviewRow] = []
    for row in read_jsonl(degraded):
        if limit is not None and len(rows) == limit:
            break
        how = [(each["kind"], each["change"]) for each in row["how"]]
        texts = row["degraded_prompts"]
        rows.append(PreviewRow(row["prompt"], tuple((t, *h) for t, h in zip(texts, how, strict=True))))
    return rows


def marked(prompt: str, variant: str) -> list[tuple[Mark, str]]:
    """The words of both texts in reading order: 'same' in both, 'gone' from the prompt, 'new' in the variant.

    The 'same' and 'new' parts, joined, are the variant; the 'same' and 'gone' parts are the prompt, up to white space.
    """
    old, new = prompt.split(), variant.split()
    parts: list[tuple[Mark, str]] = []
    for operation, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        same = operation == "equal"
        gone: tuple[Mark, list[str]] = ("gone", [] if same else old[a:b])
        kept: tuple[Mark, list[str]] = ("same" if same else "new", new[c:d])
        for mark, words in (gone, kept):
            if words:
                parts.append((mark, (" " if parts else "") + " ".join(words)))
    return parts


def kind_statistics(rows: Iterable[PreviewRow]) -> list[dict[str, Any]]:
    """Per kind: number and share of variants, prompts that have one, mean text distance; the most frequent first."""
    count: Counter[str] = Counter()
    prompts: Counter[str] = Counter()
    distance: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        for text, kind, _ in row.variants:
            count[kind] += 1
            distance[kind] += text_distance(row.prompt, text)
        prompts.update({kind for _, kind, _ in row.variants})
    total = count.total()
    return [
        {
            "kind": kind,
            "variants": number,
            "share": number / total,
            "prompts": prompts[kind],
            "mean_text_distance": distance[kind] / number,
        }
        for kind, number in count.most_common()
    ]


def skip_statistics(rows: Iterable[PreviewRow]) -> dict[str, int]:
    """Prompts without a variant, by reason."""
    return dict(Counter(row.skipped for row in rows if row.skipped is not None))


def _shown(text: str) -> str:
    text = _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"


_STYLES: dict[Mark, str] = {"same": "", "gone": "strike red", "new": "bold green"}
#: where there are no colors, such as in a log file
_SIGNS: dict[Mark, str] = {"same": "{}", "gone": "[-{}-]", "new": "{{+{}+}}"}


def _statistics_table(rows: Sequence[PreviewRow]) -> Table:
    table = Table(title="kinds", title_justify="left")
    table.add_column("kind")
    for name in ("variants", "share", "prompts", "mean distance"):
        table.add_column(name, justify="right")
    for line in kind_statistics(rows):
        numbers = [f"{line['variants']}", f"{line['share']:.1%}", f"{line['prompts']}"]
        table.add_row(Text(_shown(line["kind"])), *numbers, f"{line['mean_text_distance']:.2f}")
    for reason, number in skip_statistics(rows).items():
        table.add_row(Text(f"(skipped: {_shown(reason)})", style="dim"), "", "", f"{number}", "")
    return table


def _cell(prompt: str, variant: str, colored: bool) -> Text:
    """A variant with its differences to the prompt marked."""
    cell = Text("  ")
    for mark, part in marked(_shown(prompt), _shown(variant)):
        words = part.lstrip(" ")
        cell.append(part[: len(part) - len(words)])
        cell.append(words if colored else _SIGNS[mark].format(words), _STYLES[mark])
    return cell


def preview_table(rows: Sequence[PreviewRow], *, colored: bool = True) -> Group:
    """Prompts with their variants and statistics per kind, for `rich.console.Console.print`.

    In a variant what is gone is struck out and red, what is new bold and green; without colors they stand in [-...-]
    and {+...+}. The text is never read as markup.
    """
    table = Table(show_lines=True)
    table.add_column("prompt and variants", ratio=4, overflow="fold")
    table.add_column("kind", overflow="fold")
    table.add_column("change", ratio=1, overflow="fold")
    for row in rows:
        table.add_row(Text(_shown(row.prompt), style="bold"), "", Text(_shown(row.skipped or ""), style="yellow"))
        for text, kind, change in row.variants:
            table.add_row(_cell(row.prompt, text, colored), Text(_shown(kind)), Text(_shown(change)))
    return Group(table, _statistics_table(rows))


_TAGS: dict[Mark, str] = {"same": "span", "gone": "del", "new": "ins"}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0; }}
td, th {{ border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: left; vertical-align: top; }}
td {{ overflow-wrap: anywhere; }}
td.number, th.number {{ text-align: right; white-space: nowrap; }}
tr.prompt td {{ font-weight: 600; padding-top: 1.2rem; }}
del {{ color: #b3261e; background: #b3261e22; }}
ins {{ color: #146c2e; background: #146c2e22; text-decoration: none; font-weight: 600; }}
@media (prefers-color-scheme: dark) {{ del {{ color: #f2b8b5; }} ins {{ color: #9bd4a5; }} }}
</style></head><body>
<h1>{title}</h1>
<p>{prompts} prompts, {variants} degraded prompts. <del>Red</del>: gone. <ins>Green</ins>: new.</p>
<h2>Kinds</h2>
<table><thead><tr><th>kind</th><th class="number">variants</th><th class="number">share</th>
<th class="number">prompts</th>
<th class="number">mean text distance</th></tr></thead><tbody>
{kinds}
</tbody></table>
<h2>Prompts</h2>
<table><thead><tr><th>prompt and variants</th><th>kind</th><th>change</th></tr></thead><tbody>
{rows}
</tbody></table>
</body></html>
"""


def _escaped(text: str) -> str:
    return html.escape(_shown(text))


def _html_row(row: PreviewRow) -> str:
    prompt, reason = _escaped(row.prompt), _escaped(row.skipped or "")
    lines = [f'<tr class="prompt"><td dir="auto">{prompt}</td><td></td><td>{reason}</td></tr>']
    for text, kind, change in row.variants:
        parts = marked(_shown(row.prompt), _shown(text))
        cell = "".join(f"<{_TAGS[mark]}>{html.escape(part)}</{_TAGS[mark]}>" for mark, part in parts)
        lines.append(f'<tr><td dir="auto">{cell}</td><td>{_escaped(kind)}</td><td>{_escaped(change)}</td></tr>')
    return "\n".join(lines)


def preview_html(rows: Sequence[PreviewRow], output: Path, title: str = "Degraded prompts") -> Path:
    """Write the preview as one self-contained page, everything escaped, and return its path."""
    kinds = [
        f'<tr><td>{_escaped(line["kind"])}</td><td class="number">{line["variants"]}</td>'
        f'<td class="number">{line["share"]:.1%}</td><td class="number">{line["prompts"]}</td>'
        f'<td class="number">{line["mean_text_distance"]:.2f}</td></tr>'
        for line in kind_statistics(rows)
    ]
    kinds += [
        f'<tr><td>(skipped: {_escaped(reason)})</td><td></td><td></td><td class="number">{number}</td><td></td></tr>'
        for reason, number in skip_statistics(rows).items()
    ]
    page = _PAGE.format(
        title=html.escape(title),
        prompts=len(rows),
        variants=sum(len(row.variants) for row in rows),
        kinds="\n".join(kinds),
        rows="\n".join(map(_html_row, rows)),
    )
    write_text(output, page)
    return output

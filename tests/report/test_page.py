"""The page as written: whole, escaped, self-contained, and honest about what is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ddspo.errors import UserError
from ddspo.files import read_jsonl, write_json, write_jsonl, write_text
from ddspo.report import build_report
from ddspo.report.build import asset
from ddspo.report.data import RunData, load_run
from ddspo.report.pictures import embed, inside
from helpers.fake_run import make_run

VOID = {"meta", "link", "img", "input", "br", "hr", "col"}


class Page(HTMLParser):
    """Tags with attributes, headings, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "demo")
    return tmp_path / "demo"


def _page(run: Path) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


def test_the_summary_has_the_agreed_form(run: Path) -> None:
    build_report(run)
    summary = json.loads((run / "summary.json").read_text())
    evaluation = json.loads((run / "scores" / "evaluation.json").read_text())
    policy = evaluation["models"]["policy"]
    assert summary["policy"]["overall"] == policy["overall"]["mean"]
    assert summary["base"]["spatial"] == evaluation["models"]["reference"]["categories"]["spatial"]["mean"]
    assert set(summary["base"]) == {"overall", *evaluation["categories"]}
    assert summary["difference"] == {end: policy["difference"][end] for end in ("mean", "low", "high")}
    assert summary["frechet"] == {"base": pytest.approx(3.1), "policy": pytest.approx(3.2)}
    assert summary["stages"]["pairs"] == {"seconds": 82.4, "network_evaluations": 204800.0}
    assert {"pairs", "train", "evaluate", "baseline sft"} <= set(summary["stages"])
    assert summary["baselines"]["sft"]["difference"]["mean"] == evaluation["models"]["sft"]["difference"]["mean"]


def test_the_page_is_self_contained_and_accessible(run: Path) -> None:
    text = build_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"""(src|href|action|data)\s*=\s*["']?(https?:)?//""", text)
    assert "@import" not in text and "url(" not in text
    assert all(str(image["src"]).startswith("data:image/") and image["alt"] for image in page.all("img"))
    assert all(not re.match(r"(?!#|data:)", str(link["href"])) for link in page.all("a") + page.all("link"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert {"main", "header", "nav", "footer"} <= {tag for tag, _ in page.tags}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for chart in (svg for svg in page.all("svg") if svg.get("role") == "img"):
        assert set(str(chart["aria-labelledby"]).split()) <= set(ids)
    assert sum(svg.get("role") == "img" for svg in page.all("svg")) >= 20


def test_pictures_failures_and_costs_are_told(run: Path) -> None:
    page = _page(run)
    rows = list(read_jsonl(run / "scores" / "scores.jsonl"))
    wrong = next(row for row in rows if row["model"] == "policy" and row["score"] == 0)
    assert wrong["prompt"] in page.text and wrong["detail"]["failed"][0] in page.text
    cards = [item for item in page.all("li") if "data-change" in item]
    assert len(cards) == sum(row["model"] == "policy" for row in rows)
    outcomes = {row["id"]: row["score"] for row in rows if row["model"] == "reference"}
    gained = sum(row["score"] > outcomes[row["id"]] for row in rows if row["model"] == "policy")
    assert sum(card["data-outcome"] == "gained" for card in cards) == gained
    assert "204,800" in page.text and "all stages" in page.text and "diffusion_dpo" in page.text


def test_winning_and_losing_models_are_in_the_ledger(run: Path) -> None:
    write_json(run / "targets" / "policy" / "winning" / "cost.json", {"seconds": 5.0, "network_evaluations": 777.0})
    costs = {cost.name: cost.network_evaluations for cost in load_run(run).costs}
    assert costs["winning model of policy"] == 777.0


def test_rows_in_several_folders_are_in_the_ledger(run: Path) -> None:
    cost = {"seconds": 5.0, "network_evaluations": 33.0}
    write_json(run / "costs.json", {"rows in a": cost, "rows in b": cost, "total": cost})
    costs = {one.name: one.network_evaluations for one in load_run(run).costs}
    assert costs["rows in a"] == costs["rows in b"] == 33.0 and "total" not in costs


HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(1)> "quoted" & {{ 7*7 }}'


def test_hostile_text_stays_text(run: Path) -> None:
    before = _page(run)
    rows = list(read_jsonl(run / "scores" / "scores.jsonl"))
    for row in rows:
        row["prompt"], row["category"] = HOSTILE, HOSTILE
        row["detail"]["failed"] = [HOSTILE]
    write_jsonl(run / "scores" / "scores.jsonl", rows)
    evaluation = json.loads((run / "scores" / "evaluation.json").read_text())
    evaluation["notes"], evaluation["features"], evaluation["scorer"] = [HOSTILE], HOSTILE, HOSTILE
    evaluation["categories"] = {HOSTILE: 3}
    for model in evaluation["models"].values():
        model["failures"] = {HOSTILE: 1, "none": 2}
        model["category_differences"] = {HOSTILE: {"mean": 0.1, "low": 0.0, "high": 0.2}}
    evaluation["models"][HOSTILE] = evaluation["models"].pop("sft")
    write_json(run / "scores" / "evaluation.json", evaluation)
    write_json(run / "environment.json", {HOSTILE: HOSTILE})
    write_text(run / "recipe.yaml", f"name: '{HOSTILE}'\n")
    page = _page(run)
    assert len(page.all("script")) == len(before.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert page.text.count(HOSTILE) > 10


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/passwd.png", "images/../../secret.png", "link.png", "", "x\0.png"]
)
def test_a_picture_outside_the_scores_folder_is_never_read(run: Path, name: str) -> None:
    Image.new("RGB", (4, 4), "red").save(run.parent / "secret.png")
    Image.new("RGB", (4, 4), "red").save(run / "secret.png")
    (run / "scores" / "link.png").symlink_to(run.parent / "secret.png")
    assert inside(run / "scores", name) is None


def test_an_unreadable_picture_leaves_a_gap_and_no_error(run: Path) -> None:
    rows = list(read_jsonl(run / "scores" / "scores.jsonl"))
    row = next(row for row in rows if row["model"] == "policy")
    (run / "scores" / row["image"]).write_bytes(b"not a picture")
    assert "no picture" in _page(run).text


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("scores", "No verdict yet"),
        ("baselines", "No baselines"),
        ("policy_run", "No training curves of policy"),
        ("recipe.yaml", "No recipe"),
        ("environment.json", None),
        ("pairs", "No pairs yet"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(run: Path, gone: str, told: str | None) -> None:
    target = run / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = _page(run)
    assert told is None or told in page.text
    assert json.loads((run / "summary.json").read_text()).keys() >= {
        "base",
        "policy",
        "difference",
        "frechet",
        "stages",
    }


def test_only_a_recipe_is_enough(tmp_path: Path) -> None:
    write_text(tmp_path / "recipe.yaml", "name: early\n")
    page = _page(tmp_path)
    assert "Not evaluated" in page.text and "early" in page.text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["base"] is None and summary["difference"] is None and summary["stages"] == {}


def test_absent_set_metrics_are_null_and_named(run: Path) -> None:
    evaluation = json.loads((run / "scores" / "evaluation.json").read_text())
    for model in evaluation["models"].values():
        model["frechet"] = model["inception_score"] = None
    write_json(run / "scores" / "evaluation.json", evaluation)
    assert "No Fréchet distance" in _page(run).text
    assert json.loads((run / "summary.json").read_text())["frechet"] == {"base": None, "policy": None}


def test_a_torn_last_line_of_metrics_is_left_out(run: Path) -> None:
    with (run / "policy_run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 61, "lo')
    text = _page(run).text
    assert "the 60 rows before it are shown" in text and "All 60 steps are finite" in text


def test_every_baseline_has_a_color_of_the_style_sheet() -> None:
    style = asset("report.css")
    data = RunData(Path("run"), metrics={f"b{number}": [] for number in range(9)})
    for tone in set(data.tones.values()):
        assert f"--{tone}:" in style and f".bar.{tone}" in style, tone
        assert tone == "reference" or f".line.{tone}" in style, tone
    assert len({data.tones[f"b{number}"] for number in range(5)}) == 5


def test_no_run_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run"):
        build_report(tmp_path)


def test_large_pictures_are_shrunk_until_they_fit(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.effect_noise((400, 400), 90).convert("RGB").save(path)
        paths.append(path)
    roomy, tight = embed(paths, 4_000_000), embed(paths, 25_000)
    assert len(roomy) == len(tight) == 4
    assert {picture.width for picture in roomy.values()} == {384}
    assert max(picture.width for picture in tight.values()) < 384
    assert sum(len(picture.uri) for picture in tight.values()) < 25_000 * 4 / 3 + 4 * 40


def test_small_pictures_are_kept_pixel_for_pixel(run: Path) -> None:
    path = next((run / "scores" / "images" / "policy").glob("*.png"))
    picture = embed([path], 10**6)[path]
    assert picture.pixelated and (picture.width, picture.height) == (32, 32) and "image/png" in picture.uri


def test_the_report_is_the_same_every_time(run: Path) -> None:
    assert build_report(run).read_bytes() == build_report(run).read_bytes()

"""Open the page in headless Chromium: no errors, no requests, no sideways scrolling, working controls."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from ddspo.report import build_report
from helpers.fake_run import make_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(make_run(tmp_path_factory.mktemp("runs") / "demo"))


def _chrome(page: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--hide-scrollbars", "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000", *arguments, page.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result


def _probe(page: Path, tmp_path: Path, script: str, width_px: int = 1280) -> dict[str, object]:
    """Run a script in the page (in a copy that allows nothing more than the page does) and read the JSON it leaves."""
    copy = tmp_path / "probe.html"
    frame = tmp_path / "frame.html"
    tail = (
        f"<script>window.addEventListener('load', () => {{ const result = (() => {{ {script} }})();"
        "parent.postMessage(JSON.stringify(result), '*'); });</script></body>"
    )
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", tail), encoding="utf-8")
    frame.write_text(
        "<!doctype html><pre id=out></pre><script>addEventListener('message', (event) => {"
        "document.getElementById('out').textContent = 'RESULT' + event.data + 'END'; });</script>"
        f'<iframe src="probe.html" style="width:{width_px}px;height:900px;border:0"></iframe>'
    )
    dom = _chrome(frame, tmp_path, "--dump-dom").stdout
    found = re.search(r"RESULT(.*?)END</pre>", dom, re.S)
    assert found, dom[:500]
    result = json.loads(found.group(1).replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert isinstance(result, dict)
    return result


def test_it_opens_without_an_error_or_a_request(page: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    result = _chrome(page, tmp_path, "--dump-dom", f"--log-net-log={log}")
    assert "CONSOLE" not in result.stderr
    assert 'class="js"' in result.stdout and "shown</p>" in result.stdout
    # The browser talks to its maker on its own account; the page itself must ask for nothing.
    probe = _probe(page, tmp_path, "return {count: performance.getEntriesByType('resource').filter("
                   "(entry) => !entry.name.startsWith('data:')).length}")  # fmt: skip
    assert probe == {"count": 0}


@pytest.mark.parametrize("width_px", [320, 375, 768, 1280])
def test_nothing_scrolls_sideways(page: Path, tmp_path: Path, width_px: int) -> None:
    facts = _probe(
        page, tmp_path,
        "const root = document.documentElement;"
        "return {inner: innerWidth, width: root.scrollWidth,"
        " broken: [...document.images].filter((image) => image.complete && !image.naturalWidth).length,"
        " charts: [...document.querySelectorAll('svg.chart')].filter((chart) => chart.getClientRects().length).length}",
        width_px,
    )  # fmt: skip
    assert facts["inner"] == width_px and facts["width"] == width_px
    assert facts["broken"] == 0 and int(str(facts["charts"])) >= 20


def test_controls_sort_and_filter(page: Path, tmp_path: Path) -> None:
    script = """
    const visible = () => [...document.querySelectorAll('#cards > li')].filter((card) => !card.hidden);
    const chip = document.querySelector('button[data-outcome=gained]');
    chip.click();
    const gained = visible().map((card) => card.dataset.outcome);
    document.querySelector('button[data-outcome=""]').click();
    const order = document.getElementById('by-order');
    order.value = 'losses'; order.dispatchEvent(new Event('change'));
    const changes = visible().map((card) => Number(card.dataset.change));
    const category = document.getElementById('by-category');
    category.value = 'spatial'; category.dispatchEvent(new Event('change'));
    const box = document.getElementById('with-others');
    const hiddenOthers = getComputedStyle(document.querySelector('.other')).display;
    box.click();
    return {gained, changes, spatial: visible().map((card) => card.dataset.category), hiddenOthers,
            others: getComputedStyle(document.querySelector('.other')).display,
            pressed: chip.getAttribute('aria-pressed'), told: document.getElementById('shown').textContent};
    """
    facts = _probe(page, tmp_path, script)
    gained, changes, spatial = facts["gained"], facts["changes"], facts["spatial"]
    assert isinstance(gained, list) and set(gained) == {"gained"}
    assert isinstance(changes, list) and changes == sorted(changes) and len(changes) > len(gained)
    assert isinstance(spatial, list) and set(spatial) == {"spatial"} and facts["told"] == f"{len(spatial)} shown"
    assert facts["hiddenOthers"] == "none" and facts["others"] != "none" and facts["pressed"] == "false"


@pytest.mark.parametrize("width_px", [1280, 500])
def test_a_screenshot_shows_the_page(page: Path, tmp_path: Path, width_px: int) -> None:
    shot = tmp_path / "shot.png"
    _chrome(page, tmp_path, f"--window-size={width_px},2000", f"--screenshot={shot}")
    with Image.open(shot) as image:
        assert image.width == width_px
        colors = image.convert("RGB").getcolors(1 << 24)
    assert colors is not None and len(colors) > 50

"""The page in a real browser: the list of facts is searched and filtered, nothing is complained of, nothing overflows.

Needs a Chromium (Debian's ``chromium``, Chrome, or Playwright's); without one these tests are skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PLAYWRIGHT = Path.home() / ".cache/ms-playwright"
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=4000"),
)


def _browser() -> str | None:
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    return found or next((str(path) for path in sorted(_PLAYWRIGHT.glob("chromium*/chrome-*/*chrome*"))), None)


BROWSER = _browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


@pytest.fixture
def page(page_file) -> Path:
    return page_file


@pytest.fixture
def opened(tmp_path):
    """``opened(path, ...)``: the page as the browser has it after its script, and what the console said."""

    def run(path: Path, *flags: str, fragment: str = "", timeout: float = 90) -> tuple[str, list[str]]:
        address = path.as_uri() + (f"#{fragment}" if fragment else "")
        command = [str(BROWSER), *_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, address]
        ended = subprocess.run(command, capture_output=True, timeout=timeout, check=True)
        said = ended.stderr.decode("utf-8", "replace").splitlines()
        return ended.stdout.decode("utf-8"), [line for line in said if "CONSOLE" in line]

    return run


def shown_in(dom: str) -> list[str]:
    """The roles of the facts that are not hidden."""
    rows = re.findall(r"<tr (data-role[^>]*)>", dom)
    return [re.findall(r'data-role="(\w+)"', row)[0] for row in rows if "hidden" not in row]


def test_the_facts_are_searched_and_filtered_and_the_console_is_silent(page, opened, done):
    facts = done[0].facts
    dom, said = opened(page, "--dump-dom")
    assert not said and len(shown_in(dom)) == len(facts) and f"{len(facts)} of {len(facts)} facts" in dom
    assert not re.search(r'class="filters"[^>]*hidden', dom)
    asked = facts.never[0]
    dom, said = opened(page, "--dump-dom", fragment=urlencode({"role": "never", "q": asked.subject.upper()}))
    wanted = [f for f in facts.never if asked.subject.lower() in " ".join((f.id, f.prompt, f.old, f.new)).lower()]
    assert not said and shown_in(dom) == ["never"] * len(wanted) and f"{len(wanted)} of {len(facts)} facts" in dom
    assert 0 < len(wanted) < len(facts.never)


def test_every_contest_can_be_picked_and_says_what_the_study_holds(page, opened, done):
    """What is drawn first is the contest of the last state at the last layer, in the study's own numbers."""
    depth = done[0].depth.sel(phrasing=0)
    dom, said = opened(page, "--dump-dom")
    assert not said and dom.count('class="mechmask-contest"') == 1
    view = dom[dom.index('class="mechmask-contest"') :].partition("</figure>\n<h")[0]
    offered = re.findall(r"<option[^>]*>([^<]+)</option>", view)
    assert set(offered) == {*depth.fact.values.tolist(), "before", "fine-tuning", "FT-L"}
    numbers = [float(text.replace("\u2212", "-")) for text in re.findall(r'class="mm-number">([^<]+)<', view)]
    first = depth.isel(state=-1, layer=-1).sel(fact=offered[0])
    assert numbers == pytest.approx(first.logprob.values.tolist(), abs=0.006)


def test_the_heat_map_is_not_covered(page, opened, tmp_path):
    """What is drawn over its cells (frames, commit layers) lets them show through."""
    probe = (
        "<script type='module'>document.title = 'over ' + getComputedStyle("
        "document.querySelector('.mm-field svg')).backgroundColor</script></body>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    (tmp_path / "probed.html").write_text(text.replace("</body>", probe), encoding="utf-8")
    dom, _ = opened(tmp_path / "probed.html", "--dump-dom")
    assert "<title>over rgba(0, 0, 0, 0)</title>" in dom


def test_what_got_past_the_escaping_would_not_run(page, opened, tmp_path):
    """The same page with a script and a picture put into it by force: the policy stops both, the page's own runs."""
    forced = "<script>document.title = 'taken'</script><img src='https://example.org/x.png' onerror='document.title=1'>"
    path = tmp_path / "forced.html"
    path.write_text(page.read_text(encoding="utf-8").replace("<main>", f"<main>{forced}"), encoding="utf-8")
    dom, said = opened(path, "--dump-dom")
    assert "<title>taken" not in dom and "<title>1" not in dom
    assert len([line for line in said if "Content Security Policy" in line]) >= 2
    assert re.search(r"\d+ of \d+ facts", dom)


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(page, opened, tmp_path, width):
    probe = "<script>parent.postMessage(document.documentElement.scrollWidth, '*')</script></body>"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    (tmp_path / "inner.html").write_text(text.replace("</body>", probe), encoding="utf-8")
    host = tmp_path / "host.html"
    host.write_text(
        "<!DOCTYPE html><script>onmessage = (e) => document.title = `width ${e.data}`</script>"
        f'<iframe src="inner.html" style="border: 0; width: {width}px; height: 900px"></iframe>'
    )
    dom, _ = opened(host, "--dump-dom")
    assert f"<title>width {width}</title>" in dom


def test_it_is_drawn(page, opened, tmp_path):
    """Ink on paper at two widths, of which a person has looked at such pictures."""
    from matplotlib.image import imread

    for width in (500, 1200):
        picture = tmp_path / f"{width}.png"
        opened(page, f"--screenshot={picture}", f"--window-size={width},3000")
        pixels = imread(picture)[..., :3]
        assert pixels.shape[1] == width
        dark = (pixels.mean(-1) < 0.5).mean()
        assert 0.005 < dark < 0.3 and len({tuple(row) for row in (pixels[::7, ::7] * 8).astype(int).reshape(-1, 3)}) > 8

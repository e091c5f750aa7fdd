"""The site in a real browser: nbdev's processing, rendered with the site's own style sheet by pandoc (Quarto may not be
here).

The images of the front page and of a tutorial are written to the folder of the test run (`pytest --basetemp=FOLDER`).
"""
import os
import shutil
import subprocess
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (DRIVER and shutil.which("pandoc") or os.environ.get("CI")),
                                reason="chromedriver or pandoc is not installed (.ci/run installs both)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A copy of the checkout, processed and rendered: (processed notebooks, pages)."
    copy = tmp_path_factory.mktemp("site")/"copy"
    left = shutil.ignore_patterns(".git", ".venv", "runs", "_docs", "_proc", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=left)
    done = subprocess.run([sys.executable, "scripts/site.py", "--preview", copy/"_preview"], cwd=copy,
                          env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return copy/"_proc", copy/"_preview"


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(browser, page, width, scheme="light"):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                            {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})
    browser.get(page.as_uri())


def luminance(colour):
    parts = [float(x) / 255 for x in colour[colour.index("(") + 1:-1].split(",")[:3]]
    return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
               for w, c in zip((0.2126, 0.7152, 0.0722), parts))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_rendered_site_has_all_texts_and_links(site):
    sys.path.insert(0, str(ROOT/"tests"))
    from test_docs import docs
    processed, pages = site
    assert list(docs.check_html(pages, docs.pages_of(processed), "/rl4vlm/",
                                ["https://github.com/rl4vlm/rl4vlm/"])) == []
    index = (pages/"llms.txt").read_text()
    assert index.startswith("# rl4vlm\n") and index.count("\n- [") == len(docs.pages_of(processed))
    assert (pages/"404.html").exists() and (pages/"favicon.svg").exists()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window(site, browser, width):
    wide = {}
    for page in sorted(site[1].rglob("*.html")):
        visit(browser, page, width)
        if (found := browser.execute_script("return document.documentElement.scrollWidth")) > width:
            wide[page.name] = found
    assert not wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name, words", [("index", "trains the model: first by imitation"),
                                         ("tutorials/quickstart", "NumberLine shows two numbers")])
def test_front_page_and_tutorial_as_seen(site, browser, tmp_path, name, words, width, scheme):
    visit(browser, site[1]/f"{name}.html", width, scheme)
    assert words in browser.find_element("id", "quarto-document-content").text
    ink, paper = browser.execute_script("let s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    assert contrast(ink, paper) > 7 and (luminance(paper) < 0.1) == (scheme == "dark")
    for colour, ground in browser.execute_script("return [...document.querySelectorAll('main p > code')].slice(0, "
                                                 "5).map(e => [getComputedStyle(e).color, "
                                                 "getComputedStyle(e).backgroundColor])"):
        assert contrast(colour, ground) > 4.5, (colour, ground)
    column = browser.execute_script("return document.querySelector('main').getBoundingClientRect().width")
    assert column > (740 if width == 1280 else 340)
    assert browser.execute_script("return [...document.querySelectorAll('main pre.sourceCode')].filter(e => "
                                  "e.scrollWidth > e.clientWidth + 1).length") == 0   # code wraps
    assert browser.save_screenshot(str(tmp_path/f"{Path(name).name}_{width}_{scheme}.png"))

"""The report: one closed file, safe with any text, useful with any part of a run missing; and alive in a real
browser."""
import base64
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from rl4vlm.core import UsageError
from rl4vlm.figures import episode_strip, learning_curves, write_gif
from rl4vlm.files import write_json
from rl4vlm.report import write_report
from rl4vlm.store import EpisodeStore
from rl4vlm.types import Episode, turn_of

HOSTILE = {
    "script": "<script>document.title='owned'</script>",
    "end": "</script><script>document.title='owned'</script>",
    "comment": "<!-- <script>",
    "image": "<img src=x onerror=\"document.title='owned'\">",
    "line": "A" * 100_000,
    "direction": "safe \u202eesrever\u2066 text",
    "nul": "a\0b\x1bc",
    "template": "{{data}} {{policy}} ${1} `",
}


def image(number, side=40):
    "An image whose colour names it, so that it can be recognised on the page."
    return np.full((side, side, 3), (number % 16 * 16, number // 16 % 16 * 16, 96), np.uint8)


def number_of(data):
    red, green, _ = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3).mean(0)
    return round(red / 16) + 16 * round(green / 16)


def make_episode(seed, actor, success, turns=3, texts=None, first=0, images=image, task="NumberLine"):
    made = []
    for i in range(turns):
        text = (texts or ['{"thoughts": "look", "action": "+"}'] * turns)[i]
        at = text.find('"action"')
        made.append(turn_of([dict(role="user", content=[dict(type="image"), dict(type="text", text="Which way?")])],
                            [images(first + i)], text, action="+" if at > 0 else None,
                            cause=None if at > 0 else "no_json", span=(at, len(text)) if at > 0 else None,
                            played="+" if at > 0 else "-", reward=float(success and i == turns - 1),
                            terminated=i == turns - 1, state=f"state {first + i}", episode=f"0-{seed}", index=i,
                            seed=seed, value=0.25, logprobs=np.log([0.9, 0.5, 1.0])))
    return Episode(task, seed, made, success=success, actor=actor)


def make_run(folder, episodes=None, **files):
    "A run folder with all its parts."
    folder = Path(folder)
    rows = [dict(name=name, success=s, low=s - 0.1, high=s + 0.1, episodes=20, mean_return=s, return_low=s - 0.2,
                 return_high=s + 0.2, mean_turns=3.0, failed_parses=0.1, causes=dict(no_json=2), target_reached=0.9)
            for name, s in (("random", 0.3), ("ppo", 0.8))]
    write_json(folder/"results.json", dict(task="NumberLine", panel="test-200", rows=rows))
    steps = [dict(step=0, val_success=0.4)] + [dict(step=i, success=0.4 + i / 20, mean_return=i / 10, kl=0.001 * i,
                                                    failed_parses=0.1, policy_loss=0.1) for i in range(1, 9)]
    (folder/"metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in steps))
    (folder/"config.yaml").write_text("task: NumberLine\nseed: 0\n")
    if episodes is None:
        episodes = [make_episode(s, a, (s + k) % 2 == 0, first=20 * k + 3 * s) for k, a in enumerate(("random", "ppo"))
                    for s in range(5)]
    for actor in dict.fromkeys(e.actor for e in episodes):
        EpisodeStore(folder/"episodes").write([e for e in episodes if e.actor == actor],
                                              hashlib.md5(actor.encode()).hexdigest())
    for name, text in files.items(): (folder/name).write_text(text)
    return folder


class Page(HTMLParser):
    "The tags of a page, and the text of its scripts and styles, as a browser would split them."
    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.inline, self.open = Path(path).read_text(encoding="utf-8"), [], [], None
        self.feed(self.text)
        self.data = json.loads(next(text for tag, a, text in self.inline if a.get("type") == "application/json"),
                               parse_constant=self.refuse)

    def refuse(self, name): raise ValueError(f"{name} is no JSON")     # Python reads NaN, a browser does not

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"): self.inline.append([tag, dict(attributes), ""]); self.open = tag

    def handle_endtag(self, tag): self.open = None if tag == self.open else self.open

    def handle_data(self, data):
        if self.open: self.inline[-1][2] += data


@pytest.fixture
def run(tmp_path): return make_run(tmp_path/"run")


def test_one_closed_file(run):
    page = Page(write_report(run))
    assert run/"report.html" == write_report(run)
    assert not [tag for tag, _ in page.tags
                if tag in ("link", "img", "iframe", "object", "embed", "base", "form", "video", "audio")]
    assert not [a for _, attributes in page.tags for a in attributes
                if a in ("src", "srcset", "style", "action") or a.startswith("on")]
    assert all(a["href"].startswith("#") for _, a in page.tags if "href" in a)
    code = "".join(text for _, a, text in page.inline if a.get("type") != "application/json")
    for word in ("http:", "https:", "//cdn", "url(", "@import", "fetch(", "XMLHttp", "WebSocket", "innerHTML",
                 "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert word not in code, word


def test_security_policy_names_exactly_this_script_and_style(run):
    page = Page(write_report(run))
    [policy] = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "unsafe" not in policy
    for tag in ("script", "style"):
        [text] = [t for name, a, t in page.inline if name == tag and a.get("type") != "application/json"]
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert page.text.index("Content-Security-Policy") < page.text.index("<style>")


def test_texts_arrive_as_they_were_and_never_as_markup(tmp_path):
    texts = list(HOSTILE.values())
    page = Page(write_report(make_run(tmp_path/"run", [make_episode(0, HOSTILE["image"], False, len(texts), texts)],
                                      **{"config.yaml": HOSTILE["end"]})))
    plain = Page(write_report(make_run(tmp_path/"plain")))
    assert page.tags == plain.tags                                  # not one element more than with harmless texts
    shown = ["".join(t["response"]) for t in page.data["episodes"][0]["turns"]]
    for text, got in zip(texts, shown):
        assert got == text if len(text) < 1000 else got.startswith(text[:1000]) and "are left out here" in got
    assert next(t for _, a, t in page.inline if a.get("type") == "application/json").isascii()
    assert page.data["episodes"][0]["actor"] == HOSTILE["image"]


def test_folder_names_and_damaged_unicode_are_harmless(tmp_path):
    run = make_run(tmp_path/"<b>{{data}}<i title=", [make_episode(0, "ppo", True)])
    (run/"results.json").write_text('{"task": "\\ud800", "rows": [{"name": "ppo \\udfff", "success": 0.5, '
                                    '"low": "many", "mean_return": NaN, "causes": 3}]}')
    page = Page(write_report(run))
    assert page.text.count("&lt;b&gt;{{data}}&lt;i title=") == 2             # title and heading
    assert "b" not in [tag for tag, _ in page.tags]
    assert page.data["table"] == [dict(task="\ud800", name="ppo \udfff", success=0.5, run=0)]


def test_span_counts_characters_as_python_does(tmp_path):
    text = '😀😀 {"action": "+"}'
    page = Page(write_report(make_run(tmp_path/"run", [make_episode(0, "ppo", True, 1, [text])])))
    assert page.data["episodes"][0]["turns"][0]["response"] == ["😀😀 {", '"action": "+"}', ""]


def test_limit_is_kept_by_leaving_out_evenly(tmp_path):
    noise = lambda n: np.random.default_rng(n).integers(0, 256, (120, 120, 3), np.uint8)
    made = [make_episode(s, actor, s % 4 == 0, first=1000 * k + 3 * s, images=noise)
            for k, actor in enumerate(("random", "sft", "ppo")) for s in range(16)]
    run = make_run(tmp_path/"run", made)
    path = write_report(run, limit_mb=0.4)
    page = Page(path)
    kinds = {(e["actor"], e["success"]) for e in page.data["episodes"]}
    assert 300_000 < path.stat().st_size <= 400_000 and len(kinds) == 6
    assert any(f"{len(page.data['episodes'])} of 48 episodes are shown" in note for note in page.data["notes"])
    assert sum(t["episodes"] for t in page.data["tallies"]) == 48               # counts are about all of them
    with pytest.raises(UsageError, match="too small: the page takes 0"): write_report(run, limit_mb=0.001)


def test_equal_images_are_kept_once(tmp_path):
    one = Page(write_report(make_run(tmp_path/"run",
                                     [make_episode(s, "ppo", True, images=lambda n: image(7)) for s in range(30)])))
    assert len([s for s in one.data["shared"] if s.startswith("data:image/")]) == 1


@pytest.mark.parametrize("part, note", [("results.json", "no results.json"), ("metrics.jsonl", "no learning curves"),
                                        ("episodes", "No episodes were kept"), ("config.yaml", None)])
def test_missing_part_is_named_and_the_rest_is_shown(run, part, note):
    shutil.rmtree(run/part) if (run/part).is_dir() else (run/part).unlink()
    data = Page(write_report(run)).data
    assert any(note in n for n in data["notes"]) if note else not data["notes"]
    assert len(data["table"]) == 2 and bool(data["episodes"]) == (part != "episodes")
    assert bool(data["runs"][0]["curves"]["ppo"]) == (part != "metrics.jsonl")


def test_half_written_and_strange_files(run):
    with open(run/"metrics.jsonl", "a") as f:
        f.write('{"step": 9, "kl": NaN, "success": Infinity}\n[1, 2]\n{"kl": 1}\n{"step": 10, "k')
    (run/"results.json").write_text('{"rows": {}}')
    data = Page(write_report(run)).data
    assert data["runs"][0]["curves"]["ppo"]["step"][-1] == 9 and data["runs"][0]["curves"]["ppo"]["kl"][-1] is None
    assert any("3 of 13 lines cannot be read" in n for n in data["notes"])
    assert any("another version" in n for n in data["notes"])
    assert {r["name"] for r in data["table"]} == {"random", "ppo"}             # computed from the episodes


def test_damaged_shard_and_images(run):
    import pyarrow as pa
    import pyarrow.parquet as pq
    shards = sorted((run/"episodes").glob("*.parquet"))
    shards[0].write_bytes(shards[0].read_bytes()[:-200])
    table = pq.read_table(shards[1])
    images = ([[dict(bytes=b"no image", path=None)], [dict(bytes=None, path="gone.png")], [], None]
              + table.column("images").to_pylist()[4:])
    pq.write_table(table.set_column(table.schema.get_field_index("images"), "images",
                                    pa.array(images, table.schema.field("images").type)), shards[1])
    data = Page(write_report(run)).data
    assert any(shards[0].name in n and "cannot be read" in n for n in data["notes"])
    assert any("2 images are missing or cannot be read" in n for n in data["notes"]) and len(data["episodes"]) == 5


def test_shard_of_another_version(run):
    import pyarrow.parquet as pq
    for shard in (run/"episodes").glob("*.parquet"):
        pq.write_table(pq.read_table(shard).select(["text", "reward", "terminated"]), shard)
    data = Page(write_report(run)).data
    assert len(data["episodes"]) == 10 and all(len(e["turns"]) == 3 and e["success"] is None for e in data["episodes"])


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path/"photos").mkdir(); (tmp_path/"photos"/"cat.png").touch(); (tmp_path/"file").touch()
    with pytest.raises(UsageError, match="not a run folder; expected at least one of results.json"):
        write_report(tmp_path/"photos")
    with pytest.raises(UsageError, match="did you mean 'photos'"): write_report(tmp_path/"photo")
    with pytest.raises(UsageError, match="is not a folder"): write_report(tmp_path/"file")
    with pytest.raises(UsageError, match="at least one run folder"): write_report([])
    assert not list(tmp_path.rglob("report.html"))


def test_several_runs(tmp_path):
    runs = [make_run(tmp_path/f"seed_{s}"/"ppo") for s in range(3)]
    path = write_report(runs, tmp_path/"all.html")
    data = Page(path).data
    assert path == tmp_path/"all.html"
    assert [r["name"] for r in data["runs"]] == ["seed_0/ppo", "seed_1/ppo", "seed_2/ppo"]
    assert [r["run"] for r in data["table"]] == [0, 0, 1, 1, 2, 2] and {e["run"] for e in data["episodes"]} == {0, 1, 2}


def test_strip_and_film(tmp_path):
    episode = make_episode(0, "ppo", True, 3, [HOSTILE["nul"], HOSTILE["line"], HOSTILE["direction"]])
    strip = episode_strip(episode, size=100)
    assert strip.width == 3 * 100 + 2 * 8
    assert number_of(_png(strip.crop((20, 20, 60, 60)))) == 0 and number_of(_png(strip.crop((236, 20, 276, 60)))) == 2
    assert np.asarray(strip.crop((0, 102, 100, strip.height))).min() < 100       # there is a caption
    film = Image.open(write_gif(episode, tmp_path/"film.gif"))
    assert film.n_frames == 3
    bare = Episode("T", 0, [turn_of(text="x", action="go", played="go")])
    assert episode_strip(bare).width == 180


def test_curves_for_papers():
    rows = [dict(step=0, val_success=0.4), dict(step=1, success=0.5, kl=float("nan")),
            dict(step=2, success=None, kl=0.1)]
    axes = learning_curves(dict(a=rows, b=rows)).axes
    assert [len(axis.lines) for axis in axes] == [4, 0, 0, 2, 0, 0] and list(axes[0].lines[1].get_ydata()) == [50.0]
    assert all(axis.get_ylabel() and axis.get_xlabel() == "update" for axis in axes)


def _png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# ---- in a real browser

FLAGS = ("--headless --no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic --no-first-run "
         "--disable-background-networking --disable-component-update --disable-sync --window-size=1200,900".split())


def start_browser(profile):
    chromium, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError: webdriver = None
    missing = [what for what, there in (("chromium (Debian: apt install chromium)", chromium),
                                        ("chromedriver (Debian: apt install chromium-driver)", driver),
                                        ("selenium (pip install selenium)", webdriver)) if not there]
    if missing:
        (pytest.fail if os.environ.get("CI") == "true"
         else pytest.skip)("the report is tested in a browser; install " + ", ".join(missing))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={profile}"]: options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", dict(browser="ALL"))
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


@pytest.fixture(scope="module")
def chromium():
    profile = tempfile.mkdtemp()
    browser = start_browser(profile)
    yield browser
    browser.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def browser(chromium):
    "A fresh page each time; no test may leave a message in the console or fetch anything."
    chromium.get("about:blank"); chromium.get_log("browser")
    yield chromium
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').map(r => r.name).filter(n => "
                                   "!n.startsWith('data:'))") == []


def visit(browser, page, hash=""):
    browser.get("about:blank"); browser.get(f"{Path(page).as_uri()}{hash}")


def text(browser, id): return browser.execute_script("return document.getElementById(arguments[0]).textContent", id)


def choose(browser, id, value):
    from selenium.webdriver.support.select import Select
    Select(browser.find_element("id", id)).select_by_visible_text(value)


def press(browser, *keys):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    *held, key = [getattr(Keys, k) for k in keys]
    chain = ActionChains(browser)
    for k in held: chain.key_down(k)
    chain.send_keys(key)
    for k in held: chain.key_up(k)
    chain.perform()


def shown_image(browser):
    [image] = browser.find_elements("css selector", "#frames img")
    assert browser.execute_script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", image) > 0
    assert image.get_attribute("alt")
    return number_of(base64.b64decode(image.get_attribute("src").split(",")[1]))


def test_browser_shows_every_part(browser, run):
    visit(browser, write_report(run))
    assert [r.text.split()[0] for r in browser.find_elements("css selector", "#results tbody tr")] == ["random", "ppo"]
    assert "80.0 %" in text(browser, "results") and "70.0 – 90.0" in text(browser, "results")
    charts = {c.find_element("css selector", "h3").text: c
              for c in browser.find_elements("css selector", "#curves > .charts > .chart")}
    assert {"Success", "Mean return", "Approximate KL divergence", "Failed parses"} <= set(charts)
    assert len(charts["Success"].find_elements("css selector", ":scope > svg .series path:not(.marker)")) == 2
    assert "at update 8" in charts["Success"].find_element("css selector", ":scope > svg").get_attribute("aria-label")
    charts["Success"].find_element("css selector", "summary").click()
    deadline = time.time() + 10   # the table is made when the browser gets round to the event
    while time.time() < deadline and not charts["Success"].find_elements("css selector", "table"): time.sleep(0.05)
    assert "40" in charts["Success"].find_element("css selector", "table").text
    assert "100.0 %" in text(browser, "actions") and text(browser, "footer").startswith("Written by rl4vlm")
    assert not browser.find_element("id", "notes").is_displayed()


def test_browser_filters(browser, tmp_path):
    made = ([make_episode(s, "ppo", s < 4) for s in range(6)]
            + [make_episode(s, "random", False, texts=["what?"] * 3, task="Blackjack") for s in range(3)])
    visit(browser, write_report(make_run(tmp_path/"run", made)))
    count = lambda: text(browser, "count")
    assert count() == "9 of 9 episodes"
    choose(browser, "actor", "ppo"); assert count() == "6 of 9 episodes"
    choose(browser, "outcome", "failure"); assert count() == "2 of 9 episodes"
    assert {o.text.split(" · ")[3] for o in browser.find_elements("css selector", "#episode option")} == {"failure"}
    kept = browser.find_element("id", "episode").get_attribute("value")
    browser.refresh()
    # as a served page does by itself
    assert count() == "2 of 9 episodes" and browser.find_element("id", "episode").get_attribute("value") == kept
    choose(browser, "cause", "no json")
    assert count() == "0 of 9 episodes" and not browser.find_element("id", "stage").is_displayed()
    choose(browser, "actor", "all actors")
    assert count() == "3 of 9 episodes" and browser.find_element("id", "stage").is_displayed()
    choose(browser, "task", "NumberLine"); assert count() == "0 of 9 episodes"
    choose(browser, "task", "Blackjack"); assert count() == "3 of 9 episodes"
    assert "No action was understood: no json" in text(browser, "response-note")
    assert "-, chosen at random" in text(browser, "facts")


def test_browser_steps_and_shows_the_right_frame(browser, run):
    visit(browser, write_report(run))
    choose(browser, "actor", "ppo")
    for seed in range(5):
        for turn in range(3):
            assert text(browser, "turn-title").startswith(f"Turn {turn + 1} of 3")
            assert shown_image(browser) == 20 + 3 * seed + turn
            assert text(browser, "state") == f"state {20 + 3 * seed + turn}"
            assert browser.find_element("css selector", "#timeline [aria-current]").text.startswith(f"turn {turn + 1}")
            press(browser, "ARROW_RIGHT")
        press(browser, "SHIFT", "ARROW_RIGHT")
    press(browser, "ARROW_LEFT"); assert shown_image(browser) == 20 + 3 * 4 + 1
    browser.find_element("id", "previous").click(); assert shown_image(browser) == 20 + 3 * 4
    assert not browser.find_element("id", "previous").is_enabled()
    browser.find_element("id", "previous-episode").click(); assert shown_image(browser) == 20 + 3 * 3
    browser.find_elements("css selector", "#timeline button")[2].click(); assert shown_image(browser) == 20 + 3 * 3 + 2
    press(browser, "ARROW_LEFT"); focus = browser.switch_to.active_element
    assert focus.tag_name == "button" and focus.text.startswith("turn 2")      # the focus goes along
    press(browser, "ARROW_RIGHT")
    assert browser.find_element("css selector", "#response mark").text == '"action": "+"}'
    assert "Value" in text(browser, "facts")
    assert "3 tokens" in text(browser, "tokens") and len(browser.find_elements("css selector", "#tokens rect")) == 3


def test_browser_link_to_a_turn(browser, run):
    page = write_report(run)
    visit(browser, page, "#episode=random%2F0-3&turn=2")
    assert shown_image(browser) == 3 * 3 + 1
    press(browser, "ARROW_RIGHT")
    link = browser.find_element("id", "link").get_attribute("href")
    assert browser.current_url == link and link.endswith("#episode=random%2F0-3&turn=3")
    choose(browser, "actor", "ppo")
    # as a click on a link to another actor's episode
    browser.execute_script("location.hash = '#episode=random%2F0-1&turn=1'")
    time.sleep(0.2)
    assert shown_image(browser) == 3 and text(browser, "count") == "10 of 10 episodes"
    visit(browser, page, "#episode=nobody%2F1&turn=1")
    assert "nobody/1) is not among them" in text(browser, "count") and text(browser, "turn-title").startswith("Turn 1")
    visit(browser, page, "#episode=random%2F0-3&turn=99")
    assert text(browser, "turn-title").startswith("Turn 3 of 3")


def test_browser_is_not_fooled(browser, tmp_path):
    texts = list(HOSTILE.values())
    run = make_run(tmp_path/HOSTILE["image"].replace("/", ""),
                   [make_episode(0, HOSTILE["end"], False, len(texts), texts, task=HOSTILE["script"])])
    row = dict(name=HOSTILE["image"] + "\ud800", success=0.5, causes={HOSTILE["script"]: 1}, **{HOSTILE["image"]: 0.5})
    (run/"results.json").write_text(json.dumps(dict(task=HOSTILE["end"], rows=[row])))
    with open(run/"metrics.jsonl", "a") as f: f.write(json.dumps(dict(step=20, **{HOSTILE["image"]: 0.5})) + "\n")
    (run/"config.yaml").write_text(HOSTILE["end"])
    visit(browser, write_report(run))
    for i, wanted in enumerate(texts):
        got = text(browser, "response")
        if wanted is HOSTILE["direction"]: assert "\u202e" not in got and "⟨U+202E⟩esrever" in got
        elif wanted is HOSTILE["nul"]: assert got == "a⟨U+0000⟩b⟨U+001B⟩c"
        else: assert got[:15_000] == wanted[:15_000]
        box = browser.find_element("id", "response").rect
        assert box["width"] < 1200 and box["height"] < 500
        assert shown_image(browser) == i
        press(browser, "ARROW_RIGHT")
    assert browser.title.startswith("rl4vlm report: ")
    assert not browser.find_elements("css selector", "main img:not(#frames img), main script, main b[onclick]")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_browser_policy_really_blocks(chromium, run, tmp_path):
    "The second lock: were markup to slip through, it would not run."
    page = tmp_path/"slipped.html"
    slipped = ("<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
               "<p id=p style='color: red'>text</p>")
    page.write_text(write_report(run).read_text().replace("<main>", "<main>" + slipped, 1))
    visit(chromium, page)
    assert chromium.title.startswith("rl4vlm report")
    assert chromium.execute_script("return getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in m["message"] for m in chromium.get_log("browser")) >= 3


def test_browser_theme_phone_and_keyboard(browser, run):
    device = lambda width, scheme: (
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                dict(width=width, height=844, deviceScaleFactor=1, mobile=width < 500)),
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                dict(features=[dict(name="prefers-color-scheme", value=scheme)])))
    paper = lambda: browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    visit(browser, write_report(run))
    try:
        device(1200, "dark"); dark = paper()
        device(1200, "light"); light = paper()
        assert dark == "rgb(20, 23, 26)" and light == "rgb(255, 255, 255)"
        button = browser.find_element("id", "theme")
        button.click(); button.click()
        assert paper() == dark and button.text == "Theme: dark"
        button.click(); assert paper() == light and button.text == "Theme: system"
        device(390, "light")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        frame, response = (browser.find_element("css selector", s).rect for s in ("#frames", "#response"))
        # below each other, not squeezed
        assert response["y"] > frame["y"] + frame["height"] and response["width"] > 300
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=[]))
    browser.find_element("id", "next").send_keys("\ue007")                        # Enter
    assert text(browser, "turn-title").startswith("Turn 2")
    unnamed = ("return [...document.querySelectorAll('button, select, img, svg[role=img]')].filter(e => "
               "!(e.textContent.trim() || e.getAttribute('aria-label') || e.getAttribute('alt'))).length")
    assert browser.execute_script(unnamed) == 0


@pytest.mark.parametrize("part", ["results.json", "metrics.jsonl", "episodes"])
def test_browser_with_a_part_missing(browser, run, part):
    shutil.rmtree(run/part) if (run/part).is_dir() else (run/part).unlink()
    visit(browser, write_report(run))
    assert browser.find_element("id", "notes").is_displayed() and browser.find_element("id", "results").is_displayed()
    assert browser.find_element("id", "viewer").is_displayed() == (part != "episodes")
    assert ("There are no curves" in text(browser, "curves")) == (part == "metrics.jsonl")


def test_browser_loads_500_trajectories_in_3_seconds(browser, tmp_path):
    ring = lambda n: np.roll(np.tile(np.arange(0, 240, 3, np.uint8)[:, None, None], (1, 80, 3)), n, axis=0)
    made = [make_episode(s, actor, s % 2 == 0, turns=6, first=6 * s % 80, images=ring) for actor in ("sft", "ppo")
            for s in range(250)]
    page = write_report(make_run(tmp_path/"run", made))
    start = time.perf_counter()
    visit(browser, page)
    assert text(browser, "count") == "500 of 500 episodes" and browser.find_elements("css selector", "#frames img")
    assert time.perf_counter() - start < 3


# ---- tokens, seeds, comparisons, a run that goes on

def with_tokens(episode, cut):
    "The same episode with tokens: `cut` gives their texts."
    for t in episode.turns:
        pieces = cut(t.text)
        t.token_ends = np.cumsum([len(p) for p in pieces]).tolist()
        t.response.logprobs = np.log(np.linspace(0.05, 1, len(pieces)))
    return episode


def test_browser_colours_tokens(browser, tmp_path):
    texts = ['😀 see {"action": "+"}', "שלום \u202eabc {\"action\": \"+\"}", HOSTILE["script"] + '{"action": "+"}',
             "x" * 100_000]
    # three characters a token, and an end token
    cut = lambda text: [text[i:i + 3] for i in range(0, len(text), 3)] + [""]
    made = with_tokens(make_episode(0, "ppo", True, 4, texts), cut)
    visit(browser, write_report(make_run(tmp_path/"run", [made])))
    for i, wanted in enumerate(texts[:3]):
        spans = browser.find_elements("css selector", "#response span")
        assert text(browser, "response") == wanted.replace("\u202e", "⟨U+202E⟩")
        assert browser.find_element("css selector",
                                    "#response mark").get_attribute("textContent") == wanted[wanted.index('"action"'):]
        assert spans[0].get_attribute("class") == "p5"
        assert "token 1: probability 0.050" in spans[0].get_attribute("title")
        colour = lambda span: browser.execute_script("return getComputedStyle(arguments[0]).backgroundColor", span)
        assert colour(spans[0]) != "rgba(0, 0, 0, 0)"
        assert f"token {len(cut(wanted)) - 1}" in spans[-1].get_attribute("title")
        press(browser, "ARROW_RIGHT")
    assert not browser.find_elements("css selector", "#response span")
    assert len(browser.find_elements("css selector", "#tokens rect")) == 1000   # too long to colour


def test_a_store_without_the_newer_columns_is_shown(tmp_path):
    import pyarrow.parquet as pq
    run = make_run(tmp_path/"run", [with_tokens(make_episode(0, "ppo", True), lambda text: list(text))])
    [shard] = (run/"episodes").glob("*.parquet")
    assert "ends" in Page(write_report(run)).data["episodes"][0]["turns"][0]
    pq.write_table(pq.read_table(shard).drop_columns(["token_ends", "advantage", "columns", "value"]), shard)
    turn = Page(write_report(run)).data["episodes"][0]["turns"][0]
    assert "ends" not in turn and turn["logprobs"] and turn["response"][1]


def seeds_of(folder, name, n, level):
    "Runs that differ in their seed only."
    for seed in range(n):
        run = make_run(folder/f"{name}_{seed}", [make_episode(s, "ppo", True) for s in range(2)])
        (run/"config.yaml").write_text(f"task: NumberLine\nseed: {seed}\nclip: {level}\nout: runs/{name}_{seed}\n")
        (run/"metrics.jsonl").write_text("".join(json.dumps(dict(step=i, success=level + 0.1 * seed)) + "\n"
                                                 for i in range(4)))
        yield run


def test_browser_draws_seeds_as_mean_and_shade(browser, tmp_path):
    runs = [*seeds_of(tmp_path, "narrow", 3, 0.1), *seeds_of(tmp_path, "wide", 1, 0.6)]
    visit(browser, write_report(runs, tmp_path/"all.html"))
    chart = browser.find_element("css selector", "#curves .chart")
    assert ([li.text for li in chart.find_elements("css selector", ".legend li")]
            == ["narrow_* (3 runs), training", "wide_0, training"])
    assert len(chart.find_elements("css selector", ".band path")) == 1
    # the mean of 10, 20 and 30 %
    assert ("narrow_* (3 runs), training: 20 at update 3"
            in chart.find_element("css selector", ":scope > svg").get_attribute("aria-label"))
    assert "shade from the lowest to the highest" in text(browser, "curves")


def test_browser_shows_comparisons_and_kinds(browser, run):
    results = json.loads((run/"results.json").read_text())
    results["rows"][1]["kinds"] = {
        "pick": dict(name="pick", success=0.5, low=0.3, high=0.7, episodes=10, mean_return=0.1), "heat": 3}
    results["comparisons"] = [dict(task="NumberLine", a="sft", b=HOSTILE["image"], play="greedy", difference=0.12,
                                   low=0.05, high=0.19, only_a=3, only_b=15, episodes=100, return_difference=0.4,
                                   return_low=0.1, return_high=0.7), "nothing", {}]
    results.update(version="0.0.1", notes=["Points24 could not be played: no cards."])
    (run/"results.json").write_text(json.dumps(results))
    visit(browser, write_report(run))
    [row] = [r.text for r in browser.find_elements("css selector", "#comparisons tbody tr") if "?" not in r.text]
    assert HOSTILE["image"] + " against sft" in row and "+12.0 %" in row and "+5.0 % to +19.0 %" in row
    assert [r.find_element("css selector", "th").text
            for r in browser.find_elements("css selector", "#results tbody tr")] == ["random", "ppo", "ppo: pick"]
    assert "Points24 could not be played" in text(browser, "notes")
    assert "written by rl4vlm 0.0.1" in text(browser, "notes")


def test_browser_compares_each_run_with_the_first(browser, tmp_path):
    "Three runs of one panel: two pairs, whose intervals are made for two, on the page and from the command."
    from rl4vlm.evaluate import comparison_as_markdown
    from rl4vlm.report import compare_runs
    won = {"a": range(0, 8), "b": range(0, 20), "c": range(4, 8)}
    runs = [make_run(tmp_path/name, [make_episode(s, "ppo", s in wins, turns=1) for s in range(20)])
            for name, wins in won.items()]
    visit(browser, write_report(runs, tmp_path/"all.html"))
    rows = [r.text for r in browser.find_elements("css selector", "#comparisons tbody tr")]
    assert len(rows) == 2 and "b: ppo against a: ppo" in rows[0] and "+60.0 %" in rows[0] and "−20.0 %" in rows[1]
    said = text(browser, "overview")
    assert "The intervals of the 2 comparisons with a: ppo on NumberLine hold together at 95 %" in said
    assert "each alone at 97.5 %" in said
    told = comparison_as_markdown(compare_runs(runs))
    assert "| +60.0 % |" in told and "| -20.0 % |" in told and "each alone at 97.5 %" in told
    [pair], [first, _] = compare_runs(runs[:2]), compare_runs(runs)
    assert pair["family"] == 1 and pair["low"] > first["low"] and not compare_runs(runs[:1])
    visit(browser, write_report(runs[0]))
    assert not browser.find_elements("id", "comparisons")


def test_browser_shows_warnings_of_a_run(browser, run):
    "Once each, above the table; a run without any has no such box."
    visit(browser, write_report(run))
    assert not browser.find_element("id", "warnings").is_displayed()
    with open(run/"metrics.jsonl", "a") as f:
        for i in range(9, 15):
            f.write(json.dumps(dict(step=i, val_success=0.1, signal_share=0.3, thought_tokens=20.0,
                                    mutual_information=0.0)) + "\n")
    visit(browser, write_report(run))
    assert browser.find_element("id", "warnings").is_displayed()
    [said] = browser.find_elements("css selector", "#warnings li")
    assert said.text.startswith("run, update 11: thoughts have become a template") and "kl.coef" in said.text


def test_browser_follows_a_run_that_goes_on(chromium, run):
    from threading import Thread
    from rl4vlm.report import report_server
    with report_server(run, port=0, every=0.4) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        chromium.get(f"http://127.0.0.1:{server.server_address[1]}/#episode=ppo%2F0-3&turn=2")
        label = lambda: chromium.find_element("css selector", "#curves .chart > svg").get_attribute("aria-label")
        assert "at update 8" in label() and "loads itself again" in text(chromium, "footer")
        with open(run/"metrics.jsonl", "a") as f: f.write(json.dumps(dict(step=9, success=0.9)) + "\n")
        deadline = time.time() + 20
        while time.time() < deadline:
            try:
                if "at update 9" in label(): break
            except Exception: pass     # between two pages
            time.sleep(0.1)
        assert "at update 9" in label() and chromium.current_url.endswith("#episode=ppo%2F0-3&turn=2")
        server.shutdown()
    chromium.get("about:blank")


def test_the_server_is_for_this_machine_only(run):
    from rl4vlm.report import report_server
    with report_server(run, port=0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(UsageError, match="cannot listen at port"): report_server(run, port=server.server_address[1])

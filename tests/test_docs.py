"The page checker finds what it is there to find."
import importlib.util
from pathlib import Path
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("docs_check", ROOT/"scripts"/"docs_check.py")
docs = importlib.util.module_from_spec(spec); spec.loader.exec_module(docs)


def page(*cells, front="title: A\ndescription: B\noutput-file: a.html"):
    made = [dict(cell_type="raw", source=f"---\n{front}\n---")]
    for cell in cells:
        made.append(dict(cell_type="markdown", source=cell) if isinstance(cell, str)
                    else dict(cell_type="code", **cell))
    return dict(cells=made)


def links(tmp_path, text, **others):
    "Problems of the links in a text that stands in sub/a.ipynb, beside other pages."
    (tmp_path/"sub").mkdir(exist_ok=True); (tmp_path/"sub"/"a.ipynb").touch(); (tmp_path/"image.png").touch()
    pages = {Path("sub/a.ipynb"): page(text), Path("b.ipynb"): page("## A heading, *here*\n\n### name {#Thing.name}")}
    (tmp_path/"b.ipynb").touch()
    site = dict(home="https://site/base", files="https://git/repo/blob/main/",
                pages={Path("bee.html"): Path("b.ipynb")})
    return list(docs.check_links(Path("sub/a.ipynb"), pages[Path("sub/a.ipynb")], pages, tmp_path, site))


@pytest.mark.parametrize("text",
                         ["[b](../b.ipynb)", "[b](../b.ipynb#a-heading-here)", "![p](../image.png)",
                          "[x](https://elsewhere.example/y)", "[`Thing`](https://site/base/bee.html#thing.name)",
                          "`rl4vlm.statistics.wilson`", "`rl4vlm.core`", "[r](https://git/repo/blob/main/README.md)",
                          "```\n[not](a-link)\n```", "`rl4vlm.config.LossConfig.clip`"])
def test_good_links_pass(tmp_path, text): assert links(tmp_path, text) == []


@pytest.mark.parametrize(
    "text", ["[b](../c.ipynb)", "[b](../b.ipynb#nowhere)", "![p](image.png)",
             "[`Thing`](https://site/base/bee.html#thing.other)", "[`Thing`](https://site/base/cee.html)",
             "`rl4vlm.statistics.wilsom`", "`rl4vlm.evaluate.wilson`", "`rl4vlm.corr`",
             "[r](https://git/repo/blob/main/READMI.md)", "[out](../../../etc/passwd)", '<img src="x.png">'])
def test_bad_links_are_found(tmp_path, text): assert len(links(tmp_path, text)) == 1


@pytest.mark.parametrize("broken, says", [
    (page(front="title: A"), "no description"),
    (page(front="description: B"), "no title"),
    (page(dict(source="1/0", outputs=[dict(output_type="error", ename="ZeroDivisionError", evalue="")])),
     "shows an error"),
    (page(dict(source="print(x)", outputs=[dict(output_type="stream", text=["/tmp/abc/x"])])), "path of one machine"),
    (page(dict(source="fig, ax = plt.subplots()\nax.plot(x)", outputs=[])), "shows no figure"),
    (page(dict(source="learning_curves(rows)", outputs=[dict(output_type="display_data", data={"image/png": ""})])),
     "shows no figure"),
])
def test_bad_pages_are_found(broken, says):
    [problem] = docs.check_page("a.ipynb", broken)
    assert says in problem
    figure = dict(output_type="display_data", data={"image/png": "x" * 300})
    assert not list(docs.check_page("a.ipynb", page(dict(source="fig, ax = plt.subplots()", outputs=[figure]))))


def test_sidebar_is_held_against_the_pages():
    pages = [p.relative_to(ROOT/"nbs") for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    assert list(docs.check_sidebar(pages)) == []
    assert any("new.ipynb is not in the sidebar" in problem
               for problem in docs.check_sidebar([*pages, Path("new.ipynb")]))


def test_parameters_without_a_word_are_found(monkeypatch):
    import rl4vlm.core
    def wanting(first, second): "Only first is named."
    monkeypatch.setattr(rl4vlm.core, "wanting", wanting, raising=False)
    monkeypatch.setattr(rl4vlm.core, "__all__", ["wanting"])
    problems = [p for p in docs.check_names() if "wanting" in p]
    assert problems == ["rl4vlm.core.wanting: parameter second is not documented"]


def test_workflows_are_pinned_and_call_what_is_there():
    for path in (ROOT/".github"/"workflows").glob("*.yml"):
        steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
        assert all("@v" in step["uses"] for step in steps if "uses" in step)
        for word in (w for step in steps for w in step.get("run", "").split() if w.startswith(("./", "scripts/"))):
            assert (ROOT/word).exists(), word
        for step in steps:
            if "quarto" in step.get("uses", ""): assert step["with"]["version"].count(".") == 2
    assert '"nbdev==' in (ROOT/"pyproject.toml").read_text()


def notebook(*cells):
    return dict(cells=[dict(cell_type="markdown", source=c) if isinstance(c, str) else dict(cell_type="code", **c)
                       for c in cells])


FIRST = "# A\n\n> B"
FIGURE, TABLE = (dict(output_type="display_data", data={"image/png": "image"}),
                 dict(output_type="display_data", data={"text/html": "<td>12</td>"}))


@pytest.mark.parametrize("text, says", [
    ("# A\n\n> B\n\nAll that nbdev takes away.", "more or less than"),
    ("# A\n\n> B\n> and the second line", "more or less than"),
    ("# A", "more or less than"),
    ("# Other\n\n> B", "title is lost"),
    ("# A\n\n> Other", "description is lost"),
])
def test_first_cell_holds_title_and_description_alone(text, says):
    assert any(says in p for p in docs.check_first("a.ipynb", notebook(text), page()))
    assert not list(docs.check_first("a.ipynb", notebook(FIRST), page()))


@pytest.mark.parametrize("made, says", [
    (page("One.", dict(source="f()", outputs=[FIGURE, TABLE])), "text is lost, 'Two"),
    (page("One.\n\nTwo.", dict(source="f()", outputs=[TABLE])), "a figure is lost"),
    (page("One.\n\nTwo.", dict(source="f()", outputs=[FIGURE])), "output is lost"),
    (page("One.\n\nTwo.", dict(source="", outputs=[FIGURE, TABLE])), "code is lost"),
    (page("Two.\n\nOne.", dict(source="f()", outputs=[FIGURE, TABLE])), "text is lost"),
])
def test_what_a_page_lost_is_found(made, says):
    whole = notebook(FIRST, "One.\n\nTwo.", dict(source="f()", outputs=[FIGURE, TABLE]))
    assert any(says in p for p in docs.check_nothing_lost("a.ipynb", whole, made))
    linked = page("One.\n\n[`Two`](https://site/x.html#two).", dict(source="f()", outputs=[FIGURE, TABLE]))
    assert not list(docs.check_nothing_lost("a.ipynb", whole, linked))


def test_output_of_an_exported_cell_is_missed():
    [problem] = docs.check_nothing_lost(
        "a.ipynb", notebook(FIRST, dict(source="#| export\nf()", outputs=[dict(output_type="stream", text="said")])),
        page())
    assert "output is lost" in problem


def test_exported_code_stays_on_its_page():
    book = notebook(FIRST, dict(source="#| export\ndef f(): return 1"))
    assert not list(docs.check_sources("a.ipynb", book, page(dict(source="#| code-fold: true\ndef f(): return 1"))))
    assert [p for p in docs.check_sources("a.ipynb", book, page(dict(source="show_doc(f)")))
            if "def f(): return 1" in p]


def test_figures_have_a_text_and_pages_one_title():
    assert list(docs.check_alt("a", notebook(dict(source="draw()", outputs=[FIGURE]))))
    assert list(docs.check_alt("a", notebook("![](x.png)")))
    assert list(docs.check_alt("a", notebook('<img src="x.png">')))
    assert not list(
        docs.check_alt("a", notebook(dict(source='#| fig-alt: "A line"\ndraw()', outputs=[FIGURE]), "![a](x.png)")))
    assert list(docs.check_headings("a", notebook("# Another")))
    assert not list(docs.check_headings("a", notebook("## Below\n\n```\n# a comment\n```")))


def test_a_name_is_a_link_where_it_means_one_thing():
    site = docs.script("site")
    found = {"Task": {"m"}, "seconds": {"m"}, "gae": {"m"}, "Twice": {"m", "n"}, "make_task": {"m"},
             "__getattr__": {"m"}}
    for name, called, linked in [("Task", False, True), ("make_task", False, True), ("seconds", False, False),
                                 ("gae", False, False), ("gae", True, True), ("Twice", False, False),
                                 ("rl4vlm.m.Twice", False, True), ("__getattr__", False, False)]:
        assert site.means(name, called, found) is linked, name
    class Lookup:
        entries = {"rl4vlm": {"syms": {"m": {"m.Task": 0, "m.seconds": 0}}}}
        def _link_sym(self, m): return f"[`{m[1]}`](there)"
    assert (site.link_names(Lookup(), "`Task`, `seconds`, [`Task`](own.ipynb)")
            == "[`Task`](there), `seconds`, [`Task`](own.ipynb)")
    home = "https://site/base"
    def problems(text):
        return list(docs.check_doclinks("a", notebook(text), home,
                                        lambda name, called: site.means(name, called, found)))
    assert problems(f"[`seconds`]({home}/x.html#seconds)")
    assert problems(f"[[`Task`]({home}/x.html#task)](own.ipynb)") and not problems(f"[`Task`]({home}/x.html#task)")


@pytest.mark.parametrize("markup, says", [
    ("<p>One.</p>", "lost 'Two"), ('<p>One. Two.</p><img src="x.png">', "without a text"),
    ("<p>One. Two.</p><script src='https://cdn.example/x.js'></script>", "fetches"),
    ('<p>One. Two.</p><a href="b.html">b</a>', "leads nowhere"),
    ('<p>One. Two.</p><a href="#c">c</a>', "no place"), ("", "lost"),
    ('<p>One. Two.</p><link rel="stylesheet" href="s.css">', "s.css: fetches"),
])
def test_rendered_pages_are_looked_at(tmp_path, markup, says):
    pages = {Path("a.ipynb"): page("One.\n\nTwo, `<tag>` and $x^2$.")}
    if "s.css" in markup: (tmp_path/"s.css").write_text('@import url("https://fonts.example/css?family=X");')
    (tmp_path/"a.html").write_text(
        f"<h1>A</h1><p>B</p>{markup.replace('Two.', 'Two, <code>&lt;tag&gt;</code> and <math></math>.')}")
    assert any(says in p for p in docs.check_html(tmp_path, pages)), list(docs.check_html(tmp_path, pages))
    (tmp_path/"s.css").unlink(missing_ok=True)
    (tmp_path/"a.html").write_text('<h1>A</h1><p>B</p><p>One.</p><p id="c">Two, <code>&lt;tag&gt;</code> and '
                                   '<math></math>.</p><a href="#c">c</a><img src="x" alt="x">')
    assert not list(docs.check_html(tmp_path, pages))
    (tmp_path/"a.html").unlink()
    assert any("was not rendered" in p for p in docs.check_html(tmp_path, pages))


def test_workflows_run_here_as_far_as_they_can():
    flows = docs.script("workflows")
    read = {p.stem: yaml.safe_load(p.read_text()) for p in (ROOT/".github"/"workflows").glob("*.yml")}
    steps = {name: list(flows.plan(flow)) for name, flow in read.items()}
    assert [c for _, c, why in steps["docs"] if not why][0] == "python scripts/docs_check.py"
    assert any(c == "./.ci/run --quick" and not why for _, c, why in steps["test"])
    docs_flow = read["docs"]
    assert "pull_request" in docs_flow[True]
    assert docs_flow["permissions"] == {"contents": "read"} and "permissions" not in docs_flow["jobs"]["build"]
    publish = docs_flow["jobs"]["publish"]
    assert "github.repository == 'rl4vlm/rl4vlm'" in publish["if"]
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    with pytest.raises(SystemExit, match="not known"): flows.filled("${{ secrets.X }}", {})


def test_types_that_only_type_checkers_import_are_shown_as_words():
    def later(x: "Nowhere" = 1): pass                      # noqa: F821
    assert str(docs.script("site").signature(later)) == "(x: 'Nowhere' = 1)"


NOTEBOOKS = docs.pages_of(ROOT/"nbs")
TERMS = """observation, frame; image; prompt; response, answer; cut; turn; terminated, truncated; episode; trajectory;
rollout; update; on-policy; policy; reference policy; log-prob; ratio; clip range; advantage; return; return-to-go;
value, critic; GAE; credit assignment; standard deviation; top-k, top-p; prefill; decode; KV cache; static cache;
quantization; staleness; importance sampling; dry run; panel; oracle; agreement""".replace("\n", " ").split("; ")


def test_the_glossary_has_the_field_s_terms_and_says_where_they_are_defined():
    page = NOTEBOOKS[Path("glossary.ipynb")]
    assert set(TERMS) <= set(docs.glossary(page)), set(TERMS) - set(docs.glossary(page))
    assert list(docs.check_glossary("glossary", page, NOTEBOOKS)) == []
    def problems(row):
        return list(docs.check_glossary(
            "g", notebook(FIRST, "| term | symbol | meaning | defined in |\n|---|---|---|---|\n" + row), NOTEBOOKS))
    assert problems("| turn |  | One step. | `rl4vlm.types.Tern` |")
    assert problems("| turn |  | One step. | [x](nowhere.ipynb) |")
    assert problems("| turn |  |  | `rl4vlm.types.Turn` |") and problems("| turn |  | One step. | there |")
    assert not problems("| turn |  | One step. | `rl4vlm.types.Turn`, [Types](04_types.ipynb) |")


@pytest.mark.parametrize("name", sorted(NOTEBOOKS), ids=str)
def test_words_that_the_glossary_replaced_are_gone(name): assert list(docs.check_words(name, NOTEBOOKS[name])) == []


@pytest.mark.parametrize("text", ["## Fewer bits", "Five ways to judge a turn", "each seat", "the returns' deviation",
                                  "a cache of [fixed shape](x.ipynb)", "every so manieth episode", "The picture shows"])
def test_old_words_are_found(text):
    assert len(list(docs.check_words("a", notebook(FIRST, text)))) == 1
    assert not list(docs.check_words("a", notebook(FIRST, "Their standard deviation; `picture`, "
                                                          "a judge rates it.\n```\na picture\n```")))

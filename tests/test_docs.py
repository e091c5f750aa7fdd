"The page checker finds what it is there to find."
import importlib.util, json
from pathlib import Path
import pytest, yaml

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("docs_check", ROOT/"scripts"/"docs_check.py")
docs = importlib.util.module_from_spec(spec); spec.loader.exec_module(docs)


def page(*cells, front="title: A\ndescription: B\noutput-file: a.html"):
    made = [dict(cell_type="raw", source=f"---\n{front}\n---")]
    for cell in cells: made.append(dict(cell_type="markdown", source=cell) if isinstance(cell, str) else dict(cell_type="code", **cell))
    return dict(cells=made)


def links(tmp_path, text, **others):
    "Problems of the links in a text that stands in sub/a.ipynb, beside other pages."
    (tmp_path/"sub").mkdir(exist_ok=True); (tmp_path/"sub"/"a.ipynb").touch(); (tmp_path/"picture.png").touch()
    pages = {Path("sub/a.ipynb"): page(text), Path("b.ipynb"): page("## A heading, *here*\n\n### name {#Thing.name}")}
    (tmp_path/"b.ipynb").touch()
    site = dict(home="https://site/base", files="https://git/repo/blob/main/", pages={Path("bee.html"): Path("b.ipynb")})
    return list(docs.check_links(Path("sub/a.ipynb"), pages[Path("sub/a.ipynb")], pages, tmp_path, site))


@pytest.mark.parametrize("text", ["[b](../b.ipynb)", "[b](../b.ipynb#a-heading-here)", "![p](../picture.png)", "[x](https://elsewhere.example/y)", "[`Thing`](https://site/base/bee.html#thing.name)",
                                  "`rl4vlm.evaluate.wilson`", "`rl4vlm.core`", "[r](https://git/repo/blob/main/README.md)", "```\n[not](a-link)\n```", "`rl4vlm.config.PPOConfig.clip`"])
def test_good_links_pass(tmp_path, text): assert links(tmp_path, text) == []


@pytest.mark.parametrize("text", ["[b](../c.ipynb)", "[b](../b.ipynb#nowhere)", "![p](picture.png)", "[`Thing`](https://site/base/bee.html#thing.other)", "[`Thing`](https://site/base/cee.html)",
                                  "`rl4vlm.evaluate.wilsom`", "`rl4vlm.corr`", "[r](https://git/repo/blob/main/READMI.md)", "[out](../../../etc/passwd)", '<img src="x.png">'])
def test_bad_links_are_found(tmp_path, text): assert len(links(tmp_path, text)) == 1


@pytest.mark.parametrize("broken, says", [
    (page(front="title: A"), "no description"),
    (page(front="description: B"), "no title"),
    (page(dict(source="1/0", outputs=[dict(output_type="error", ename="ZeroDivisionError", evalue="")])), "shows an error"),
    (page(dict(source="print(x)", outputs=[dict(output_type="stream", text=["/tmp/abc/x"])])), "path of one machine"),
    (page(dict(source="fig, ax = plt.subplots()\nax.plot(x)", outputs=[])), "shows no figure"),
    (page(dict(source="learning_curves(rows)", outputs=[dict(output_type="display_data", data={"image/png": ""})])), "shows no figure"),
])
def test_bad_pages_are_found(broken, says):
    [problem] = docs.check_page("a.ipynb", broken)
    assert says in problem
    assert not list(docs.check_page("a.ipynb", page(dict(source="fig, ax = plt.subplots()", outputs=[dict(output_type="display_data", data={"image/png": "x" * 300})]))))


def test_sidebar_is_held_against_the_pages():
    pages = [p.relative_to(ROOT/"nbs") for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    assert list(docs.check_sidebar(pages)) == []
    assert any("new.ipynb is not in the sidebar" in problem for problem in docs.check_sidebar([*pages, Path("new.ipynb")]))


def test_parameters_without_a_word_are_found(monkeypatch):
    import rl4vlm.core
    def wanting(first, second): "Only first is named."
    monkeypatch.setattr(rl4vlm.core, "wanting", wanting, raising=False); monkeypatch.setattr(rl4vlm.core, "__all__", ["wanting"])
    assert [p for p in docs.check_names() if "wanting" in p] == ["rl4vlm.core.wanting: parameter second is not documented"]


def test_workflows_are_pinned_and_call_what_is_there():
    for path in (ROOT/".github"/"workflows").glob("*.yml"):
        steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
        assert all("@v" in step["uses"] for step in steps if "uses" in step)
        for word in (w for step in steps for w in step.get("run", "").split() if w.startswith(("./", "scripts/"))): assert (ROOT/word).exists(), word
        for step in steps:
            if "quarto" in step.get("uses", ""): assert step["with"]["version"].count(".") == 2
    assert '"nbdev==' in (ROOT/"pyproject.toml").read_text()

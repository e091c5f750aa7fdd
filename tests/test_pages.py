"""Pages that are made from the code say what the code says: each generating cell is run again and held against its
saved output."""
import ast
import importlib.util
import json
import os
import re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/"nbs"
GENERATED = [*sorted((NBS/"reference").glob("*.ipynb")), *sorted((NBS/"tasks").glob("*.ipynb")),
             *(NBS/name for name in ("index.ipynb", "install.ipynb", "tutorials/first_result.ipynb",
                                     "explanations/tasks.ipynb", "explanations/results.ipynb"))]


def source(cell): return "".join(cell["source"])


def saved(cell):
    "The Markdown that a cell shows."
    return ["".join(o["data"]["text/markdown"]) for o in cell.get("outputs", [])
            if "text/markdown" in o.get("data", {})]


def run(path):
    "Pairs of saved and new Markdown of a notebook's cells; cells that are never run by themselves are left out."
    names, pairs, here = {}, [], os.getcwd()
    os.chdir(path.parent)
    try:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] != "code" or "#| eval: false" in source(cell): continue
            *body, last = ast.parse("\n".join(line for line in source(cell).splitlines()
                                              if not line.startswith("%"))).body or [ast.Pass()]
            exec(compile(ast.Module(body, []), str(path), "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), str(path), "eval"), names)
                if type(value).__name__ == "Markdown": pairs.append((saved(cell), [value.data]))
            else: exec(compile(ast.Module([last], []), str(path), "exec"), names)
    finally: os.chdir(here)
    return pairs


@pytest.mark.parametrize("path", GENERATED, ids=lambda p: str(p.relative_to(NBS)))
def test_page_is_what_the_code_says(path):
    if "alfworld" in path.name and not importlib.util.find_spec("alfworld"): pytest.skip("needs the extra alfworld")
    pairs = run(path)
    assert pairs, "no cell of this page shows generated text"
    for old, new in pairs:
        assert old == new, f"{path.name} is not what the code says; run it again (exec_nb) and nbdev_clean"


def test_every_task_has_a_page():
    from importlib.metadata import entry_points
    # not what other tests have registered
    ours = [e.name for e in entry_points(group="rl4vlm.tasks") if e.value.startswith("rl4vlm.")]
    pages = {p.stem: source(json.loads(p.read_text())["cells"][0]).splitlines()[0]
             for p in (NBS/"tasks").glob("*.ipynb")}
    assert sorted(title.removeprefix("# ") for title in pages.values()) == sorted(ours)


def test_a_changed_option_is_seen(monkeypatch):
    "The page of options follows the dataclass, so the comparison above fails when one changes."
    import rl4vlm.reference as reference
    from rl4vlm.reference import options_page
    before, original = options_page(), reference.build_parser
    def changed(command):
        parser = original(command)
        for action in parser._actions:
            if action.dest.split(".")[-1] == "clip": action.help = "Another sentence."
        return parser
    monkeypatch.setattr(reference, "build_parser", changed)
    assert options_page() != before and "Another sentence." in options_page()


def recorded(name):
    return {r["name"]: r for r in json.loads((NBS/"recordings"/name/"results.json").read_text())["rows"]}


def test_numbers_on_several_pages_are_the_recorded_ones():
    "The quickstart's table on its own page, in RESULTS.md and in the table of algorithms."
    from rl4vlm.reference import short_table
    rows = json.loads((NBS/"recordings"/"quickstart_0"/"results.json").read_text())["rows"]
    page = json.loads((NBS/"tutorials"/"quickstart.ipynb").read_text())["cells"]
    assert short_table(rows, dict(target_reached="target reached")) in [text for cell in page for text in saved(cell)]
    results = (ROOT/"RESULTS.md").read_text()
    algorithms = json.loads((NBS/"tutorials"/"algorithms.ipynb").read_text())
    compared = [text for cell in algorithms["cells"] for text in saved(cell)]
    opens = dict(random="| random", sft="| the imitators", ppo="| PPO")
    for seed in (0, 1, 2):
        for who in ("random", "sft", "ppo"):
            r = recorded(f"quickstart_{seed}")[who]
            share = f"{100 * r['success']:.1f} % ({100 * r['low']:.1f} – {100 * r['high']:.1f})"
            assert share in next(line for line in results.splitlines() if line.startswith(f"| {seed} |")), (seed, who)
            line = next(line for line in compared[0].splitlines() if line.startswith(opens[who]))
            assert share == line.split(" | ")[1 + seed].strip(" |"), (seed, who)


def cells_of(path): return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def draws(code):
    "Whether drawing is what a cell is mostly about."
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#|")]
    return ("plt.subplots(" in code and sum(bool(re.search(r"\b(ax|axes|fig|plt)\b", line)) for line in lines)
            >= 0.3 * len(lines))


def unfolded(cells):
    "Cells that draw and stand open."
    return [source(c) for c in cells if draws(source(c))
            and not re.search(r"#\| *(export|exports|exporti|hide|echo: false|code-fold)", source(c))]


def names_from_hidden(cells):
    "Names that shown code uses and only a hidden import brings."
    hidden, shown, missing = set(), set(), set()
    for cell in cells:
        code = source(cell)
        try: tree = ast.parse("\n".join("" if line.startswith(("!", "%")) else line for line in code.splitlines()))
        except SyntaxError: continue
        brought = {(a.asname or a.name).split(".")[0] for node in ast.walk(tree)
                   if isinstance(node, (ast.Import, ast.ImportFrom)) for a in node.names}
        if "*" in brought: brought |= {"test_eq", "test_fail", "test_close"}
        if code.startswith("#| hide") or "#| echo: false" in code: hidden |= brought; continue
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        shown |= brought | {node.id for node in ast.walk(tree)
                            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        missing |= used & hidden - shown
    return missing


def test_code_can_be_copied():
    "Imports that a page's code needs are visible, if folded, and what only draws is folded."
    for path in NBS.rglob("*.ipynb"):
        if ".ipynb_checkpoints" in path.parts: continue
        cells = cells_of(path)
        hidden, open_ = names_from_hidden(cells), unfolded(cells)
        assert not hidden and not open_, (path.name, hidden, open_[:1])


def test_hidden_imports_and_open_plots_are_found():
    cell = lambda text: dict(cell_type="code", source=text)
    assert names_from_hidden([cell("#| hide\nimport json"), cell("json.loads(x)")]) == {"json"}
    assert not names_from_hidden([cell("#| code-fold: true\nimport json"), cell("json.loads(x)")])
    assert unfolded([cell("fig, ax = plt.subplots()\nax.plot(x)")])
    assert not unfolded([cell("#| code-fold: true\nfig, ax = plt.subplots()\nax.plot(x)")])


def test_every_tutorial_leads_on():
    for path in (NBS/"tutorials").glob("*.ipynb"):
        last = [source(c) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"][-1]
        assert re.search(r"\]\((?!http)[^)]*\.ipynb", last), f"{path.name} ends without a link to another page"


def test_front_page_says_what_is_true():
    import tomllib
    project, readme = tomllib.loads((ROOT/"pyproject.toml").read_text())["project"], (ROOT/"README.md").read_text()
    for name in re.findall(r"actions/workflows/(\w+\.yml)", readme):
        assert (ROOT/".github"/"workflows"/name).exists(), name
    assert "git clone " in readme and readme.index("git clone ") < readme.index("./scripts/quickstart")
    assert project["requires-python"] == ">=3.11,<3.13"
    assert "Python 3.11 and 3.12" in readme and project["license"]["text"] in readme
    assert project["urls"]["Documentation"] in readme and project["urls"]["Repository"] in readme
    assert readme.index("## Start here") < readme.index("| notebooks | section | modules |")


def test_colab_links_open_the_page_they_stand_on():
    found = 0
    for path in (NBS/"tutorials").glob("*.ipynb"):
        for owner, page in re.findall(r"colab\.research\.google\.com/github/([\w/]+)/blob/main/([\w/.]+)",
                                      path.read_text()):
            found += 1
            assert (owner, ROOT/page) == ("rl4vlm/rl4vlm", path)
            assert any("pip" in source(c) and "find_spec" in source(c) for c in cells_of(path))
    assert found


def test_nobody_is_sent_to_a_package_index_without_a_release():
    "Texts and messages install extras from the clone or the repository."
    for path in [*(ROOT/"rl4vlm").rglob("*.py"), *NBS.rglob("*.ipynb"), ROOT/"README.md", ROOT/"CHANGELOG.md"]:
        for found in re.findall(r"pip install [\\\"']*rl4vlm(?:\[[^\]]*\])?[^\n`]{0,20}", path.read_text()):
            assert "@ git+" in found, (path.name, found)


def test_the_environment_of_the_front_page_works_and_its_numbers_are_recorded():
    import json
    import re
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.tasks import make_task
    text = (ROOT/"README.md").read_text()
    exec(re.search(r"```python\n# my_tasks.py\n(.*?)```", text, re.S)[1], {"__name__": "front_page"})
    task = make_task("FrozenLake")
    assert all(e.success and len(e) == 6 for e in play(task, OracleActor(task), range(3)))
    rows = {r["name"]: r for r in json.loads((NBS/"recordings"/"own_task"/"results.json").read_text())["rows"]}
    for who in ("sft", "ppo"): assert f"{100 * rows[who]['success']:.1f} % after" in text

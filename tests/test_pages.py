"""Pages that are made from the code say what the code says: each generating cell is run again and held against its saved output."""
import ast, importlib.util, json, os, re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/"nbs"
GENERATED = [*sorted((NBS/"reference").glob("*.ipynb")), *sorted((NBS/"tasks").glob("*.ipynb")),
             *(NBS/name for name in ("index.ipynb", "install.ipynb", "tutorials/first_result.ipynb", "explanations/tasks.ipynb", "explanations/results.ipynb"))]


def source(cell): return "".join(cell["source"])


def saved(cell):
    "The Markdown that a cell shows."
    return ["".join(o["data"]["text/markdown"]) for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})]


def run(path):
    "Pairs of saved and new Markdown of a notebook's cells; cells that are never run by themselves are left out."
    names, pairs, here = {}, [], os.getcwd()
    os.chdir(path.parent)
    try:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] != "code" or "#| eval: false" in source(cell): continue
            *body, last = ast.parse("\n".join(line for line in source(cell).splitlines() if not line.startswith("%"))).body or [ast.Pass()]
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
    for old, new in pairs: assert old == new, f"{path.name} is not what the code says; run it again (exec_nb) and nbdev_clean"


def test_every_task_has_a_page():
    from rl4vlm.tasks import list_tasks
    pages = {p.stem: source(json.loads(p.read_text())["cells"][0]).splitlines()[0] for p in (NBS/"tasks").glob("*.ipynb")}
    assert sorted(title.removeprefix("# ") for title in pages.values()) == sorted(name for name in list_tasks() if not name.startswith("_"))


def test_a_changed_option_is_seen(monkeypatch):
    "The page of options follows the dataclass, so the comparison above fails when one changes."
    from rl4vlm.reference import options_page
    import rl4vlm.reference as reference
    before, original = options_page(), reference.build_parser
    def changed(command):
        parser = original(command)
        for action in parser._actions:
            if action.dest == "clip": action.help = "Another sentence."
        return parser
    monkeypatch.setattr(reference, "build_parser", changed)
    assert options_page() != before and "Another sentence." in options_page()


def recorded(name): return {r["name"]: r for r in json.loads((NBS/"recordings"/name/"results.json").read_text())["rows"]}


def test_numbers_on_several_pages_are_the_recorded_ones():
    "The quickstart's table on its own page, in RESULTS.md and in the table of algorithms."
    from rl4vlm.evaluate import as_markdown
    rows = json.loads((NBS/"recordings"/"quickstart_0"/"results.json").read_text())["rows"]
    page = json.loads((NBS/"tutorials"/"quickstart.ipynb").read_text())["cells"]
    assert as_markdown(rows) in [text for cell in page for text in saved(cell)]
    results, compared = (ROOT/"RESULTS.md").read_text(), [text for cell in json.loads((NBS/"tutorials"/"algorithms.ipynb").read_text())["cells"] for text in saved(cell)]
    for seed in (0, 1, 2):
        for who in ("random", "sft", "ppo"):
            r = recorded(f"quickstart_{seed}")[who]
            share = f"{100 * r['success']:.1f} % ({100 * r['low']:.1f} – {100 * r['high']:.1f})"
            assert share in next(line for line in results.splitlines() if line.startswith(f"| {seed} |")), (seed, who)
            assert share == next(line for line in compared[0].splitlines() if line.startswith(dict(random="| random", sft="| the imitators", ppo="| PPO")[who])).split(" | ")[1 + seed].strip(" |"), (seed, who)

"The rules of the house: floors, documentation, the README, no machine paths."
import ast
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent


def rooms():
    "{module name: floor} from the notebooks' numbers."
    found = {}
    for path in sorted((ROOT/"nbs").glob("[0-9][0-9]_*.ipynb")):
        match = re.search(r"#\|\s*default_exp\s+(\S+)",
                          "".join("".join(c["source"]) + "\n" for c in json.loads(path.read_text())["cells"]))
        if match: found[match[1]] = int(path.name[:2])
    return found


def imports(module):
    "Modules of this package that a module imports, anywhere in its code."
    tree = ast.parse((ROOT/"rl4vlm"/(module.replace(".", "/") + ".py")).read_text())
    depth = module.count(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("rl4vlm.") for a in node.names if a.name.startswith("rl4vlm."))
        if isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if name.startswith("rl4vlm."): yield name.removeprefix("rl4vlm.")
            elif node.level: yield ".".join(module.split(".")[:depth + 1 - node.level] + [name]).strip(".")


def test_every_module_has_a_room():
    files = {str(p.relative_to(ROOT/"rl4vlm").with_suffix("")).replace("/", ".") for p in (ROOT/"rl4vlm").rglob("*.py")}
    assert {f for f in files if not f.endswith(("__init__", "_modidx"))} == set(rooms()) - {"__init__"}


@pytest.mark.parametrize("module", [m for m in rooms() if m != "__init__"])
def test_imports_come_from_lower_floors(module):
    floors = rooms()
    for other in imports(module):
        if other in floors:
            where = f"{module} (floor {floors[module]}) imports {other} (floor {floors[other]})"
            assert floors[other] < floors[module], where


def test_the_tens_digit_is_the_section_of_the_sidebar():
    sidebar, section = {}, None
    for line in (ROOT/"_quarto.yml").read_text().splitlines():
        if match := re.match(r"\s+- section: (\S+)", line): section = match[1]
        for name in re.findall(r"\b\d\d_\w+\.ipynb", line): sidebar[name] = section
    assert sidebar == {p.name: f"{p.name[0]}x" for p in (ROOT/"nbs").glob("[0-9][0-9]_*.ipynb")}


@pytest.mark.parametrize("module", [m for m in rooms() if m != "__init__"])
def test_public_names_are_documented(module):
    loaded = importlib.import_module(f"rl4vlm.{module}")
    for name in loaded.__all__:
        value = getattr(loaded, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            said = (value.__doc__ or "").strip()
            assert said and not said.startswith(f"{name}("), f"rl4vlm.{module}.{name} has no docstring"


def test_readme_is_the_index():
    done = subprocess.run([sys.executable, ROOT/"scripts"/"readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_lint():
    "Nothing is unused or undefined, imports are in order and lines short in the package, the tests and the scripts."
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "rl4vlm", "tests", "scripts"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_types():
    "pyright, with its settings in pyproject.toml, finds nothing in the package."
    if not shutil.which("pyright"):
        pytest.skip("pyright is not installed: pip install pyright (it needs node, or pip install 'pyright[nodejs]')")
    done = subprocess.run(["pyright", "--pythonpath", sys.executable], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


def test_changes_have_a_place():
    assert re.match(r"# Changelog\n\n## Unreleased\n", (ROOT/"CHANGELOG.md").read_text())


def test_faults_are_told_file_by_file():
    told = (ROOT/"tests"/"faults"/"README.md").read_text()
    untold = [p.name for p in (ROOT/"tests"/"faults").glob("*.py") if f"`{p.name}`" not in told]
    assert not untold, f"tests/faults/README.md does not name {', '.join(untold)}"


def test_config_and_import_are_light():
    code = ("import rl4vlm.cli, rl4vlm.config, sys; print([m for m in ('torch', 'transformers', 'datasets', "
            "'jsonargparse') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_notebooks_open_with_title_and_subtitle_and_show_no_errors():
    for path in (ROOT/"nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in path.parts or "_proc" in path.parts: continue
        cells = json.loads(path.read_text())["cells"]
        first = "".join(cells[0]["source"])
        assert first.startswith("# ") and "\n> " in first, f"{path.name} must open with a title and a subtitle"
        assert not [o for c in cells for o in c.get("outputs", [])
                    if o.get("output_type") == "error"], f"{path.name} shows an error output"


def is_import(statement):
    "Whether a statement imports, also where only a type checker does."
    return (isinstance(statement, (ast.Import, ast.ImportFrom))
            or isinstance(statement, ast.If) and all(map(is_import, statement.body)))


def silent_runs(path, at_least=3):
    ("The runs of exported code cells of a notebook that pass without a cell with an output or a test between "
     "them, as lists of cell ids.")
    runs, run = [], []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] != "code": continue
        source = "".join(cell["source"])
        if re.search(r"^#\|\s*export", source, re.M):
            try: statements = ast.parse(source).body
            except SyntaxError: statements = [None]
            if not all(map(is_import, statements)): run.append(cell["id"])
        shown = cell.get("outputs") or (not re.search(r"^#\|\s*export", source, re.M)
                                        and re.search(r"\bassert\b|\btest_\w+\(", source))
        if shown: runs.append(run); run = []
    return [r for r in runs + [run] if len(r) >= at_least]


ROOMS = sorted(p.stem for p in (ROOT/"nbs").glob("[0-9][0-9]_*.ipynb"))
PAIRS = {"01_config_parts", "22_static_cache", "04_types", "05_store", "11_arithmetic", "13_env_pool",
         "16_pick_image", "17_alfworld_view", "19_alfworld_thor", "19_openenv", "20_logprobs",
         "21_policy", "22_generate", "23_rollout", "25_evaluate", "30_distributed", "31_tracking", "33_tiny",
         "34_advantages", "35_batch", "35_losses", "36_ppo", "40_labellers", "41_filters",
         "42_conversations", "43_preprocess", "50_progress", "50_runs", "51_report", "54_pipeline", "55_doctor",
         "57_reference"}   # two exported cells may follow each other


@pytest.mark.parametrize("name", ROOMS)
def test_code_is_shown_at_work_when_it_is_introduced(name):
    "No three exported cells in a row (in most rooms no two) without an output or a test."
    runs = silent_runs(ROOT/"nbs"/f"{name}.ipynb", 3 if name in PAIRS else 2)
    assert not runs, (f"{name}.ipynb: exported cells that follow each other without an output or a test: {runs}; "
                      "show each step when it is introduced")


def test_the_list_of_rooms_with_pairs_is_true():
    pairs = {name for name in ROOMS if silent_runs(ROOT/"nbs"/f"{name}.ipynb", 2)}
    assert PAIRS == pairs, f"take out of the list of rooms with pairs: {PAIRS - pairs}; add to it: {pairs - PAIRS}"


@pytest.mark.parametrize("name", ROOMS)
def test_exported_cells_are_short(name):
    cells = json.loads((ROOT/"nbs"/f"{name}.ipynb").read_text())["cells"]
    code = {c["id"]: "".join(c["source"]) for c in cells if c["cell_type"] == "code"}
    long = {id: source.count("\n") + 1 for id, source in code.items()
            if re.search(r"^#\|\s*export", source, re.M) and source.count("\n") >= 60}
    assert not long, f"{name}.ipynb: exported cells of more than 60 lines: {long}"


@pytest.mark.parametrize("name", ROOMS)
def test_lines_of_code_are_short(name):
    "At most 120 characters; a formula may be longer where it says so by `# noqa: E501`."
    cells = json.loads((ROOT/"nbs"/f"{name}.ipynb").read_text())["cells"]
    code = "\n".join("".join(c["source"]) for c in cells
                     if c["cell_type"] == "code" and re.search(r"^#\|\s*export", "".join(c["source"]), re.M))
    wide = [line.strip() for line in code.splitlines() if len(line) > 120 and not line.endswith("# noqa: E501")]
    assert not wide, f"{name}.ipynb: lines of more than 120 characters: {wide}"


def functions(tree):
    "The functions and methods of a module; what is defined inside a function is its own business."
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): yield node
        elif isinstance(node, (ast.ClassDef, ast.If, ast.Try, ast.With)): todo += ast.iter_child_nodes(node)


@pytest.mark.parametrize("module", [m for m in rooms() if m != "__init__"])
def test_functions_say_what_they_return(module):
    tree = ast.parse((ROOT/"rl4vlm"/(module.replace(".", "/") + ".py")).read_text())
    silent = [f"{f.name} (line {f.lineno})" for f in functions(tree) if f.returns is None and f.name != "__init__"]
    assert not silent, f"rl4vlm.{module}: no return type (`->None` for a procedure): {', '.join(silent)}"


def test_the_run_folder_has_one_owner():
    "What lies in a run is named in one room, and files get their names in another."
    code = {p.stem: p.read_text() for p in (ROOT/"rl4vlm").rglob("*.py") if p.stem != "_modidx"}
    strings = {
        m: {n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        for m, text in code.items()}
    for name in ("metrics.jsonl", "timing.jsonl", "results.json", "config.yaml", "stages.json", "models.json",
                 "requeue"):
        assert ([m for m in strings if name in strings[m]]
                == ["run_folder"]), f"{name} is named in {[m for m in strings if name in strings[m]]}"
    assert [m for m, text in code.items() if re.search(r"os\.(replace|rename)\(", text)] == ["files"]

"""Write README.md from nbs/index.ipynb, and the list of tests in CONTRIBUTING.md.

With --check, say whether they are up to date instead.
"""
import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def render(notebook):
    "The cells as Markdown, outputs included; hidden cells are left out."
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown": parts.append(source)
        if cell["cell_type"] != "code" or not source or source.startswith(("#| hide", "#| default_exp")): continue
        shown = "\n".join(line for line in source.splitlines() if not line.startswith("#|"))
        if "#| echo: false" not in source: parts.append(f"```python\n{shown}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = "".join(output.get("text", []) or data.get("text/markdown", []) or data.get("text/plain", []))
            if text.strip():
                parts.append(text.strip() if "text/markdown" in data else "```\n" + text.rstrip() + "\n```")
    text = "\n\n".join(parts) + "\n"
    text = re.sub(r"\]\((?!\w+:|#|nbs/)", "](nbs/", text)   # what lies beside the notebook
    return text.replace("](https://github.com/rl4vlm/rl4vlm/blob/main/", "](")


def with_tests(contributing):
    "The text of CONTRIBUTING.md with a table of the files of tests/ and tests/faults/, each with its first paragraph."
    lines = []
    for path in [*sorted((ROOT/"tests").glob("*.py")), *sorted((ROOT/"tests"/"faults").glob("*.py"))]:
        said, name = ast.get_docstring(ast.parse(path.read_text())), path.relative_to(ROOT/"tests")
        if not said: sys.exit(f"tests/{name} does not say in its first line what it is for")
        first = " ".join(said.split("\n\n")[0].split())
        lines.append(f"| [{name}](tests/{name}) | {first} |")
    table = "\n".join(["| file | what it says |", "|---|---|", *lines])
    return re.sub(r"(<!-- tests -->\n).*?(<!-- /tests -->)", lambda m: f"{m[1]}\n{table}\n\n{m[2]}", contributing,
                  flags=re.S)


if __name__ == "__main__":
    readme, contributing = ROOT/"README.md", ROOT/"CONTRIBUTING.md"
    made = {readme: render(json.loads((ROOT/"nbs"/"index.ipynb").read_text())),
            contributing: with_tests(contributing.read_text())}
    for path, text in made.items():
        if "--check" not in sys.argv: path.write_text(text)
        elif path.read_text() != text:
            sys.exit(f"{path.name} is not what nbs/index.ipynb and tests/ make; run python scripts/readme.py")

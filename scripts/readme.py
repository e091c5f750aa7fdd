"""Write README.md from nbs/index.ipynb; with --check, say whether it is up to date instead."""
import json, re, sys
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
            if text.strip(): parts.append(text.strip() if "text/markdown" in data else "```\n" + text.rstrip() + "\n```")
    text = "\n\n".join(parts) + "\n"
    text = re.sub(r"\]\((?!\w+:|#|nbs/)", "](nbs/", text)   # what lies beside the notebook
    return text.replace("](https://github.com/rl4vlm/rl4vlm/blob/main/", "](")


if __name__ == "__main__":
    text, readme = render(json.loads((ROOT/"nbs"/"index.ipynb").read_text())), ROOT/"README.md"
    if "--check" in sys.argv:
        if readme.read_text() != text: sys.exit("README.md is not what nbs/index.ipynb makes; run python scripts/readme.py")
    else: readme.write_text(text)

"""Run notebooks as `nbdev_test` does and hold their saved outputs against those of today's code.

usage: python scripts/outputs_check.py [--flags slow] NOTEBOOK ...

Text and Markdown are compared cell by cell: words exactly; whole numbers exactly, others within 0.1 % or one unit of
their last shown digit; white space counts as one space. What a run cannot repeat is left out by rule: times, rates,
sizes of memory, ratios of speed, dates, addresses, temporary paths, ports, progress bars, images, warnings. A cell
whose text varies otherwise says why: `#| varies: reason`. Cells that are not run (`eval: false`, `slow`) are not
compared.

Exit status: 1 if a cell fails, 3 if all run and an output differs (0 with `--report`).
"""
import argparse
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", re.I)
UNIT = (r"s|ms|µs|us|ns|min|h|sec|seconds?|minutes?|hours?|milliseconds?|MB|GB|kB|KB|B|MiB|GiB|KiB|bytes|x|×|times|"
        r"\w+\s*/\s*s(?:ec(?:ond)?)?|\w+ (?:a|per|each) (?:second|minute)")
VARIES = [
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"^.*\r(?!\n)", re.M), ""),                                          # a progress bar
    (re.compile(r"^.*\d+%\|.*$|^… .*$", re.M), ""),
    (re.compile(r"^\[\d{4}-\d\d-\d\d.*\[(?:DEBUG|INFO|WARNING|ERROR)\].*$", re.M), ""),  # a log line of a library
    (re.compile(r"0x[0-9a-f]{6,}"), "ADDRESS"),
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"), "DATE"),
    (re.compile(r"\b\d+:\d\d(?::\d\d)?\b"), "TIME"),
    (re.compile(r"(?:/[\w.-]+)*/tmp[\w.-]*(?:/[\w.-]+)*|/var/folders/[\w./-]+"), "PATH"),
    (re.compile(r"(?<=localhost:)\d+|(?<=127\.0\.0\.1:)\d+"), "PORT"),
    (re.compile(rf"(?<![\w.]){NUMBER.pattern}\s*(?:{UNIT})(?![\w])", re.I), "MEASURED"),
]


def text_of(cell):
    "The text of a cell's outputs that can be compared."
    found = []
    for out in cell.get("outputs", []):
        if out["output_type"] == "stream":
            if out.get("name") == "stdout": found.append("".join(out["text"]))
            continue
        data = out.get("data", {})
        if any(kind.startswith("image/") for kind in data): continue
        found.append("".join(data.get("text/markdown", data.get("text/plain", ""))))
    text = "\n".join(found)
    for pattern, word in VARIES: text = pattern.sub(word, text)
    return text


def close(a, b):
    ("Whether two numbers, as written, mean the same: whole ones exactly, others within 0.1 % or a unit of the "
     "last digit.")
    if a == b: return True
    if not any("." in x or "e" in x.lower() for x in (a, b)): return False
    x, y = (float(n.replace(",", "")) for n in (a, b))
    shown = [n.lower().partition("e") for n in (a, b)]
    unit = max(10.0 ** (-len(m.partition(".")[2]) + int(e or 0)) for m, _, e in shown)
    return abs(x - y) <= max(1.01 * unit, 1e-3 * abs(x))


def difference(old, new):
    "What differs first between two texts, or ''."
    words = [re.sub(r"\s+", " ", NUMBER.sub("#", t)).strip() for t in (old, new)]
    numbers = [NUMBER.findall(t) for t in (old, new)]
    if words[0] != words[1]:
        at = next((i for i, (a, b) in enumerate(zip(*words)) if a != b), min(map(len, words)))
        saved, today = (w[max(0, at - 30):at + 50] for w in words)
        return f"saved ...{saved!r}, today ...{today!r}"
    for a, b in zip(*numbers):
        if not close(a, b): return f"saved {a}, today {b}"
    return ""


def compare(saved, cells):
    "[(cell id, difference)] between saved and new cells, by id, of those that were run."
    found = []
    for cell in cells:
        old = saved.get(cell["id"])
        if old is None or re.search(r"^#\|\s*varies:\s*\S", "".join(old["source"]), re.M): continue
        if told := difference(text_of(old), text_of(cell)): found.append((cell["id"], told))
    return found


def run(path, flags):
    ("(whether every cell ran, the code cells that were run, with their new outputs) of a notebook, "
     "as `nbdev_test` runs it.")
    from execnb.shell import CaptureShell
    from fastcore.xtras import working_directory
    from nbdev.config import get_config
    from nbdev.frontmatter import FrontmatterProc
    from nbdev.process import NBProcessor
    skip = set(get_config().tst_flags.split()) - set(flags.split())
    os.environ["IN_TEST"] = "1"
    nb = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    if str(getattr(nb, "frontmatter_", {}).get("skip_exec", False)).lower() == "true": return True, []
    ran = []

    def left_out(cell):
        if cell.cell_type != "code": return True
        directives = getattr(cell, "directives_", {}) or {}
        out = ("nbdev_export" + "(" in cell.source or directives.get("eval:", [""])[0].lower() == "false"
               or skip & directives.keys())
        if not out:
            cell.outputs = []
            ran.append(cell)
        return out

    shell = CaptureShell(path)
    try:
        with working_directory(path.parent): shell.run_all(nb, exc_stop=True, preproc=left_out)
    except BaseException:   # a cell may call sys.exit
        print(shell.prettytb(fname=path), file=sys.stderr)
        return False, ran
    return True, ran


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--flags", default="", help="run cells with this flag too")
    parser.add_argument("--report", action="store_true", help="tell what differs and do not fail for it")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    status = 0
    for path in args.notebooks:
        path = path.resolve()
        saved = {c["id"]: c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"}
        ok, ran = run(path, args.flags)
        if not ok: return 1
        for cell, told in compare(saved, ran):
            print(f"saved outputs: {path.name} {cell}: {told}")
            status = 0 if args.report else 3
    return status


if __name__ == "__main__": sys.exit(main())

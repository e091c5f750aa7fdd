"""Measure rl4vlm. Each other file of this folder is one subject: its docstring says what, `TITLE` heads its section of
the report, and `run(options)` returns that section as markdown. A new file is a new subcommand."""
import argparse
import datetime
import importlib
import os
import platform
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INTRODUCTION = """# Benchmarks

Ratios, each measured in one run on one machine. `./scripts/bench WHAT --out BENCHMARKS.md` measures again and replaces
its section.
"""


def subjects(): return sorted(p.stem for p in HERE.glob("[a-z]*.py") if p.stem != "measure")


def machine(load):
    "This machine in words, and how busy it was."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = "with a GPU" if shutil.which("nvidia-smi") else "no GPU"
    busy = f"other jobs were running (load {load:.1f} before the run)" if load > 0.5 else "otherwise idle"
    return f"{cores} {platform.machine()} cores, {gpu}, {busy}; Python {platform.python_version()}"


def write_section(path, name, text):
    "Replace the section between the markers of this name, or add it at the end."
    old = path.read_text() if path.exists() else INTRODUCTION
    section = f"<!-- {name}: begin -->\n{text.strip()}\n<!-- {name}: end -->"
    found = re.compile(f"<!-- {name}: begin -->.*<!-- {name}: end -->", re.DOTALL)
    path.write_text(found.sub(lambda _: section, old) if found.search(old) else f"{old.rstrip()}\n\n{section}\n")


def main():
    parser = argparse.ArgumentParser(prog="./scripts/bench", description="Measure rl4vlm.")
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    modules = {name: importlib.import_module(name) for name in subjects()}
    for name, module in modules.items():
        command = commands.add_parser(name, help=module.__doc__.split("\n\n")[0], description=module.__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_argument("--device", default="cpu",
                             help="where models run, for subjects that have one (default: cpu)")
        command.add_argument("--repeats", type=int, default=5, help="rounds, of which the best counts (default: 5)")
        command.add_argument("--out", type=Path, help="file to write the section to, such as BENCHMARKS.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    text = modules[options.what].run(options)
    print(text)
    if options.out:
        command = " ".join(["./scripts/bench", *sys.argv[1:]])
        about = f"`{command}`, {datetime.date.today():%d %B %Y}. Machine: {machine(load)}."
        write_section(options.out, options.what, f"## {modules[options.what].TITLE}\n\n{about}\n\n{text}")


if __name__ == "__main__": sys.exit(main())

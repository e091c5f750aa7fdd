"""Build the site into _docs/ with nbdev and Quarto: python scripts/site.py

`--process` stops before Quarto and leaves the processed notebooks in _proc/ (that is what scripts/docs-check reads).

This does what `nbdev_docs` does, with two differences. nbdev runs every cell that contains an import, to be able to show
signatures; here only its import statements are run, so an import may stand where it is used. And README.md is left to
scripts/readme.py.
"""
import ast, os, shutil, subprocess, sys
from pathlib import Path
import nbdev.doclinks, nbdev.processors, nbdev.quarto, nbdev.serve
from nbdev.config import get_config

SHOWN = {"export", "exports", "exporti", "exec_doc"}


class run_what_docs_need(nbdev.processors.exec_show_docs):
    "Run exported cells, show_doc cells and import statements."
    def __call__(self, cell):
        if cell.cell_type == "code" and not cell.directives_.keys() & SHOWN and not (trees := cell.parsed_() or []) == [] and not nbdev.processors._show_docs(trees):
            imports = [node for node in trees if isinstance(node, (ast.Import, ast.ImportFrom))]
            if imports and getattr(self.nb, "has_docs_", False) and cell.directives_.get("eval:", [""])[0] != "false": self.k.run_cell("\n".join(map(ast.unparse, imports)))
        else: super().__call__(cell)
        if getattr(getattr(self, "k", None), "exc", None): raise RuntimeError(f"a cell that the pages need fails:\n{cell.source}") from self.k.exc


def process():
    "Notebooks with front matter, signatures and doclinks, in _proc/."
    nbdev.processors.exec_show_docs = run_what_docs_need
    nbdev.quarto.refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    return nbdev.serve.proc_nbs(force=True, n_workers=0)


def main():
    folder, config = process(), get_config()
    if "--process" in sys.argv: return
    if not shutil.which("quarto"): sys.exit("error: Quarto is not installed (https://quarto.org/docs/download); ./scripts/docs-check checks the pages without it")
    subprocess.run(["quarto", "render", "--no-cache"], cwd=folder, check=True)
    shutil.rmtree(config.doc_path, ignore_errors=True)
    shutil.move(folder/config.doc_path.name, config.config_path)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)   # each page had an IPython shell of its own, and every one of them would collect all garbage on its way out, which takes minutes

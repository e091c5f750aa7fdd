"""Build the site into _docs/ with nbdev and Quarto: python scripts/site.py

`--process` stops before Quarto and leaves the processed notebooks in _proc/ (that is what scripts/docs-check reads).
`--preview FOLDER` renders them with pandoc and the site's own style sheet instead: no search, the rest as it will be;
that is what the screenshots in tests/test_site.py are taken of, where there is no Quarto.

This does what `nbdev_docs` does, with four differences. The source of exported cells stays on the page, folded. nbdev
runs every cell that contains an import, to be able to show signatures; here only its import statements are run, so an
import may stand where it is used. README.md is left to scripts/readme.py. And a name in backticks becomes a link only
where it can mean one thing (see `means`).
"""
import ast
import base64
import hashlib
import html
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import fastcore.docments
import nbdev.doclinks
import nbdev.processors
import nbdev.quarto
import nbdev.serve
from nbdev.config import get_config

SHOWN = {"export", "exports", "exporti", "exec_doc"}
A_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\))")


class run_what_docs_need(nbdev.processors.exec_show_docs):
    "Run exported cells, show_doc cells and import statements."
    def __call__(self, cell):
        if (cell.cell_type == "code" and not cell.directives_.keys() & SHOWN
            and not (trees := cell.parsed_() or []) == [] and not nbdev.processors._show_docs(trees)):
            imports = [node for node in trees if isinstance(node, (ast.Import, ast.ImportFrom))]
            if imports and getattr(self.nb, "has_docs_", False) and cell.directives_.get("eval:", [""])[0] != "false":
                self.k.run_cell("\n".join(map(ast.unparse, imports)))
        else: super().__call__(cell)
        if getattr(getattr(self, "k", None), "exc", None):
            raise RuntimeError(f"a cell that the pages need fails:\n{cell.source}") from self.k.exc


def keep_source(cell):
    ("Exported cells stay, to be folded (nbdev leaves them out, and a page would say what it does not show); "
     "hidden cells go.")
    kinds = cell.directives_.keys() & nbdev.processors._hide_dirs if cell.directives_ else set()
    if kinds and kinds <= {"export", "exporti"}: cell.directives_["exports"] = ["folded"]
    elif kinds: del cell["source"]


def fold_source(cell):
    "What a reader came to learn (`exports`) is open, other exported code is one click away."
    if cell.cell_type != "code" or "exports" not in cell.directives_: return
    folded = cell.directives_["exports"] == ["folded"]
    cell.source = (f'#| code-fold: {"true" if folded else "show"}\n#| code-summary: '
                   f'"{"Source" if folded else "Exported source"}"\n{cell.source}')


class source_after_docs(nbdev.processors.Processor):
    "The signature stands before the source, also where the source ends a notebook."
    def begin(self):
        cells = self.nb.cells
        for at in reversed(range(len(cells) - 1)):
            shown = cells[at].cell_type == "code" and "exports" in (cells[at].directives_ or {})
            if shown and getattr(cells[at + 1], "has_sd", 0): cells[at], cells[at + 1] = cells[at + 1], cells[at]


def signature(symbol, eval_str=True, **options):
    "A signature; types that only type checkers import, or that are defined further down, stay words."
    try: return inspect.signature(symbol, eval_str=eval_str, **options)
    except NameError: return inspect.signature(symbol, **options)


def homes(names):
    "Where each short name is defined: `Task` in one module, `start` in several."
    found = defaultdict(set)
    for module, symbols in names.items():
        for symbol in symbols: found[symbol.removeprefix(module + ".")].add(module)
    return found


def means(name, called, found):
    ("Whether a name in backticks is a link: defined in one module, and no everyday word unless written as a "
     "call, `gae()`.")
    if name.startswith("rl4vlm."): return True
    if name.startswith("__"): return False
    return (called or bool(re.search(r"[A-Z_.]", name))) and len(found.get(name, ())) <= 1


def link_names(lookup, line):
    "Names become links, but not those that stand in a link already."
    found = homes(lookup.entries["rl4vlm"]["syms"]) if "rl4vlm" in lookup.entries else {}
    def one(m): return lookup._link_sym(m) if means(m[1], m[0].endswith("()`"), found) else m[0]
    return "".join(part if i % 2 else nbdev.doclinks._re_backticks.sub(one, part)
                   for i, part in enumerate(A_LINK.split(line)))


def process():
    "Notebooks with front matter, signatures and doclinks, in _proc/."
    nbdev.processors.exec_show_docs = run_what_docs_need
    nbdev.processors.rm_export, nbdev.processors.add_fold, nbdev.processors.mv_exports = (
        keep_source, fold_source, source_after_docs)
    fastcore.docments.signature = signature
    nbdev.doclinks.NbdevLookup.link_line = link_names
    nbdev.quarto.refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    folder = nbdev.serve.proc_nbs(force=True, n_workers=0)
    (folder/"llms.txt").write_text(llms_txt(folder, get_config()))
    return folder


def front_matter(page):
    import yaml
    return yaml.safe_load("".join(page["cells"][0]["source"]).strip().strip("-"))


def sections(folder):
    "The sidebar: (section, [(page, where it is written)])."
    import yaml
    for section in yaml.safe_load((folder/"_quarto.yml").read_text())["website"]["sidebar"]["contents"]:
        yield (section["section"],
               [(Path(name), Path(name).parent/front_matter(json.loads((folder/name).read_text()))["output-file"])
                for name in section["contents"]])


def llms_txt(folder, config):
    "An index of the pages for language models: each with its Markdown form and its description."
    home, lines = config.doc_host + config.doc_baseurl, [f"# {config.title}", "", f"> {config.description}"]
    for section, pages in sections(folder):
        lines += ["", f"## {section}", ""]
        for name, made in pages:
            front = front_matter(json.loads((folder/name).read_text()))
            lines.append(f"- [{front['title']}]({home}/{made}.md): {front['description']}")
    return "\n".join(lines) + "\n"


def to_markdown(page, media, up):
    "A processed notebook as pandoc's Markdown, cells and outputs in the boxes that Quarto makes of them."
    def option(source, name):
        return (m[1].strip().strip('"') if (m := re.search(rf"^#\| *{name}: *(.*)$", source, re.M)) else None)
    for cell in page["cells"][1:]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown": yield source
        if cell["cell_type"] != "code" or option(source, "include") == "false": continue
        code = "\n".join(line for line in source.splitlines() if not line.startswith("#|")).strip("\n")
        if code and option(source, "echo") != "false":
            box = f"~~~~~~{{.python .code-with-copy}}\n{code}\n~~~~~~"
            if fold := option(source, "code-fold"):
                summary = f"<summary>{option(source, 'code-summary') or 'Code'}</summary>"
                box = f"<details class=\"code-fold\"{' open' * (fold == 'show')}>{summary}\n\n{box}\n\n</details>"
            yield f":::: {{.cell}}\n\n{box}\n\n::::"
        if option(source, "output") == "false": continue
        for output in cell.get("outputs", []):
            data = {k: "".join(v) if isinstance(v, list) else v for k, v in output.get("data", {}).items()}
            image = next((k for k in data if k.startswith("image/")), None)
            if image:
                raw = data[image].encode() if "svg" in image else base64.b64decode(data[image])
                file = media/f"{hashlib.sha256(raw).hexdigest()[:16]}.{image.split('/')[1].split('+')[0]}"
                file.write_bytes(raw)
                yield (f"::: {{.cell-output .cell-output-display}}\n\n<p><img src=\"{up}figures/{file.name}\" "
                       f"alt=\"{html.escape(option(source, 'fig-alt') or '')}\"></p>\n\n:::")
            elif "text/markdown" in data:
                yield "::: {.cell-output .cell-output-markdown}\n\n" + data["text/markdown"] + "\n\n:::"
            elif "text/html" in data:
                yield f"::: {{.cell-output}}\n\n~~~~~~{{=html}}\n{data['text/html']}\n~~~~~~\n\n:::"
            elif text := "".join(output.get("text", [])) or data.get("text/plain", ""):
                yield f"::: {{.cell-output}}\n\n~~~~~~\n{text.rstrip()}\n~~~~~~\n\n:::"


def preview(folder, out):
    "Render the processed pages with pandoc; give back where they are."
    out, config = Path(out).resolve(), get_config()
    shutil.rmtree(out, ignore_errors=True); (media := out/"figures").mkdir(parents=True)
    for name in ("images", "theme"): shutil.copytree(folder/name, out/name)
    for name in ("favicon.svg", "llms.txt"): shutil.copy(folder/name, out/name)
    listed = [*sections(folder), ("", [(Path("404.qmd"), Path("404.html"))])]
    flat, made = ([page for _, pages in listed for page in pages],
                  {name: html_name for _, pages in listed for name, html_name in pages})
    fronts = {name: front_matter(json.loads((folder/name).read_text())) for name in made if name.suffix == ".ipynb"}
    home = config.doc_host + config.doc_baseurl + "/"
    def address(up, here):
        "Links between notebooks, and to the hosted pages, as links between the pages made here."
        def to(m):
            path, hashed, anchor = m[2].partition("#")
            if path.startswith(home): return f"{m[1]}{up}{path[len(home):] or 'index.html'}{hashed}{anchor}{m[3]}"
            target = Path(os.path.normpath(path.lstrip("/") if path.startswith("/") else here.parent/path))
            return f"{m[1]}{up}{made[target]}{hashed}{anchor}{m[3]}" if target in made else m[0]
        return lambda text: re.sub(r'((?:href|src)=")([^"]*)(")', to, text)
    def render(i):
        name, file = flat[i]
        up, here = "../" * len(file.parent.parts), address("../" * len(file.parent.parts), name)
        if name.suffix == ".qmd":
            _, head, text = (folder/name).read_text().split("---\n", 2)
            import yaml
            front = yaml.safe_load(head)
        else: front, text = fronts[name], "\n\n".join(to_markdown(json.loads((folder/name).read_text()), media, up))
        menu = "".join(
            f"<details{' open' if name in dict(pages) else ''}><summary>{html.escape(section)}</summary>"
            + "".join(f'<a href="{up}{to}"{" class=active" if to == file else ""}>{html.escape(fronts[n]["title"])}</a>'
                      for n, to in pages) + "</details>" for section, pages in listed if section)
        around = "".join(f'<a class="{word}" href="{up}{flat[j][1]}">{html.escape(fronts[flat[j][0]]["title"])}</a>'
                         for word, j in (("previous", i - 1), ("next", i + 1))
                         if 0 <= j < len(flat) - 1 and name.suffix == ".ipynb")
        done = subprocess.run(["pandoc", "-f", "markdown-smart", "-t", "html5", "--mathml", "--toc", "--toc-depth=3",
                               "--standalone", f"--template={Path(__file__).parent/'preview.html'}",
                               "-M", f"title={front['title']}", "-M", f"description={front['description']}",
                               "-V", f"up={up}", "-V", f"menu={menu}", "-V", f"around={around}"], input=text,
                              capture_output=True, text=True, check=True)
        (out/file).parent.mkdir(parents=True, exist_ok=True)
        (out/file).write_text(here(done.stdout))
    with ThreadPoolExecutor(os.cpu_count()) as pool: list(pool.map(render, range(len(flat))))
    return out


def main():
    folder, config = process(), get_config()
    if "--process" in sys.argv: return
    if "--preview" in sys.argv: return print(preview(folder, sys.argv[sys.argv.index("--preview") + 1]))
    if not shutil.which("quarto"):
        sys.exit("error: Quarto is not installed (https://quarto.org/docs/download); "
                 "./scripts/docs-check checks the pages without it, and --preview renders them with pandoc")
    subprocess.run(["quarto", "render", "--no-cache"], cwd=folder, check=True)
    shutil.rmtree(config.doc_path, ignore_errors=True)
    shutil.move(folder/config.doc_path.name, config.config_path)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # each page had an IPython shell of its own, and every one of them would collect all garbage on its way out,
    # which takes minutes
    os._exit(0)

"""Check the pages of the site as nbdev makes them; Quarto is not needed.

A copy of the notebooks is processed by scripts/site.py, which stops before Quarto (front matter, signatures, doclinks).
Then: every page has a title and a description and shows no error; cells that draw have a figure; internal links, anchors,
pictures and doclinks lead somewhere; public names are documented with their parameters; the sidebar names each page
once and no other; README.md is what the index makes.
"""
import html, importlib, inspect, json, os, pkgutil, re, shutil, subprocess, sys, tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
DRAWS = re.compile(r"^[^#\n]*(plt\.subplots|learning_curves\(|episode_strip\(|Image\.fromarray\([^)]*\]\)\s*$|photograph\(page)", re.M)


def text_of(value): return "".join(value or [])


def pages_of(folder): return {p.relative_to(folder): json.loads(p.read_text()) for p in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts}


def markdown_of(page):
    "All Markdown of a page, code blocks left out: of its text and of its outputs."
    parts = [text_of(c["source"]) for c in page["cells"] if c["cell_type"] == "markdown"]
    parts += [text_of(o["data"]["text/markdown"]) for c in page["cells"] for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]
    return re.sub(r"```.*?```", "", "\n\n".join(parts), flags=re.S)


def slug(heading):
    "The anchor that pandoc gives to a heading."
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", heading)))


def anchors_of(page):
    source = markdown_of(page)
    given = set(re.findall(r"\{[^}]*#([\w.-]+)[^}]*\}", source)) | set(re.findall(r'id="([^"]+)"', source))
    return given | {slug(re.sub(r"\{[^}]*\}", "", m)) for m in re.findall(r"^#+\s+(.*)$", source, re.M)}


def check_page(name, page):
    "Front matter, errors and figures of a processed page."
    first = text_of(page["cells"][0]["source"]) if page["cells"] else ""
    for field in ("title", "description"):
        if not re.search(rf"^{field}: *\S", first, re.M): yield f"{name}: no {field}"
    for cell in page["cells"]:
        outputs = cell.get("outputs", [])
        for output in outputs:
            if output.get("output_type") == "error": yield f"{name}: shows an error, {output.get('ename')}: {str(output.get('evalue'))[:80]}"
            words = text_of(output.get("text")) + text_of(output.get("data", {}).get("text/plain"))
            if match := re.search(r"(/tmp/|/root/|/home/(?!me/)|/work/)[\w.-]+", words): yield f"{name}: shows a path of one machine, {match[0]}"
        if cell["cell_type"] == "code" and DRAWS.search(text_of(cell["source"])) and "#| export" not in text_of(cell["source"]):
            images = [v for o in outputs for k, v in o.get("data", {}).items() if k.startswith("image/")]
            tail = text_of(cell["source"]).strip().splitlines()[-1]
            shows = "plt.subplots" in text_of(cell["source"]) or re.match(r"(learning_curves|episode_strip|Image\.fromarray|photograph)\(", tail)
            if shows and not any(len(text_of(v)) > 200 for v in images): yield f"{name}: a cell that draws shows no figure: {text_of(cell['source']).strip().splitlines()[-1][:80]}"


def check_links(name, page, pages, source, site):
    "Links and pictures of a page, and names that look like those of this package."
    markdown = markdown_of(page)
    here = source/name.parent
    for target in re.findall(r"\]\(<?([^)>\s]+)>?[^)]*\)", markdown) + re.findall(r'(?:src|href)="([^"]+)"', markdown):
        target = html.unescape(target)
        if target.startswith(site["home"] + "/"): target, base = target[len(site["home"]) + 1:], source
        elif target.startswith(site["files"]):
            if not (ROOT/unquote(urlsplit(target).path.split("/blob/main/")[-1])).exists(): yield f"{name}: link to a file that is not there, {target}"
            continue
        elif urlsplit(target).scheme or target.startswith("//"): continue
        else: base = here
        path, _, anchor = unquote(target).partition("#")
        file = Path(os.path.normpath(base/path)) if path else source/name
        if file.suffix == ".html": file = source/site["pages"].get(file.relative_to(source), file.with_suffix(".ipynb")) if file.is_relative_to(source) else file
        if not file.is_relative_to(source) or not file.exists(): yield f"{name}: link that leads nowhere, {target}"
        elif anchor and file.suffix == ".ipynb" and anchor.lower() not in {a.lower() for a in anchors_of(pages[file.relative_to(source)])}: yield f"{name}: no place #{anchor} in {file.relative_to(source)}"
    for dotted in set(re.findall(r"`(rl4vlm(?:\.\w+)+)(?:\([^`]*\))?`", markdown)):
        if not resolves(dotted): yield f"{name}: `{dotted}` is no name of the package"


def resolves(dotted):
    "Whether a dotted name is a module or something in it."
    parts = dotted.split(".")
    if (ROOT/Path(*parts)).suffix in (".yaml", ".html", ".ini") or (ROOT/"/".join(parts[:-1])).with_suffix("." + parts[-1]).exists(): return True
    for n in range(len(parts), 0, -1):
        try: value = importlib.import_module(".".join(parts[:n]))
        except ImportError: continue
        for part in parts[n:]:
            if not hasattr(value, part) and part not in getattr(value, "__dataclass_fields__", {}) and part not in getattr(value, "__annotations__", {}): return False
            value = getattr(value, part, None)
        return True
    return False


def check_names():
    "Public names have a docstring, and each parameter has a comment, a word in the docstring, or a documented class."
    from fastcore.docments import docments
    import rl4vlm
    for module in pkgutil.walk_packages(rl4vlm.__path__, "rl4vlm."):
        if module.name.endswith("_modidx"): continue
        try: loaded = importlib.import_module(module.name)
        except ImportError as e:
            if (e.name or "").startswith("rl4vlm"): yield f"{module.name} cannot be imported: {e}"
            continue                                       # an optional package is not installed
        for name in getattr(loaded, "__all__", []):
            value = getattr(loaded, name)
            if not (inspect.isclass(value) or inspect.isfunction(value)): continue
            said = inspect.getdoc(value) if "__doc__" in vars(value) or inspect.isfunction(value) else ""
            if not (said or "").strip() or said.startswith(f"{name}("): yield f"{module.name}.{name} has no docstring"
            if not inspect.isfunction(value): continue
            comments = docments(value, full=True)
            for p in inspect.signature(value).parameters.values():
                own = str(getattr(p.annotation, "__module__", "")).startswith("rl4vlm")
                if not (own or comments[p.name].docment or re.search(rf"\b{p.name}\b", said or "")): yield f"{module.name}.{name}: parameter {p.name} is not documented"


def check_sidebar(pages):
    "Each page stands in the sidebar, once."
    import yaml
    listed, sections = [], yaml.safe_load((ROOT/"_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    def walk(items):
        for item in items:
            if isinstance(item, dict) and "contents" in item: walk(item["contents"])
            else: listed.append(Path(item["href"] if isinstance(item, dict) else item))
    walk(sections)
    for page in listed:
        if not (ROOT/"nbs"/page).exists(): yield f"_quarto.yml: {page} is in the sidebar and not in nbs/"
    for page in pages:
        if listed.count(page) != 1: yield f"_quarto.yml: {page} is {'not' if page not in listed else 'more than once'} in the sidebar"
    if (ROOT/"nbs"/"_quarto.yml").resolve() != (ROOT/"_quarto.yml").resolve(): yield "nbs/_quarto.yml is not a link to ../_quarto.yml"


def check_readme():
    done = subprocess.run([sys.executable, ROOT/"scripts"/"readme.py", "--check"], capture_output=True, text=True)
    if done.returncode: yield done.stderr.strip()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT/"README.md").read_text()):
        if not urlsplit(target).scheme and not (ROOT/target).exists(): yield f"README.md: link that leads nowhere, {target}"


def main():
    from configparser import ConfigParser
    settings = ConfigParser(); settings.read(ROOT/"settings.ini"); settings = settings["DEFAULT"]
    site = dict(home=settings["doc_host"] + settings["doc_baseurl"], files=settings["git_url"] + "/blob/main/")
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()/"copy"
        shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "_docs", "_proc", "*.egg-info", "__pycache__"))
        done = subprocess.run([sys.executable, "scripts/site.py", "--process"], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode: sys.exit(f"the notebooks could not be processed:\n{done.stdout[-4000:]}")
        pages = pages_of(processed := folder/"_proc")
        site["pages"] = {name.parent/m[1]: name for name, page in pages.items() if (m := re.search(r"^output-file: *(\S+)", text_of(page["cells"][0]["source"]), re.M))}   # core.html: 00_core.ipynb
        for name, page in pages.items(): problems += [*check_page(name, page), *check_links(name, page, pages, processed, site)]
        missing = [n for n in pages_of(folder/"nbs") if n not in pages and not n.name.startswith("_")]
        problems += [f"{n}: was not processed" for n in missing]
    problems += [*check_names(), *check_sidebar(list(pages)), *check_readme()]
    for problem in problems: print(problem)
    print(f"{len(pages)} pages checked, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__": sys.exit(main())

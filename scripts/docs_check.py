"""Check the pages of the site as nbdev makes them; Quarto is not needed.

A copy of the notebooks is processed by scripts/site.py, which stops before Quarto (front matter, signatures, doclinks).
Then: every page has a title and a description and shows no error; cells that draw have a figure; internal links,
anchors, images and doclinks lead somewhere; public names are documented with their parameters; the sidebar names each
page once and no other; README.md is what the index makes; the glossary's terms are defined where it says, and words
that it replaced are gone; and nothing is lost: every paragraph, table, figure and printed text of a notebook stands on
its page, in order.

`--words` prints the words of each page before and after processing. `--html FOLDER` looks at a site that was rendered
(by Quarto, or by scripts/site.py --preview): each page has the text of its notebook, links lead somewhere, every image
has a text, and nothing is fetched from elsewhere.
"""
import html
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
DRAWS = re.compile(
    r"^[^#\n]*(plt\.subplots|learning_curves\(|episode_strip\(|Image\.fromarray\([^)]*\]\)\s*$|photograph\(page)", re.M)


def script(name):
    "Another file of this folder as a module."
    spec = importlib.util.spec_from_file_location(f"rl4vlm_scripts_{name}", ROOT/"scripts"/f"{name}.py")
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module


def text_of(value): return "".join(value or [])


def pages_of(folder):
    return {p.relative_to(folder): json.loads(p.read_text())
            for p in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts}


def markdown_of(page):
    "All Markdown of a page, code blocks left out: of its text and of its outputs."
    parts = [text_of(c["source"]) for c in page["cells"] if c["cell_type"] == "markdown"]
    parts += [text_of(o["data"]["text/markdown"]) for c in page["cells"]
              for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]
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
            if output.get("output_type") == "error":
                yield f"{name}: shows an error, {output.get('ename')}: {str(output.get('evalue'))[:80]}"
            words = text_of(output.get("text")) + text_of(output.get("data", {}).get("text/plain"))
            if match := re.search(r"(/tmp/|/root/|/home/(?!me/)|/work/)[\w.-]+", words):
                yield f"{name}: shows a path of one machine, {match[0]}"
        if (cell["cell_type"] == "code" and DRAWS.search(text_of(cell["source"]))
            and "#| export" not in text_of(cell["source"])):
            images = [v for o in outputs for k, v in o.get("data", {}).items() if k.startswith("image/")]
            tail = text_of(cell["source"]).strip().splitlines()[-1]
            shows = ("plt.subplots" in text_of(cell["source"])
                     or re.match(r"(learning_curves|episode_strip|Image\.fromarray|photograph)\(", tail))
            if shows and not any(len(text_of(v)) > 200 for v in images):
                yield (f"{name}: a cell that draws shows no figure: "
                       f"{text_of(cell['source']).strip().splitlines()[-1][:80]}")


HIDDEN = re.compile(r"^#\|\s*(hide\b|include: *false|output: *false)", re.M)
UNSEEN = re.compile(r"^#\|\s*(export\b|exporti\b|default_exp\b|echo: *false)", re.M)


def plain(text):
    "Letters and digits alone: what is left of a text when links, marks and spaces are taken off."
    text = re.sub(r"\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:\s+\"[^\"]*\")?\)", "", text)
    return re.sub(r"[\W_]+", "", re.sub(r"\x1b\[[\d;]*[a-zA-Z]", "", text))


def paragraphs(markdown):
    "Paragraphs of a text, a fenced block in one piece."
    for block in re.split(r"(^```.*?^```)", markdown, flags=re.S | re.M):
        yield from [block] if block.startswith("```") else filter(str.strip, re.split(r"\n\s*\n", block))


def shown(output):
    "What a reader sees of an output: its kind and its text, or its image."
    data = output.get("data", {})
    for kind in data:
        if kind.startswith("image/"): return kind, text_of(data[kind])
    for kind in ("text/markdown", "text/html", "text/plain"):
        if kind in data: return kind, text_of(data[kind])
    return "printed", text_of(output.get("text"))


def content(page, first=True):
    "The pieces of a notebook that its page owes to a reader: (what, text) in order."
    for cell in page["cells"]:
        source = text_of(cell["source"])
        if cell["cell_type"] == "markdown":
            if first: first = False; continue          # title and description, see check_first
            for piece in paragraphs(source): yield "text", piece
        if cell["cell_type"] != "code" or HIDDEN.search(source): continue
        if not UNSEEN.search(source):
            yield "code", "\n".join(l for l in source.splitlines()
                                    if not re.match(r"\s*(#\||%)", l) and not re.search(r"#\|\s*hide_line", l))
        if "#| filter_stream" in source: continue
        for output in cell.get("outputs", []): yield shown(output)


def front_matter(page):
    import yaml
    found = re.match(r"---\n(.*?)\n---", text_of(page["cells"][0]["source"]).strip(), re.S) if page["cells"] else None
    return yaml.safe_load(found[1]) if found else {}


def check_first(name, notebook, made):
    "The first text cell holds a title and a description alone, and both are on the page: nbdev drops the rest of it."
    first = next((text_of(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"), "")
    lines, front = [l for l in first.splitlines() if l.strip()], front_matter(made)
    if len(lines) != 2 or not lines[0].startswith("# ") or not lines[1].startswith("> "):
        yield (f"{name}: the first cell holds more or less than '# title' and one line of '> description'; "
               "nbdev drops the rest")
    for mark, field, line in zip(("#", ">"), ("title", "description"), lines):
        if plain(line) != plain(str(front.get(field, ""))):
            yield f"{name}: {field} is lost, {line.lstrip(mark).strip()[:60]!r}"


def check_nothing_lost(name, notebook, made):
    "Each piece of a notebook stands on its page after the one before it."
    text, images, at = "", [], 0
    for cell in made["cells"]:
        text += plain("\n".join(l for l in text_of(cell["source"]).splitlines() if not l.startswith("#|")))
        for output in cell.get("outputs", []):
            kind, value = shown(output)
            if kind.startswith("image/"): images.append(value)
            else: text += plain(value)
    for kind, piece in content(notebook):
        if kind.startswith("image/"):
            if piece not in images: yield f"{name}: a figure is lost"
        elif wanted := plain(piece):
            found = text.find(wanted, at)
            if found < 0:
                yield f"{name}: {'output' if kind not in ('text', 'code') else kind} is lost, {piece.strip()[:80]!r}"
            else: at = found + len(wanted)


def check_sources(name, notebook, made):
    "Exported code stands on the page, folded or open."
    text = plain("\n".join(l for c in made["cells"] for l in text_of(c["source"]).splitlines()
                           if not l.startswith("#|")))
    for cell in notebook["cells"]:
        lines = text_of(cell["source"]).strip().splitlines()
        if cell["cell_type"] != "code" or not lines or not re.match(r"#\|\s*exporti?\s*$", lines[0]): continue
        code = "\n".join(l for l in lines if not l.startswith("#|"))
        if plain(code) not in text: yield f"{name}: exported code is lost, {code.strip()[:80]!r}"


def check_headings(name, page):
    "The title is the one heading of first rank."
    for heading in re.findall(r"^# .*", markdown_of(page), re.M):
        yield f"{name}: a second heading of first rank, {heading[:60]!r}"


def check_doclinks(name, page, home, means):
    ("A linked name means one thing: no everyday word, no name of several modules, "
     "no link within a link (scripts/site.py).")
    text = markdown_of(page)
    for shown_name, target in re.findall(r"\[`([^`]+)`\]\((" + re.escape(home) + r"/[^)]*)\)", text):
        if not means(shown_name.removesuffix("()"), shown_name.endswith("()")):
            yield f"{name}: `{shown_name}` is linked to {target[len(home):]}, and may mean something else"
    for link in re.findall(r"\[\[`[^`]+`\]\([^)]*\)[^\]]*\]\([^)]*\)", text):
        yield f"{name}: a link within a link, {link[:80]}"


def check_alt(name, page):
    "A figure has a text for those who cannot see it."
    for cell in page["cells"]:
        source = text_of(cell["source"])
        if HIDDEN.search(source): continue
        if (any(shown(o)[0].startswith("image/") for o in cell.get("outputs", []))
            and not re.search(r"^#\|\s*fig-alt: *\S", source, re.M)):
            yield f"{name}: a figure without '#| fig-alt:', {source.strip().splitlines()[-1][:60]!r}"
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", markdown_of(page)):
        if not alt.strip(): yield f"{name}: an image without a text, {target}"
    for tag in re.findall(r"<img [^>]*>", markdown_of(page)):
        if not re.search(r'alt="[^"]', tag): yield f"{name}: an image without a text, {tag[:60]}"


def words_both(notebook, made):
    "Words of the text of a notebook, and of those the ones that its page has."
    front = front_matter(made)
    kept = sum(len(re.findall(r"\w+", plain_words(t)))
               for kind, t in content(made, first=False) if kind == "text" and not t.startswith(("<!--", ":::")))
    return (sum(len(re.findall(r"\w+", plain_words(t)))
                for kind, t in content(notebook, first=False) if kind == "text"),
            kept + sum(len(re.findall(r"\w+", plain_words(str(front.get(f, ""))))) for f in ("title", "description")))


def plain_words(text): return re.sub(r"\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*\)", "", text)


class Rendered(HTMLParser):
    "Text, links, images and foreign sources of an HTML page."
    def __init__(self, source):
        super().__init__()
        self.text, self.links, self.ids, self.wordless, self.foreign, self.skip = [], [], set(), [], [], 0
        self.feed(source)
    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.skip += tag in ("script", "style", "annotation")
        if "id" in a: self.ids.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag == "img" and not a.get("alt"): self.wordless.append(a.get("src", "")[:60])
        fetched = (tag in ("script", "img", "iframe")
                   or tag == "link" and a.get("rel") in ("stylesheet", "preconnect", "icon"))
        if fetched and re.match(r"(https?:)?//", a.get("src") or a.get("href") or ""):
            self.foreign.append(a.get("src") or a.get("href"))
    def handle_endtag(self, tag): self.skip -= tag in ("script", "style", "annotation")
    def handle_data(self, data):
        if not self.skip: self.text.append(data)


def pieces_in_html(markdown):
    "The parts of a paragraph whose letters stand in the HTML as they do in the source."
    if markdown.startswith((":::", "<!--")): return []
    if markdown.startswith("```"): return ["\n".join(markdown.splitlines()[1:-1])]
    codes = re.findall(r"`[^`\n]+`", markdown)
    text = re.sub(r"`[^`\n]+`", "\0", markdown)   # nothing within code is a tag, a formula or an attribute
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|\{[^}\n]*[.#=][^}\n]*\}|</?[a-zA-Z](?!\w*:)[^>\n]*>|^\s*\d+\.\s|\[\^\w+\]:?",
                  "", text, flags=re.M)
    parts = re.split(r"\$\$.*?\$\$|\$[^$\n]+\$|^\s*\d+\.\s", html.unescape(text), flags=re.S | re.M)
    queue = iter(codes)
    return ([re.sub("\0", lambda _: next(queue, ""), part) for part in parts] if text.count("\0") == len(codes)
            else [p for part in parts for p in part.split("\0")])


def check_html(folder, pages, base="/", own=()):
    "A rendered site: no page without its text, links and anchors, alt texts, nothing from elsewhere."
    folder, seen = Path(folder).resolve(), {}
    for file in sorted(folder.rglob("*.html")): seen[file] = Rendered(file.read_text(errors="replace"))
    for name, page in pages.items():
        file = folder/name.parent/front_matter(page)["output-file"]
        if file not in seen: yield f"{name}: was not rendered, {file.relative_to(folder)}"; continue
        text = plain("".join(seen[file].text))
        for field in ("title", "description"):
            if plain(str(front_matter(page)[field])) not in text: yield f"{name}: the page does not show its {field}"
        for kind, piece in content(page, first=False):
            if kind not in ("text", "printed"): continue
            if lost := [p for p in (pieces_in_html(piece) if kind == "text" else [piece]) if plain(p) not in text]:
                yield f"{name}: the page lost {lost[0].strip()[:80]!r}"
    for file, page in seen.items():
        name = file.relative_to(folder)
        yield from (f"{name}: an image without a text, {src}" for src in page.wordless)
        yield from (f"{name}: fetches {url[:80]}" for url in page.foreign if not url.startswith(tuple(own)))
        for link in page.links:
            url = urlsplit(html.unescape(link))
            if url.scheme or url.netloc: continue
            place = folder/url.path[len(base):] if url.path.startswith(base) else file.parent/unquote(url.path)
            target = Path(os.path.normpath(place)) if url.path else file
            if target.is_dir(): target = target/"index.html"
            if not target.exists(): yield f"{name}: link that leads nowhere, {link}"
            elif url.fragment and target in seen and unquote(url.fragment) not in seen[target].ids:
                yield f"{name}: no place #{url.fragment} in {target.relative_to(folder)}"
    for sheet in folder.rglob("*.css"):
        for url in re.findall(r"@import\s+(?:url\()?[\"']?(https?:[^\"')]+)|url\([\"']?(https?:[^\"')]+)",
                              sheet.read_text(errors="replace")):
            yield f"{sheet.relative_to(folder)}: fetches {''.join(url)[:80]}"
    if not seen: yield f"{folder}: no page"


def check_links(name, page, pages, source, site):
    "Links and images of a page, and names that look like those of this package."
    markdown = markdown_of(page)
    here = source/name.parent
    for target in re.findall(r"\]\(<?([^)>\s]+)>?[^)]*\)", markdown) + re.findall(r'(?:src|href)="([^"]+)"', markdown):
        target = html.unescape(target)
        if target.startswith(site["home"] + "/"): target, base = target[len(site["home"]) + 1:], source
        elif target.startswith(site["files"]):
            if not (ROOT/unquote(urlsplit(target).path.split("/blob/main/")[-1])).exists():
                yield f"{name}: link to a file that is not there, {target}"
            continue
        elif urlsplit(target).scheme or target.startswith("//"): continue
        else: base = here
        path, _, anchor = unquote(target).partition("#")
        file = Path(os.path.normpath(base/path)) if path else source/name
        if file.suffix == ".html":
            file = (source/site["pages"].get(file.relative_to(source), file.with_suffix(".ipynb"))
                    if file.is_relative_to(source) else file)
        if not file.is_relative_to(source) or not file.exists(): yield f"{name}: link that leads nowhere, {target}"
        elif anchor and file.suffix == ".ipynb" and anchor.lower() not in {
                a.lower() for a in anchors_of(pages[file.relative_to(source)])}:
            yield f"{name}: no place #{anchor} in {file.relative_to(source)}"
    for dotted in set(re.findall(r"`(rl4vlm(?:\.\w+)+)(?:\([^`]*\))?`", markdown)):
        if not resolves(dotted): yield f"{name}: `{dotted}` is no name of the package"


def resolves(dotted):
    "Whether a dotted name is a module or something in it, under its name of today."
    parts = dotted.split(".")
    if ((ROOT/Path(*parts)).suffix in (".yaml", ".html", ".ini")
        or (ROOT/"/".join(parts[:-1])).with_suffix("." + parts[-1]).exists()):
        return True
    for n in range(len(parts), 0, -1):
        try: value = importlib.import_module(".".join(parts[:n]))
        except ImportError: continue
        for part in parts[n:]:
            fields = {**getattr(value, "__dataclass_fields__", {}), **getattr(value, "__annotations__", {})}
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)   # a name that has moved
                try: value = getattr(value, part)
                except FutureWarning: return False
                except AttributeError:
                    if part not in fields: return False
                    value = None
        return True
    return False


OLD_WORDS = {   # of no field but ours: what was said -> the word of nbs/glossary.ipynb
    r"\bseats?\b": "environment, or segment",
    r"\bfixed shapes?\b|\bshapes that stay\b": "static cache", r"\bfewer bits\b": "quantization",
    r"\bso manieth\b": "every n-th", r"\bpictures?\b": "image",
    r"(?<!standard )\bdeviations?\b": "standard deviation", r"\bpupils?\b": "student, or model",
    r"\bways? to judge\b|\bjudges? (an? |each |the )?(turn|action|episode)s?\b|\bjudged in\b"
    r"|\bjudgements?\b": "advantage",}


def prose_of(page):
    "The text cells without code: what somebody reads aloud."
    source = "\n\n".join(text_of(c["source"]) for c in page["cells"] if c["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", " ", source, flags=re.S)


def check_words(name, page):
    "One concept, one word: those that the glossary replaced are gone."
    prose = " ".join(prose_of(page).split())
    for old, word in OLD_WORDS.items():
        for m in re.finditer(old, prose, re.I):
            yield f"{name}: {m[0]!r}, say {word} (glossary): …{prose[max(0, m.start() - 30):m.end() + 20]}…"


def glossary(page):
    "The rows of the glossary: {term: (symbol, meaning, where it is defined)}."
    rows = [[w.strip() for w in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
            for line in markdown_of(page).splitlines() if line.startswith("| ") and not line.startswith("| term |")]
    for row in rows: assert len(row) == 4, row
    return {term: tuple(rest) for term, *rest in rows}


def check_glossary(name, page, pages):
    "Each term has a meaning, and code or a page that defines it."
    for term, (_, meaning, where) in glossary(page).items():
        defined = re.findall(r"`(rl4vlm(?:\.\w+)+)`", where)
        linked = [Path(p) for p in re.findall(r"\]\(([^)#]+)", where)]
        if not meaning.strip() or not (defined or linked): yield f"{name}: {term!r} lacks a meaning or a place"
        for wrong in [d for d in defined if not resolves(d)] + [str(p) for p in linked if p not in pages]:
            yield f"{name}: {term!r} is not defined in {wrong}"


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
                if not (own or comments[p.name].docment or re.search(rf"\b{p.name}\b", said or "")):
                    yield f"{module.name}.{name}: parameter {p.name} is not documented"


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
        if listed.count(page) != 1:
            yield f"_quarto.yml: {page} is {'not' if page not in listed else 'more than once'} in the sidebar"
    if (ROOT/"nbs"/"_quarto.yml").resolve() != (ROOT/"_quarto.yml").resolve():
        yield "nbs/_quarto.yml is not a link to ../_quarto.yml"


def check_readme():
    done = subprocess.run([sys.executable, ROOT/"scripts"/"readme.py", "--check"], capture_output=True, text=True)
    if done.returncode: yield done.stderr.strip()
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT/"README.md").read_text()):
        if not urlsplit(target).scheme and not (ROOT/target).exists():
            yield f"README.md: link that leads nowhere, {target}"


def tell(pages, problems):
    for problem in problems: print(problem)
    print(f"{len(pages)} pages checked, {len(problems)} problems")
    return bool(problems)


def main():
    from configparser import ConfigParser
    settings = ConfigParser(); settings.read(ROOT/"settings.ini"); settings = settings["DEFAULT"]
    site = dict(home=settings["doc_host"] + settings["doc_baseurl"], files=settings["git_url"] + "/blob/main/")
    if "--html" in sys.argv:
        pages, folder = pages_of(ROOT/"_proc"), sys.argv[sys.argv.index("--html") + 1]
        return tell(pages, list(check_html(folder, pages, settings["doc_baseurl"] + "/", [settings["git_url"] + "/"])))
    import rl4vlm._modidx
    builder = script("site")
    found, problems = builder.homes(rl4vlm._modidx.d["syms"]), []
    def means(name, called): return builder.means(name, called, found)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()/"copy"
        left = shutil.ignore_patterns(".git", ".venv", "runs", "_docs", "_proc", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, folder, symlinks=True, ignore=left)
        done = subprocess.run([sys.executable, "scripts/site.py", "--process"], cwd=folder,
                              env={**os.environ, "PYTHONPATH": str(folder)}, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode: sys.exit(f"the notebooks could not be processed:\n{done.stdout[-4000:]}")
        pages = pages_of(processed := folder/"_proc")
        # core.html: 00_core.ipynb
        site["pages"] = {name.parent/m[1]: name for name, page in pages.items()
                         if (m := re.search(r"^output-file: *(\S+)", text_of(page["cells"][0]["source"]), re.M))}
        notebooks = pages_of(folder/"nbs")
        for name, page in pages.items():
            problems += [*check_page(name, page), *check_links(name, page, pages, processed, site),
                         *check_headings(name, page), *check_alt(name, page),
                         *check_doclinks(name, page, site["home"], means)]
            problems += [*check_first(name, notebooks[name], page), *check_nothing_lost(name, notebooks[name], page),
                         *check_sources(name, notebooks[name], page), *check_words(name, notebooks[name])]
            if "--words" in sys.argv: print(name, *words_both(notebooks[name], page))
        missing = [n for n in notebooks if n not in pages and not n.name.startswith("_")]
        problems += [f"{n}: was not processed" for n in missing]
    problems += check_glossary("glossary.ipynb", notebooks[Path("glossary.ipynb")], notebooks)
    problems += [*check_names(), *check_sidebar(list(pages)), *check_readme()]
    return tell(pages, problems)


if __name__ == "__main__": sys.exit(main())

"""Look into what would be published: python scripts/check_wheel.py dist

The wheel holds every module and every file that the package reads when it runs, no tests and no notebooks, and its
version is that of the package and, on a tag, that of the tag.
"""
import os
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(wheel):
    "What is wrong with a wheel, a line each."
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT/"rl4vlm").rglob("*")
              if p.suffix in (".py", ".yaml", ".html", ".json", ".typed") or p.name == "py.typed"}
    yield from (f"{name} is missing" for name in sorted(wanted - names))
    yield from (f"{name} does not belong there" for name in sorted(names)
                if not name.startswith(("rl4vlm/", "rl4vlm-")))
    version = re.search(r'__version__ = "(.+?)"', (ROOT/"rl4vlm/__init__.py").read_text())[1]
    if f"-{version}-" not in wheel.name: yield f"it is not version {version}"
    tag = os.environ.get("GITHUB_REF_NAME", "")
    if os.environ.get("GITHUB_REF_TYPE") == "tag" and tag != f"v{version}":
        yield f"the tag is {tag} and the package is {version}"


def main():
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
    if len(wheels) != 1: sys.exit(f"error: {sys.argv[1]} holds {len(wheels)} wheels, wanted one")
    found = list(problems(wheels[0]))
    print("\n".join(found) or f"{wheels[0].name}: complete")
    return bool(found)


if __name__ == "__main__": sys.exit(main())

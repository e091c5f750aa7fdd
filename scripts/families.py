"""What becomes of each of transformers' image-text-to-text classes here: fast, plain, or refused, because.

usage: python scripts/families.py [--write] [FAMILY ...]

Builds a small model of each class (or of those that are named), holds it to every clause of the contract and prints a
line. `--write` puts the outcomes into `rl4vlm/families.json`, from which the page "Model families" is made.

Exit status: 1 if an outcome is another than the file says (without `--write`), else 0.
"""
import argparse
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")
FILE = Path(__file__).resolve().parent.parent/"rl4vlm"/"families.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="all, if none is named")
    parser.add_argument("--write", action="store_true", help="put the outcomes into rl4vlm/families.json")
    options = parser.parse_args()
    import transformers
    from rl4vlm.contract import family_outcome
    from rl4vlm.families import family_classes
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    known, wrong = json.loads(FILE.read_text()) if FILE.exists() else {}, 0
    for family in options.families or sorted(family_classes()):
        found = family_outcome(family)
        print(f"{family:<24}{found['path']:<9}{found['clauses'] or found['because']}", flush=True)
        if found["path"] == "refused" and found["clauses"]: print(f"{'':<33}{found['because']}", flush=True)
        wrong += found != known.get(family)
        if options.write:
            known[family] = found
            rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(known.items())]
            FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    return int(bool(wrong) and not options.write)


if __name__ == "__main__": sys.exit(main())

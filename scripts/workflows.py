"""Run the steps of the workflows in .github/workflows here, as far as they can.

    python scripts/workflows.py [NAME ...] [--list]

Each `run` step is run by bash in a copy of the checked-out commit and what is not committed, in the order of its job,
with the job's `env`. Of the expressions, `github.event_name` is 'pull_request' here and a matrix takes its first value.
A step that only the hosting service can take (checkout, artifacts, publishing) is named and left out; so is one whose
program or address this machine has not, with the reason. Installing is left out too: the steps run with the packages of
this Python. `--list` says what would be done.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
import yaml

ROOT = Path(__file__).resolve().parent.parent
NEEDS = {"scripts/site.py": "quarto", "--html _docs": "quarto"}


def filled(text, job):
    "Expressions of the workflow as they are in a pull request here."
    first = {k: v[0] for k, v in job.get("strategy", {}).get("matrix", {}).items()}
    text = re.sub(r"\$\{\{\s*matrix\.(\w+)\s*\}\}", lambda m: str(first[m[1]]), text)
    text = re.sub(r"\$\{\{\s*github\.event_name == 'pull_request' && '([^']*)' \|\| '[^']*'\s*\}\}", r"\1", text)
    if left := re.search(r"\$\{\{.*?\}\}", text): sys.exit(f"error: {left[0]} is not known to scripts/workflows.py")
    return text


def plan(workflow):
    "(job, command, why it is left out or None) for each step."
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            if "uses" in step: yield name, step["uses"], "done by the hosting service"; continue
            command = filled(step["run"], job)
            missing = next((program for mark, program in NEEDS.items()
                            if mark in command and not shutil.which(program)), None)
            why = (f"{missing} is not installed" if missing else "would change this Python" if "pip install" in command
                   else "would change this user's git" if "--global" in command else None)
            yield name, command, why


def main():
    asked = [a for a in sys.argv[1:] if not a.startswith("--")]
    files = {p.stem: p for p in sorted((ROOT/".github"/"workflows").glob("*.yml"))}
    if unknown := set(asked) - set(files):
        sys.exit(f"error: no workflow {', '.join(sorted(unknown))}; there are {', '.join(files)}")
    failed = 0
    for name in asked or files:
        workflow = yaml.safe_load(files[name].read_text())
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)/"checkout"
            if "--list" not in sys.argv:
                shutil.copytree(ROOT, copy, symlinks=True,
                                ignore=shutil.ignore_patterns(".venv", "runs", "_docs", "_proc", "__pycache__"))
            for job, command, why in plan(workflow):
                print(f"{name}/{job}: {'left out, ' + why + ': ' if why else ''}{command}", flush=True)
                if why or "--list" in sys.argv: continue
                env = {**os.environ, **{k: str(v) for k, v in workflow["jobs"][job].get("env", {}).items()},
                       "PYTHONPATH": str(copy), "GITHUB_WORKSPACE": str(copy)}
                rc = subprocess.run(["bash", "-eo", "pipefail", "-c", command], cwd=copy, env=env).returncode
                if rc: print(f"{name}/{job}: failed with exit status {rc}"); failed += 1; break
    return bool(failed)


if __name__ == "__main__": sys.exit(main())

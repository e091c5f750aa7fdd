"""Test everything and print one closing line of counts.

1. rl4vlm/ is what nbs/ exports (checked on a copy, nothing here is touched).
2. Every page of the site is sound (scripts/docs_check.py).
3. Every notebook runs, each in a process of its own, under a time limit; saved outputs that are not those of today's
   code are told (scripts/outputs_check.py). With `--full` they fail; another processor rounds sums in another order, so
   there a difference in digits is no fault of the code.
4. tests/, by pytest.

`--quick` leaves out tests marked slow, `--full` adds those marked full. `--coverage` has pytest end with a table of the
package's modules, the share of lines that tests/ run in pytest's own processes: commands that a test starts as a user
does are not counted, nor are the notebooks. It makes the tests slower, so it is off unless asked for.
"""
import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 600   # seconds for one notebook
IN_CHROMIUM = {"17_miniwob", "browser", "mini_wo_b", "mini_wo_b_click_test", "mini_wo_b_enter_text"}   # notebooks


def no_browser():
    "What to install for the notebooks that play in Chromium; nothing where it is there, or must be."
    from rl4vlm.core import UsageError
    from rl4vlm.envs.miniwob import require_browser
    try: require_browser()
    except UsageError as e: return "" if os.environ.get("CI") else str(e)
    return ""


def run(command, timeout, **kwargs):
    "(ok, output, seconds) of a command; one that runs too long counts as failed."
    start = time.time()
    try:
        p = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           errors="replace", timeout=timeout, **kwargs)
        return p.returncode == 0, p.stdout, time.time() - start
    except subprocess.TimeoutExpired as e:
        return False, f"{(e.stdout or b'').decode(errors='replace')}\nno end after {timeout} s", time.time() - start


def same_tree(a, b, pattern):
    "Names of files that differ between two folders."
    names = {p.relative_to(d) for d in (a, b) for p in d.rglob(pattern) if "__pycache__" not in p.parts}
    return sorted(str(n)
                  for n in names if not ((a/n).exists() and (b/n).exists() and filecmp.cmp(a/n, b/n, shallow=False)))


def check_export():
    "The modules are what the notebooks export, and the notebooks are clean."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)/"repo"
        shutil.copytree(ROOT, copy, symlinks=True,
                        ignore=shutil.ignore_patterns(".git", ".venv", "runs", "_docs", "_proc", "*.egg-info"))
        for module in (copy/"rl4vlm").rglob("*.py"): module.unlink()
        subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
        for command in ("nbdev_clean", "nbdev_export"):
            p = subprocess.run([command], cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if p.returncode: return f"{command} failed:\n{p.stdout}"
        wrong = same_tree(ROOT/"rl4vlm", copy/"rl4vlm", "*.py") + same_tree(ROOT/"nbs", copy/"nbs", "*.ipynb")
        return f"not what nbdev_clean and nbdev_export make: {', '.join(wrong)}" if wrong else ""


def test_notebook(path, flags, strict):
    "Run one notebook as `nbdev_test` does; outputs other than those that are saved in it fail it if `strict`."
    env = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="agg")
    told = [] if strict else ["--report"]
    return run([sys.executable, "scripts/outputs_check.py", *told, str(path), "--flags", flags], LIMIT, env=env)


def pytest_command(marks, xml, coverage=False, tests=("tests",)):
    "The command that runs tests of these marks and writes their results to `xml`; with `coverage` it prints a table."
    more = ["--cov=rl4vlm", "--cov-report=term"] if coverage else []
    return [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder",
            "-m", marks, f"--junitxml={xml}", "--durations=8", *more, *map(str, tests)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--full", action="store_true", help="every seed and every kill")
    parser.add_argument("--coverage", action="store_true", help="a table at the end: what tests/ run of each module")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rl4vlm-test-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder   # a run leaves gigabytes of models and compiled code behind
        return test(args)


def test(args):
    "Run everything; True if something failed."
    passed, failed, start = 0, [], time.time()

    problem = check_export()
    print("export: " + (problem or "ok"), flush=True)
    if problem: failed.append("export")
    else: passed += 1

    ok, output, _ = run([sys.executable, "scripts/docs_check.py"], LIMIT)
    print("pages: " + ("ok" if ok else output[-6000:]), flush=True)
    if ok: passed += 1
    else: failed.append("pages")

    notebooks = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb")
                       if not p.name.startswith("_") and ".ipynb_checkpoints" not in p.parts and "_proc" not in p.parts)
    lacking = no_browser()
    without = [p for p in notebooks if p.stem in IN_CHROMIUM] if lacking else []
    for path in without: print(f"skipped {path.relative_to(ROOT)}: {lacking}", flush=True)
    notebooks = [p for p in notebooks if p not in without]
    with ThreadPoolExecutor(2) as pool:
        for path, (ok, output, seconds) in zip(
                notebooks, pool.map(lambda p: test_notebook(p, "slow" if args.full else "", args.full), notebooks)):
            name = path.relative_to(ROOT)
            print(f"{'ok    ' if ok else 'FAILED'} {name} {seconds:.0f} s"
                  + ("" if ok and "saved outputs:" not in output else "\n" + output[-6000:]), flush=True)
            if ok: passed += 1
            else: failed.append(str(name))

    marks = "not slow and not full" if args.quick else "" if args.full else "not full"
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder)/"tests.xml"
        code = subprocess.run(pytest_command(marks, xml, args.coverage), cwd=ROOT,
                              env={**os.environ, "COVERAGE_FILE": f"{folder}/coverage"}).returncode
        cases = list(ET.parse(xml).getroot().iter("testcase")) if xml.exists() else []
    bad = [c.get("name") for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    passed += len(cases) - len(bad) - skipped
    skipped += len(without)
    failed += bad or (["pytest"] if code else [])

    print(f"\n{time.time() - start:.0f} s")
    if failed: print("failed: " + ", ".join(failed))
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped")
    return bool(failed)


if __name__ == "__main__": sys.exit(main())

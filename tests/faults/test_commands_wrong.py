("Wrong commands, made by the dozen: each ends with one line and exit code 1 or 2, no traceback, "
 "and leaves nothing behind.")
import contextlib
import io
import os
import subprocess
import sys
from dataclasses import fields
import pytest
from rl4vlm import cli

FILES = {"bad.yaml": "a: [1\n b: {", "list.yaml": "- 1\n", "text.yaml": "hello\n", "deep.yaml": "[" * 3000,
         "itself.yaml": "task_options: &a {x: *a}\n", "unknown.yaml": "taks: x\n",
         "code.yaml": "task: !!python/object/apply:os.system ['true']\n", "kinds.yaml": "seed: {a: 1}\nout: [1]\n",
         "nul.yaml": 'out: "a\\0b"\n', "latin.yaml": b"task: \xff\n", "plain": "x",
         "syntax_error.py": "def (", "divides.py": "1/0", "exits.py": "import sys; sys.exit(3)",
         "lacks.py": "import not_there_at_all", "two.dots.py": "", "json.py": "",
         "half.json": "{", "null.json": "null", "rows.json": '[{"a": 1}]', "deep.json": "[" * 5000,
         "bytes.json": bytes(range(256)), "half.jsonl": '{"a": 1}\n{',
         "eps/00000.parquet": "broken", "data/train.parquet": "broken",
         "mine/notes.txt": "mine", "empty/": "", "folder.json/": "", "folder.yaml/": "",
         "odd_run/config.yaml": "[1,", "odd_run/x": "1", "text_run/config.yaml": "hello", "text_run/x": "1",
         "m_broken/config.json": "{", "m_broken/model.safetensors": "x", "m_list/config.json": "[1]",
         "m_list/model.safetensors": "x", "m_text/config.json": '{"model_type": "gpt2"}',
         "m_text/model.safetensors": "x", "m_new/config.json": '{"model_type": "zzz"}', "m_new/model.safetensors": "x",
         "a_bare/adapter_config.json": "{}", "a_half/adapter_config.json": "[",
         "a_lost/adapter_config.json": '{"peft_type": "LORA", "base_model_name_or_path": "./nowhere"}'}
RUNS = ("quickstart", "pipeline", "collect", "sft", "ppo", "trl-rloo", "eval")
BASIC = {"collect": ["--episodes", 1, "--rollout.envs", 1], "sft": ["--captions"], "eval": ["--panel", "val-50"],
         "preprocess": ["--data", "eps"], "tasks": ["--task", "NumberLine"],
         "merge": ["--model", "a_lost"], "alfworld": ["generate", "OUT"], "report": ["odd_run"]}
LONG, NUL = "a" * 300, "a\0b"


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name, content in FILES.items():
        path = tmp_path/name
        if name.endswith("/"): path.mkdir(parents=True); continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RL4VLM_CACHE", str(tmp_path/".cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def wrong(place, commands):
    "Run commands in this process, and say what is wrong with how they end."
    here = lambda: {str(p) for p in place.rglob("*") if not {".cache", "__pycache__"} & set(p.parts)}
    before, problems = here(), []
    for command in commands:
        command = list(map(str, command))
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = cli.main(command)
        except BaseException as e: problems.append(f"{command}: {type(e).__name__}: {e}"[:300]); code = None
        lines = err.getvalue().splitlines()
        if code is not None and (code not in (1, 2) or len(lines) != 1 or not lines[0].startswith("error: ")):
            problems.append(f"{command}: exit {code}, {lines[-3:]}")
        if left := here() ^ before: problems.append(f"{command} changed {sorted(left)[:3]}"); before = here()
    return problems


def hash_of(command): return sum(map(ord, command)) % 4


def options_of(command):
    "Values that do not fit, for each option by its type."
    for f in fields(cli.COMMANDS[command][1]):
        kind = str(f.type)
        values = (["abc", "1.5", "null", "[1]", "{a: 1}", "{"] if kind == "<class 'int'>"
                  else ["abc", "null", "[1]", "{"] if "float" in kind and "None" not in kind
                  else ["maybe", "null", "7"] if "bool" in kind
                  else ["1", "abc", "[1]", "{a"] if kind.startswith("dict") else [])
        for value in values: yield [command, *BASIC.get(command, []), f"--{f.name}={value}"]


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_options_configs_and_imports(place, command):
    basic = BASIC.get(command, [])
    commands = [[command, *words] for words in (["--nosuch"], ["--nosuch", 1], ["a", "b", "c", "--x"], ["-x"],
                                                ["--config"], ["--="], ["--out=" + NUL], ["--import"])]
    commands += list(options_of(command))
    commands += [[command, "--config", f]
                 for f in ("nowhere.yaml", "bad.yaml", "list.yaml", "text.yaml", "deep.yaml", "itself.yaml",
                           "unknown.yaml", "code.yaml", "latin.yaml", "folder.yaml", "empty", "plain/x", LONG, NUL)]
    commands += [[command, *basic, "--import", m]
                 for m in ("nowhere", "./nowhere.py", "/nowhere/x.py", "syntax_error", "./syntax_error.py", "divides",
                           str(place/"divides.py"), "exits", "lacks", "./two.dots.py", "./json.py", "./empty", "a..b",
                           ".", "/", "", NUL)]
    if command != "collect": commands = commands[hash_of(command)::4]     # another quarter of them for each command
    assert not (problems := wrong(place, commands)), "\n".join(problems)


@pytest.mark.parametrize("command", RUNS)
def test_tasks_folders_and_models(place, command):
    basic = BASIC.get(command, [])
    commands = [[command, *basic, "--task", t]
                for t in ("nosuch", "", "[red]", "../x", "numberline", "a\nb", "\x1b[2J")]
    for option in ("nosuch 1", "max_turns abc", "max_turns null", "max_turns [1]", "actions []", "actions [a,a]",
                   "actions 5", "goal 5", "fields 5", "fields [a]", "thoughts 5", "text_only abc", "history abc",
                   "env_kwargs 5", "invalid x", "invalid 5", "name x", "make_env 5", "history_images true"):
        commands.append([command, *basic, "--task", "NumberLine", "--task_options." + option.split()[0],
                         option.split()[1]])
    if command not in ("sft", "trl-rloo"):
        for option in ("env_id nosuch", "env_id no/Such-v0", "env_id a:b:c", "env_id nomodule:X-v0", "env_id 5",
                       "env_kwargs.nosuch 1"):
            commands.append([command, *basic, "--task", "NumberLine", "--task_options." + option.split()[0],
                             option.split()[1], *([] if command in ("collect", "eval") else ["--dry-run"] * 0)])
        if command not in ("collect", "eval"): commands = commands[:-6]     # these make the tiny model first
    for out in ("/proc/x/y", "/dev/null", "plain", "plain/under", "mine", LONG, "odd_run", "text_run"):
        commands += [[command, *basic, "--out", out]]
        if out in ("odd_run", "text_run"): commands += [[command, *basic, "--out", out, "--resume"]]
    if command not in ("collect",):
        for model in ("nowhere", "./nowhere", "/nowhere/x", "plain", "empty", "m_broken", "m_list", "m_text", "m_new",
                      "a_bare", "a_half", "a_lost", "tinyx", "a/b/c", "http://x/y", LONG, "odd_run", "org/name", "..",
                      " ", "tiny:nosuch"):
            commands.append([command, *basic, f"--model={model}", "--out", "w"])
    if command in ("pipeline", "quickstart"): commands = commands[hash_of(command)::4]
    if command == "trl-rloo": commands = [[w if w != "NumberLine" else "PickImage" for w in c] for c in commands]
    assert not (problems := wrong(place, commands)), "\n".join(problems)


def test_what_belongs_to_one_command(place):
    commands = [["collect", *BASIC["collect"], who, name, "--ask.retries", 0, "--out", "w"]
                for who in ("--actor", "--label")
                for name in ("nosuch", "local:", "local:m_list", "local:a_bare", "openai:", "openai:x", "openai:x@",
                             "openai:m@ftp://x", "openai:m@http://", "openai:m@http://u:p@h",
                             "openai:m@http://h/#key=1", "openai:m@http://h:abc", "openai:m@http://[::1", ":")]
    for data in ("nowhere", "nowhere.json", "plain", "empty", "eps", "data", "folder.json", "bytes.json", "half.json",
                 "null.json", "rows.json", "deep.json", "half.jsonl", "/dev/null", LONG + ".json", "plain/x.json"):
        commands += [["preprocess", "--data", data, "--out", "w"],
                     ["preprocess", "--data", data, "--out", "w", "--filter.success"],
                     ["sft", "--data", data, "--out", "w"],
                     ["sft", "--data", data, "--out", "w", "--rows.on_bad_row", "skip"]]
    commands += [["eval", *words, "--out", "w"]
                 for words in (["--tasks", "nosuch"], ["--compare", "a"], ["--compare", "a", "a"], ["--panel", "5"],
                               ["--rollout.workers", -2], ["--model", "tiny:nosuch"])]
    commands += [["ppo", *words, "--out", "w"]
                 for words in (["--run.trackers", "nosuch"], ["--lora.parts", "x"], ["--trainable", "x"],
                               ["--advantage.group_size", 3, "--advantage.estimator", "rloo"],
                               ["--run.panel", "nosuch"])]
    commands += [[c, f"--model={m}", "--dry-run"] for c in ("ppo", "sft")
                 for m in ("nowhere", "m_list", "m_new", "a_bare", "a_half", "a_lost", "tiny")]
    commands += [["report", *words]
                 for words in (["nowhere"], ["plain"], ["empty"], ["/dev/null"], ["odd_run", "nowhere"],
                               ["odd_run", "--out", "/proc/x.html"], ["odd_run", "--out", "plain/x.html"],
                               ["nowhere", "--serve"], ["odd_run", "--serve", "--port", 70000], ["--runs", "[]"])]
    commands += [["merge", "--model", m, "--out", o] for m in ("a_lost", "a_bare", "odd_run", "nowhere")
                 for o in ("new", "plain", "mine", "/proc/x")]
    commands += [["tasks", "--task", "NumberLine", "--out", o]
                 for o in ("x", "x.nosuch", "/proc/x.png", "plain/x.png", LONG + ".png")]
    commands += [["alfworld", *words]
                 for words in (["generate"], ["make", "x"], ["generate", "/proc/x"], ["generate", "plain"],
                               ["generate", "g", "--types", "nosuch"], ["generate", "g", "--places", 1],
                               ["generate", "g", "--n", 0], ["generate", LONG])]
    commands += ([[c, "--out", "mine", "--from", "ppo"] for c in ("pipeline", "quickstart")]
                 + [["pipeline", "--from", "nosuch"], ["nosuch"], [""], ["PPO"]])
    assert not (problems := wrong(place, commands)), "\n".join(problems)


def test_a_command_that_fails_early_takes_its_own_folder_along_and_nothing_else(place):
    from rl4vlm.cli import leaves_nothing
    def fails(out, write):
        with pytest.raises(RuntimeError), leaves_nothing(out):
            for name in write:
                (place/out/name).parent.mkdir(parents=True, exist_ok=True)
                (place/out/name).write_text("1")
            raise RuntimeError
        return (sorted(p.name for p in (place/out.split("/")[0]).rglob("*")) if (place/out.split("/")[0]).exists()
                else None)
    assert fails("new/deep/run", ["config.yaml", "data/.x"]) is None
    # it had begun
    assert fails("new/deep/run", ["config.yaml", "metrics.jsonl"]) == ["config.yaml", "deep", "metrics.jsonl", "run"]
    assert fails("empty", ["config.yaml"]) == []
    assert fails("mine", ["config.yaml"]) == ["config.yaml", "notes.txt"]      # was there before


def test_import_takes_paths_also_in_worker_processes(place):
    (place/"sub").mkdir()
    (place/"sub"/"lake_helper.py").write_text("GOAL = 'Walk over the ice.'")
    (place/"sub"/"lake_task.py").write_text('''
from lake_helper import GOAL
from rl4vlm.tasks import Task, register_task
@register_task
class LakeByPath(Task):
    env_id, env_kwargs, goal = "FrozenLake-v1", dict(render_mode="rgb_array"), GOAL
    actions = ["left", "down", "right", "up"]
''')
    for number, name in enumerate(("./sub/lake_task.py", str(place/"sub"/"lake_task.py"))):
        err = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            code = cli.main(["collect", "--import", name, "--task", "LakeByPath", "--actor", "random",
                             "--episodes", "2", "--rollout.envs", "2", "--rollout.workers", "2", "--out", f"r{number}"])
        assert code == 0, err.getvalue()
    for m in ("lake_task", "lake_helper"): sys.modules.pop(m, None)


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["ppo", "--help"], ["tasks", "--help"], ["doctor"], ["ppo", "--print_config"]],
    ids=" ".join)
def test_a_reader_that_goes_is_no_fault(words):
    "As `rl4vlm --help | head -1`: the pipe is closed before anything was written."
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        done = subprocess.run([sys.executable, "-m", "rl4vlm.cli", *words], stdout=gone, stderr=subprocess.PIPE,
                              text=True, timeout=300)
    assert done.returncode in (0, 141) and "Traceback" not in done.stderr and "roken" not in done.stderr, done.stderr

"SECURITY.md, checked: no code from models, data or checkpoints is run, and no environment variable or key is written."
import ast
import json
import re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [p for folder in ("rl4vlm", "scripts") for p in sorted((ROOT/folder).rglob("*.py"))]
ALLOWED = {   # file: what may stand there, each explained in SECURITY.md
    "rl4vlm/env_pool.py": {"cloudpickle", "cloudpickle.loads"},        # a task, to worker processes of the same user
    "rl4vlm/envs/alfworld_thor.py": {"pickle", "pickle.loads"},      # images, from a child process of the same user
}


def name_of(node):
    "torch.load of a call's function; empty for what is no plain name."
    if isinstance(node, ast.Name): return node.id
    if isinstance(node, ast.Attribute): return f"{inner}.{node.attr}" if (inner := name_of(node.value)) else ""
    return ""

def dangers(source):
    "What could run code that came from outside."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for module in [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]:
                if module.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"):
                    yield module
        if (isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle", "trust_remote_code")
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)):
            yield node.arg
        if not isinstance(node, ast.Call): continue
        called, options = name_of(node.func), {k.arg: k.value for k in node.keywords}
        if (called.endswith((".from_pretrained", ".from_config"))
            and not called.startswith(("Peft", "Task.", "VLMPolicy.")) and "trust_remote_code" not in options):
            yield f"{called} without trust_remote_code=False"
        if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"): yield called
        if called.endswith(("pickle.load", "pickle.loads", "read_pickle", "joblib.load")): yield called
        if called.endswith("torch.load") and not (isinstance(w := options.get("weights_only"), ast.Constant)
                                                  and w.value is True):
            yield "torch.load"
        if called in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"): yield called


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_from_outside_is_run(path):
    here = str(path.relative_to(ROOT))
    assert set(dangers(path.read_text())) <= ALLOWED.get(here, set())


def test_the_exceptions_are_still_needed():
    for path, names in ALLOWED.items():
        assert names <= set(dangers((ROOT/path).read_text())), f"{path} no longer needs all of {names}"


@pytest.mark.parametrize("line", ["eval(text)", "exec(text)", "import pickle", "from dill import loads",
                                  "torch.load(f)", "torch.load(f, weights_only=False)", "yaml.load(f)",
                                  "subprocess.run(c, shell=True)", "np.load(f, allow_pickle=True)",
                                  "load(n, trust_remote_code=True)", "load(n, trust_remote_code=asked)",
                                  "AutoConfig.from_pretrained(n)", "AutoModel.from_config(c)", "os.system(c)",
                                  "pd.read_pickle(f)"])
def test_each_danger_is_seen(line): assert list(dangers(line))


@pytest.mark.parametrize("line",
                         ["model.eval()", "re.compile(p)", "torch.load(f, weights_only=True)", "yaml.safe_load(f)",
                          "ast.literal_eval(t)", "AutoConfig.from_pretrained(n, trust_remote_code=False)",
                          "PeftConfig.from_pretrained(n)", "subprocess.run(c, shell=False)"])
def test_what_is_harmless_is_let_through(line): assert not list(dangers(line))


def test_the_page_names_the_exceptions():
    page = (ROOT/"SECURITY.md").read_text()
    for word in ("cloudpickle", "weights_only=True", "trust_remote_code", "DeepSpeed checkpoints", "AI2-THOR",
                 "ALFWorld's engine", "OPENAI_API_KEY"):
        assert word in page


@pytest.mark.parametrize("name", ["api_key", "apiKey", "hf_token", "PASSWORD", "client.secret", "auth"])
def test_keys_are_not_recorded(name):
    from rl4vlm.tracking import plain_config
    assert "hunter2" not in json.dumps(plain_config({"a": {name: "hunter2"}, name: "hunter2"}))


def test_no_environment_variable_is_written(tmp_path, rl4vlm, blind_model):
    "A run with every kind of secret in its environment leaves none of them in any file."
    secrets = dict(OPENAI_API_KEY="sk-zebra-1111", WANDB_API_KEY="zebra-2222" * 4, HF_TOKEN="hf_zebra3333",
                   MY_PLAIN_VARIABLE="zebra-4444")
    rl4vlm("ppo", "--model", blind_model, "--updates", 1, "--rollout.envs", 2, "--rollout.steps", 1,
           "--optim.minibatch", 2, "--sampling.max_new_tokens", 2, "--run.trackers", "tensorboard", "--out", "run",
           **secrets)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.name == "config.yaml" for p in files) and any("tfevents" in p.name for p in files)
    for p in files: assert b"zebra" not in p.read_bytes(), f"{p.relative_to(tmp_path)} holds an environment variable"


def test_no_option_takes_a_key():
    from dataclasses import fields
    from rl4vlm.cli import COMMANDS
    from rl4vlm.core import SECRET_WORDS
    for command, (_, config) in COMMANDS.items():
        for f in fields(config):
            secret = SECRET_WORDS & set(re.split("_", f.name))
            assert not secret, f"rl4vlm {command} --{f.name} would put a secret into a process list"

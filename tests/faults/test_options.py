("Options: every one has a reader, what cannot be honoured is refused, and what is written in a header, "
 "README or page can be typed.")
import ast
import dataclasses
import json
import math
import re
import shlex
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
import pytest
import yaml
import rl4vlm.config as config_module
from rl4vlm.cli import COMMANDS, main, read_options
from rl4vlm.config import EvalConfig, LoRAConfig, PipelineConfig, PPOConfig, SFTConfig, TRLConfig
from rl4vlm.core import InvariantError, UsageError
from rl4vlm.tasks import Task, make_task

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [c for c in vars(config_module).values() if isinstance(c, type) and is_dataclass(c)]
NEEDED = dict(MergeConfig=dict(model="a", out="b"), AlfworldConfig=dict(out="a"),
              EngineCommandConfig=dict(do="install"))
make = lambda c, **more: c(**{**NEEDED.get(c.__name__, {}), **more})
number = lambda f: re.search(r"\b(int|float|Any)\b", str(f.type))


# every option has a reader
READERS = dict(PPOConfig=("ppo", "batch", "advantages"), TRLConfig=("trl_rloo",),
               SFTConfig=("sft",), EvalConfig=("evaluate",), CollectConfig=("collect",),
               FilterConfig=("filters", "preprocess"), PreprocessConfig=("preprocess",),
               AskConfig=("labellers", "filters"), LoRAConfig=("models", "policy"),
               PipelineConfig=("pipeline",), ReportConfig=("cli",),
               TasksConfig=("task_list",), MergeConfig=("cli",), AlfworldConfig=("cli",), DoctorConfig=("cli",),
               EngineCommandConfig=("cli",), EngineConfig=("engine", "vllm_server"),
               PPOEngineConfig=("ppo", "engine", "vllm_server"), GetConfig=("cli",), RequestConfig=("labellers",),
               ServeConfig=("envs/openenv",))
# they serve every configuration
SHARED_READERS = ("policy", "tasks", "cli", "run_folder", "distributed", "pipeline", "commands")

def readers(config)->set:
    "Modules that read a class: its own, or of a part those of the commands that have it."
    if config.__name__ in READERS: return {*READERS[config.__name__]}
    owners = [c for c in CONFIGS if c is not PipelineConfig
              and any(isinstance(f.type, type) and issubclass(f.type, config) for f in fields(c))]
    assert owners, f"no command has a part {config.__name__}"
    return set().union(*map(readers, owners))

def read_in(module:str)->set:
    "Names of attributes that a module reads, also by getattr and from lists of names."
    found = set()
    for node in ast.walk(ast.parse((ROOT/"rl4vlm"/f"{module}.py").read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load): found.add(node.attr)
        if isinstance(node, (ast.Tuple, ast.Call)):
            found |= {e.value for e in (node.elts if isinstance(node, ast.Tuple) else node.args)
                      if isinstance(e, ast.Constant) and isinstance(e.value, str)}
    return found

def unread(config)->list:
    known = set().union(*(read_in(m) for m in {*readers(config), *SHARED_READERS}))
    return [f.name for f in fields(config) if f.name not in known]

@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.__name__)
def test_every_option_has_a_reader(config): assert unread(config) == []

def test_an_option_without_a_reader_is_found(monkeypatch):
    idle = dataclasses.make_dataclass("PPOConfig", [("wishful", int, 1)], bases=(PPOConfig,))
    assert unread(idle) == ["wishful"]


# numbers that are none
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_option_is_nan_or_infinite(config, value):
    for f in fields(config):
        if not number(f): continue
        given = ({"deep": {"list": [value]}} if "dict" in str(f.type) else [value] if str(f.type).startswith("list")
                 else value)
        with pytest.raises(UsageError, match=rf"{f.name}=.*must be a finite number"): make(config, **{f.name: given})
    with pytest.raises(UsageError): setattr(make(config), next(f.name for f in fields(config)), value)

@pytest.mark.parametrize("config", [c for c in CONFIGS if "seed" in c.__dataclass_fields__], ids=lambda c: c.__name__)
@pytest.mark.parametrize("seed", [-1, 2**32, 10**30])
def test_seeds_that_some_library_refuses(config, seed):
    with pytest.raises(UsageError, match="seed=.*between 0 and 4294967295"): make(config, seed=seed)

@pytest.mark.parametrize("words",
                         ["ppo --seed -1", "sft --seed 99999999999", "eval --seed -5", "pipeline --seed -1",
                          "quickstart --seed -1", "collect --seed -1", "tasks --seed -1", "trl-rloo --seed -1",
                          "ppo --optim.lr .nan", "ppo --loss.clip nan", "eval --sampling.temperature .inf",
                          "pipeline --ppo.optim.lr .inf", "collect --ask.timeout inf", "ppo --task_options.max_turns 0",
                          "eval --task_options.history -1", "collect --task_options.max_turns .inf",
                          "ppo --task_options.max_turns 2.5", "pipeline --task_options.max_turns 0"])
def test_one_line_and_no_folder(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), *(["--data", "x"] if words.startswith("sft") else []),
                 *(["--out", "run"] if not words.startswith("tasks") else [])]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and not list(tmp_path.iterdir())

def test_a_task_of_ones_own_is_held_to_it_too():
    class Short(Task): max_turns = 0
    with pytest.raises(UsageError, match="max_turns=0 of task Short"): Short()


# one way from a configuration to a policy
@pytest.fixture(scope="module")
def adapter(blind_model, tmp_path_factory):
    from rl4vlm.policy import VLMPolicy
    folder = tmp_path_factory.mktemp("adapter")/"a"
    VLMPolicy.load(blind_model, lora=LoRAConfig(r=4, alpha=8)).save(folder)
    return str(folder)

@pytest.mark.parametrize("options, says", [(dict(lora=LoRAConfig(r=32, alpha=64, parts="all")),
                                            r"lora.r=32 \(it has 4\).*lora.parts=all \(it has language\)"),
                                           (dict(trainable="all"), "trainable=all"),
                                           (dict(lora=LoRAConfig(r=4)), r"lora.alpha=32 \(it has 8\)"),
                                           (dict(lora=LoRAConfig(r=4, alpha=8, dropout=0.1)), "lora.dropout=0.1")])
@pytest.mark.parametrize("config", [PPOConfig, SFTConfig, TRLConfig])
def test_an_adapter_is_not_what_was_asked_for(adapter, config, options, says):
    from rl4vlm.policy import VLMPolicy
    with pytest.raises(UsageError, match=says): VLMPolicy.from_config(config(model=adapter, **options))

def test_a_policy_has_what_its_configuration_says(adapter, blind_model):
    from rl4vlm.policy import VLMPolicy
    policy = VLMPolicy.from_config(PPOConfig(model=str(blind_model), lora=LoRAConfig(r=2, alpha=6),
                                             loading=dict(dtype="bfloat16", max_pixels=60 * 60, attention="eager")))
    images = policy.processor.image_processor
    assert policy.base.dtype.__str__() == "torch.bfloat16" and policy.model.peft_config["default"].lora_alpha == 6
    assert images.size["longest_edge"] == 3600 and policy.base.config._attn_implementation == "eager"
    assert VLMPolicy.from_config(PPOConfig(model=adapter,
                                           lora=LoRAConfig(r=4, alpha=8))).model.peft_config["default"].r == 4
    assert VLMPolicy.from_config(EvalConfig(model=adapter)).model.peft_config["default"].r == 4
    heads = [next(VLMPolicy.from_config(PPOConfig(model=str(blind_model), seed=s)).value_head.parameters())
             for s in (1, 1, 2)]
    assert (heads[0] == heads[1]).all() and (heads[0] != heads[2]).any()

def test_options_that_are_about_something_else():
    with pytest.raises(UsageError, match="lora.alpha=64 without lora.r"): LoRAConfig(alpha=64)
    with pytest.raises(UsageError, match="give --lora.parts all"): PPOConfig(trainable="all", lora=LoRAConfig(r=4))

# pairs that make no sense
PAIRS = [("--advantage.estimator bilevel --loss.ratio turn",
          "bilevel of PPOConfig gives each token an advantage of its own and needs loss.ratio=token, not turn"),
         ("--advantage.estimator gae-token --loss.ratio sequence",
          "gae-token of PPOConfig gives each token an advantage of its own and needs loss.ratio=token, not sequence"),
         ("--advantage.estimator drgrpo --loss.ratio sequence",
          "drgrpo of PPOConfig adds up tokens, whatever the length of their answer, "
          "and needs loss.ratio=token, not sequence"),
         ("--loss.objective cispo --loss.ratio sequence",
          "objective=cispo of LossConfig weighs each token by its own ratio"),
         ("--loss.objective cispo --loss.ratio turn",
          "objective=cispo of LossConfig weighs each token by its own ratio"),
         ("--loss.ratio sequence --loss.mismatch_mode token_mask",
          "mismatch_mode=token_mask of LossConfig weighs tokens, and ratio=sequence has one ratio for a turn"),
         ("--advantage.estimator drgrpo --advantage.normalize yes",
          "normalize=yes of AdvantageConfig divides by a standard deviation, which drgrpo is there to leave out"),
         ("--advantage.estimator reinforce++ --advantage.normalize no",
          "normalize=no of AdvantageConfig takes from reinforce++ what makes it one"),
         ("--advantage.estimator gae --advantage.filter_groups 1e-6",
          "filter_groups=1e-06 of AdvantageConfig leaves groups out, and gae has none"),
         ("--advantage.estimator bilevel --advantage.filter_groups 0.1", "and bilevel has none"),
         ("--advantage.estimator gae-token --advantage.answer_lambda 0.9",
          "answer_lambda=0.9 of AdvantageConfig is bilevel's, and gae-token does not read it"),
         ("--advantage.estimator reinforce++ --advantage.group_size 5", "must divide rollout.envs=32"),
         ("--advantage.estimator drgrpo --advantage.group_size 1",
          "drgrpo compares the members of a group, so it takes 2 at least"),
         ("--loss.clip_high 0", "clip_high=0.0 of LossConfig must be above 0"),
         ("--loss.objective dapo", "must be one of ppo, cispo"),
         ("--loss.ratio word", "must be one of token, turn, sequence"),
         ("--advantage.answer_lambda 1.5 --advantage.estimator bilevel",
          "answer_lambda=1.5 of AdvantageConfig must be between 0 and 1")]

@pytest.mark.parametrize("words, says", PAIRS, ids=[w for w, _ in PAIRS])
def test_pairs_that_make_no_sense_are_refused_by_name(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ppo", *words.split(), "--out", "run"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and says in said[0] and not list(tmp_path.iterdir())

@pytest.mark.parametrize("words",
                         ["--advantage.estimator bilevel --advantage.answer_lambda 0.9",
                          "--advantage.estimator reinforce++ --advantage.filter_groups 0.1 --kl.coef 0.1 --kl.kind k2",
                          "--advantage.estimator drgrpo --loss.objective cispo",
                          "--advantage.estimator gigpo --loss.ratio sequence --loss.clip 3e-4 --loss.clip_high 4e-4",
                          "--loss.clip_high 4",
                          "--loss.ratio sequence --loss.mismatch_mode sequence_mask --loss.mismatch_clip_max 2"])
def test_pairs_that_make_sense_are_taken(words): read_options("ppo", words.split())


@pytest.mark.parametrize("script, config", [("train_ppo.py", PPOConfig), ("train_sft.py", SFTConfig)])
def test_scripts_take_the_public_way(script, config):
    text = (ROOT/"scripts"/script).read_text()
    assert "VLMPolicy.from_config(config" in text
    assert "Task.from_config(config)" in text and not re.search(r"load_vlm|VLMPolicy\.load|make_task", text)


# old names
OLD = ROOT/"tests"/"faults"/"old"   # what version 0.1.0 wrote

def test_old_names_are_read_with_a_note(tmp_path, capsys):
    assert read_options("ppo", ["--accumulate", "4"]).optim.microbatches == 4
    assert "note: accumulate is called optim.microbatches now" in capsys.readouterr().err
    assert read_options("trl-rloo", ["--accumulate=4"]).optim.microbatches == 4
    assert read_options("sft", ["--accumulate", "4"]).optim.accumulate == 4
    capsys.readouterr()
    (tmp_path/"old.yaml").write_text("sft:\n  accumulate: 3\nppo:\n  accumulate: 5\n  advantage: rloo\n"
                                     "preprocess:\n  score:\n    agree: true\n")
    c = read_options("pipeline", ["--config", str(tmp_path/"old.yaml"), "--ppo.envs", "16"])
    assert (c.sft.optim.accumulate, c.ppo.optim.microbatches, c.ppo.advantage.estimator, c.ppo.rollout.envs,
            c.preprocess.filter.agree) == (3, 5, "rloo", 16, True)
    assert capsys.readouterr().err.splitlines() == [f"note: {line} now" for line in (
        "ppo.accumulate is called ppo.optim.microbatches",
        "ppo.advantage is called ppo.advantage.estimator", "ppo.envs is called ppo.rollout.envs",
        "preprocess.score.agree is called preprocess.filter.agree", "sft.accumulate is called sft.optim.accumulate")]

def test_every_old_name_leads_somewhere():
    from rl4vlm.config_parts import MOVED, option_paths, today
    paths = {path for _, config in COMMANDS.values() for path in option_paths(config)}
    for old, new in MOVED.items(): assert old == "score" or {*new.split()} <= paths, f"{old} leads nowhere"
    for _, config in COMMANDS.values():
        for path in option_paths(config): assert today(path, option_paths(config)) == path

def test_old_keywords_and_attributes_warn_and_work():
    with pytest.warns(DeprecationWarning, match="advantage of PPOConfig is called advantage.estimator now"):
        c = PPOConfig(advantage="rloo", envs=16, rollout=dict(steps=4))
    assert (c.advantage.estimator, c.rollout.envs, c.rollout.steps) == ("rloo", 16, 4)
    with pytest.warns(DeprecationWarning, match="gamma of PPOConfig is called advantage.gamma now"):
        assert c.gamma == 0.9
    with pytest.warns(DeprecationWarning, match="envs of PPOConfig"):
        assert dataclasses.replace(c, envs=8).rollout == dataclasses.replace(c.rollout, envs=8)
    with pytest.raises(AttributeError): c.nothing_of_the_kind
    with pytest.raises(TypeError): PPOConfig(nothing_of_the_kind=1)

@pytest.mark.parametrize("typed, meant",
                         [("--envz", "--rollout.envs"), ("--lrr", "--optim.lr"), ("--rollout.envz", "--rollout.envs"),
                          ("--thought_wieght", "--loss.thought_weight"), ("--advantge", "--advantage.estimator")])
def test_a_wrong_name_gets_the_nearest_with_its_part(typed, meant):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"): read_options("ppo", [typed, "1"])

@pytest.mark.parametrize("path", sorted(OLD.glob("*.yaml")), ids=lambda p: p.stem)
def test_old_files_mean_the_same(path, capsys):
    command, _, name = path.stem.replace("trl-rloo", "trl_rloo").partition("-")
    command = command.replace("_", "-")
    old = read_options(command, ["--config", str(path)])
    assert "is called" in capsys.readouterr().err
    if name != "run":
        assert old == read_options(command, ["--config", str(ROOT/"scripts/configs"/command/f"{name}.yaml")])
        assert not capsys.readouterr().err

@pytest.mark.parametrize("path", sorted(OLD.glob("*-run.yaml")), ids=lambda p: p.stem)
def test_old_runs_resume(path, tmp_path):
    from rl4vlm.run_folder import claim_run_folder
    now = read_options(path.stem.split("-")[0], ["--config", str(path)])
    (tmp_path/"config.yaml").write_text(path.read_text()); (tmp_path/"metrics.jsonl").write_text("")
    claim_run_folder(tmp_path, asdict(now), resume=True)
    now.optim.lr = 7.0
    with pytest.raises(UsageError, match="optim.lr was .*, now 7.0"):
        claim_run_folder(tmp_path, asdict(now), resume=True)

@pytest.mark.parametrize("was, now", [("true", 1e-6), ("false", 0.0)])
def test_a_switch_that_became_a_number_is_read_with_a_note(was, now, tmp_path, capsys):
    "`filter_groups` on the command line, in YAML under both of its names, in Python, and in a run that is resumed."
    from rl4vlm.config import AdvantageConfig
    from rl4vlm.run_folder import claim_run_folder
    (tmp_path/"old.yaml").write_text(f"advantage: rloo\nfilter_groups: {was}\n")
    (tmp_path/"new.yaml").write_text(f"advantage:\n  estimator: rloo\n  filter_groups: {was}\n")
    for words in (["--advantage.estimator", "rloo", "--advantage.filter_groups", was],
                  ["--advantage.estimator=rloo", f"--filter_groups={was}"],
                  ["--config", str(tmp_path/"old.yaml")], ["--config", str(tmp_path/"new.yaml")]):
        made = read_options("ppo", words)
        assert (made.advantage.filter_groups, type(made.advantage.filter_groups)) == (now, float)
        said = f"note: advantage.filter_groups {was} is called advantage.filter_groups {now} now"
        assert said in capsys.readouterr().err
    with pytest.warns(DeprecationWarning, match=f"is filter_groups={now} now"):
        assert AdvantageConfig(estimator="rloo", filter_groups=was == "true").filter_groups == now
    read_options("ppo", ["--advantage.estimator", "rloo", "--advantage.filter_groups", str(now)])
    assert capsys.readouterr().err == ""
    (tmp_path/"config.yaml").write_text(f"out: {tmp_path}\nseed: 0\nadvantage: rloo\nfilter_groups: {was}\n")
    (tmp_path/"metrics.jsonl").write_text("")
    begun = dict(out=str(tmp_path), seed=0)
    claim_run_folder(tmp_path, {**begun, "advantage": dict(estimator="rloo", filter_groups=now)}, resume=True)
    with pytest.raises(UsageError, match="advantage.filter_groups was .*, now 0.3"):
        claim_run_folder(tmp_path, {**begun, "advantage": dict(estimator="rloo", filter_groups=0.3)}, resume=True)

def test_stages_of_old_pipelines_are_done():
    from rl4vlm.config_parts import first_name, first_value
    from rl4vlm.core import flatten_dict
    from rl4vlm.pipeline import STAGES, stage_key
    from rl4vlm.run_folder import as_before
    old = flatten_dict(yaml.safe_load((OLD/"ppo-run.yaml").read_text()))
    old["accumulate"] = old.pop("microbatches")   # as the keys of finished stages have it
    assert {first_name(k) for k, v in flatten_dict(asdict(PPOConfig())).items() if not as_before(k, v)} == {*old}
    new = {first_name(k): first_value(k, v) for k, v in flatten_dict(asdict(PPOConfig())).items()}
    assert new["filter_groups"] is old["filter_groups"] is False   # the same text in the hash
    assert callable(stage_key) and STAGES


# broken weights and rewards
@pytest.fixture
def broken(blind_model):
    import torch
    from rl4vlm.policy import VLMPolicy
    policy = VLMPolicy.load(blind_model)
    with torch.no_grad():
        for p in policy.base.model.language_model.norm.parameters(): p.fill_(math.nan)
    return policy

@pytest.mark.parametrize("greedy", [False, True])
def test_broken_weights_are_told_in_words(broken, greedy):
    from rl4vlm.evaluate import evaluate
    from rl4vlm.rollout import PolicyActor
    with pytest.raises(InvariantError, match="gives no probabilities for .* its weights are broken"):
        evaluate("NumberLine", PolicyActor(broken, 4, greedy=greedy), range(3), envs=3)

class Unpaid(Task):
    env_id, actions, goal, paid, max_turns = "rl4vlm/NumberLine-v0", ["-", "+"], "Pay.", "nan", 3
    def make_env(self):
        import gymnasium as gym
        class Pay(gym.RewardWrapper):
            def reward(wrapper, reward): return float(self.paid)
        return Pay(make_task("NumberLine").make_env())

@pytest.mark.parametrize("paid", ["nan", "inf", "-inf"])
def test_rewards_that_are_not_finite_stop_every_player(paid):
    from rl4vlm.evaluate import evaluate
    from rl4vlm.rollout import RandomActor, play
    task = Unpaid(paid=paid)
    for run in (lambda: evaluate(task, RandomActor(task), range(2)), lambda: play(task, RandomActor(task), [5])):
        with pytest.raises(InvariantError,
                           match="the reward of turn 0 in the episode of seed .* not finite: task Unpaid"):
            run()


# what is written can be typed
def told()->list: # of (where, words)
    "Every command in headers of scripts and presets, in README, and in the markdown of notebooks."
    found = []
    for path in [ROOT/"README.md", *sorted((ROOT/"scripts").rglob("*")), *sorted((ROOT/"nbs").rglob("*.ipynb"))]:
        if not path.is_file() or path.suffix not in (".md", ".py", ".sh", ".yaml", ".ipynb", ""): continue
        if path.suffix == ".ipynb":
            text = "\n".join("".join(c["source"]) for c in json.loads(path.read_text())["cells"]
                             if c["cell_type"] == "markdown")
        else: text = path.read_text(errors="replace")
        for line in re.sub(r"\\\n\s*#?", " ", text).splitlines():
            line = line.lstrip("# \t").removeprefix("$ ")
            if (re.match(r"(rl4vlm|accelerate launch|torchrun|python scripts/train_) ?\S", line)
                and not re.search(r"…|\.\.\.( |$)|COMMAND|\$\{?[A-Z]|\[--", line)):
                found.append((str(path.relative_to(ROOT)),
                              line.split("   ")[0].split("  #")[0].split(" | ")[0].split(" && ")[0]))
    return found

def split(line):
    "(processes, command, arguments), or None where the line is no command of this package."
    words = shlex.split(line, comments=True)
    processes = next((int(w) for k, w in zip(words, words[1:])
                      if k in ("--num_processes", "--nproc_per_node", "--nproc-per-node") and w.isdigit()), None)
    if processes is None and words[0] == "accelerate" and "--config_file" in words:
        processes = yaml.safe_load((ROOT/words[words.index("--config_file") + 1]).read_text()).get("num_processes", 1)
    for script, command in (("scripts/train_ppo.py", "ppo"), ("scripts/train_sft.py", "sft")):
        if script in words: return processes or 1, command, words[words.index(script) + 1:]
    start = words.index("rl4vlm.cli") if "rl4vlm.cli" in words else 0 if words[0] == "rl4vlm" else None
    if start is None or len(words) < start + 2 or words[start + 1] not in COMMANDS: return None
    return processes or 1, words[start + 1], words[start + 2:]

LINES = sorted({(where, line) for where, line in told()})

def test_there_are_lines_to_try():
    assert len(LINES) > 80 and any("--num_processes 8" in line and "sft/cards_llava" in line for _, line in LINES)

@pytest.mark.parametrize("where, line", LINES, ids=[f"{w}: {l[:60]}" for w, l in LINES])
def test_what_is_written_can_be_typed(where, line, monkeypatch, capsys):
    from rl4vlm.distributed import share_of
    monkeypatch.chdir(ROOT)
    if not (parts := split(line)): pytest.skip("no command of this package")
    processes, command, arguments = parts
    arguments = [a for a in arguments if a not in ("--dry-run", "--help", "--print_config", "&", "\\")]
    drop = [i for i, a in enumerate(arguments) if a == "--import"]
    # modules of the reader's own
    arguments = [a for i, a in enumerate(arguments) if i not in drop and i - 1 not in drop]
    config = read_options(command, arguments)
    assert "is called" not in capsys.readouterr().err, "by names of before"
    if command in ("sft", "ppo"): share_of(config, processes)


def test_an_option_that_a_task_sets_itself_is_refused():
    from rl4vlm.core import UsageError
    from rl4vlm.tasks import make_task
    for option in (dict(actions=["a", "b"]), dict(env_kwargs=dict(k=3)), dict(goal=None)):
        with pytest.raises(UsageError): make_task("PickImage", **option)
    assert make_task("PickImage", k=3, env_kwargs=dict(k=3)).actions == ["0", "1", "2"]

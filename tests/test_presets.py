"The presets in scripts/configs: each belongs to a command, parses, reads back equal and says how it is launched."
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
import pytest
import yaml
from rl4vlm.cli import COMMANDS, main, read_options
from rl4vlm.tasks import make_task

ROOT = Path(__file__).resolve().parent.parent
PRESETS = sorted((ROOT/"scripts"/"configs").rglob("*.yaml"))
name_of = lambda path: str(path.relative_to(ROOT/"scripts"/"configs").with_suffix(""))
every_preset = pytest.mark.parametrize("path", PRESETS, ids=name_of)
PUBLISHED = [p for p in PRESETS if p.parent.name == "ppo" and not p.stem.endswith("_test")
             and not p.stem.startswith(("minigrid", "alfworld"))]


def header(path): return "\n".join(line[1:] for line in path.read_text().split("\n\n")[0].splitlines())

def flat(options, prefix=""):
    "{'lora.r': 8, ...} from nested options."
    return {k: v for key, value in options.items()
            for k, v in (flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}).items()}

def read(path, *more): return read_options(path.parent.name, ["--config", str(path), *more])


def test_there_is_a_preset_for_each_task_and_model_of_the_seeds():
    wanted = {f"ppo/{task}_llava" for task in ("numberline", "blackjack", "ezpoints", "points24")} | {
        "ppo/numberline_qwen2", "ppo/minigrid_empty_qwen25",
        "ppo/minigrid_doorkey_qwen25", "sft/minigrid_qwen25", "sft/cards_llava", "eval/minigrid_qwen25",
        "ppo/numberline_test", "sft/minigrid_test"}
    assert wanted <= {name_of(p) for p in PRESETS}
    assert {p.parent.name for p in PRESETS} <= set(COMMANDS) and all(p.parent.parent.name == "configs" for p in PRESETS)


@every_preset
def test_what_is_written_is_what_is_read(path):
    options = flat(asdict(read(path)))
    written = flat(yaml.safe_load(path.read_text()))
    assert {k: options.get(k, "no such option") for k in written} == written


@every_preset
def test_print_config_reads_back_equal(path, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop: main([path.parent.name, "--config", str(path), "--print_config"])
    assert not stop.value.code
    saved = tmp_path/"saved.yaml"
    saved.write_text(capsys.readouterr().out)
    assert read_options(path.parent.name, ["--config", str(saved)]) == read(path)


@every_preset
def test_the_header_says_how_to_launch_this_file(path):
    top, command, here = header(path), path.parent.name, str(path.relative_to(ROOT))
    lines = [shlex.split(line) for line in top.splitlines() if re.match(r"   (rl4vlm|accelerate launch) ", line)]
    assert lines and all(here in line for line in lines), f"{here} has no launch line that names it"
    launched = ["accelerate", "launch"] in [line[:2] for line in lines]
    assert launched == (command in ("sft", "ppo", "pipeline", "trl-rloo"))
    for line in lines:
        start = line.index("rl4vlm.cli" if line[0] == "accelerate" else "rl4vlm")
        assert line[start + 1:start + 4] == [command, "--config", here]
        arguments = [str(ROOT/a) if a == here else a for a in line[start + 2:]]
        assert read_options(command, arguments)
    assert "\n Hardware: " in top and "\n Differs: " in top
    for named in re.findall(r"scripts/configs/[\w/]+\.yaml", top):
        assert (ROOT/named).exists(), f"{here} names {named}, which is not there"


@every_preset
def test_tasks_can_be_made_and_dropout_is_off(path):
    config = read(path)
    options = flat(asdict(config))
    if hasattr(config, "task"): make_task(config.task, **getattr(config, "task_options", {})).make_env().close()
    assert not [k for k, v in options.items() if k.endswith("lora.dropout") and v]


@pytest.mark.parametrize(
    "path", [p for p in PRESETS if p.parent.name in ("sft", "ppo", "eval", "pipeline") and p.stem.endswith("_test")],
    ids=name_of)
def test_small_presets_use_a_tiny_model(path):
    model = read(path).model
    assert (model == "tiny" or model.startswith("runs/")
            and read(ROOT/"scripts/configs/sft"/f"{model.split('/')[1]}.yaml").model == "tiny")


def test_published_numbers():
    c = read(ROOT/"scripts/configs/ppo/numberline_llava.yaml")
    assert (c.task, c.model, c.seed) == ("NumberLine", "llava-hf/llava-v1.6-mistral-7b-hf", 1)
    assert (c.optim.lr, c.optim.end_lr, c.optim.schedule, c.optim.lr_updates) == (1e-5, 1e-9, "cosine", 25)
    assert (c.lora.r, c.lora.alpha, c.lora.dropout, c.lora.parts) == (128, 256, 0.0, "all")
    assert (c.loss.clip, c.advantage.gamma, c.advantage.gae_lambda, c.sampling.temperature, c.optim.max_grad_norm,
            c.loss.value_coef) == (0.1, 0.9, 0.95, 0.2, 0.01, 0.5)
    assert (c.rollout.envs * c.rollout.steps, c.optim.epochs, c.optim.minibatch, c.optim.microbatches, c.updates) == (
        512, 4, 128, 128, 29)
    assert (c.sampling.max_new_tokens, c.loss.thought_weight, c.loss.ratio, c.loss.lambda_norm) == (
        256, 0.5, "turn", "sum")


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_card_games_differ_in_task_and_model_only(path):
    common = lambda p: {k: v for k, v in asdict(read(p)).items() if k not in ("task", "task_options", "model", "out")}
    assert common(path) == common(ROOT/"scripts/configs/ppo/numberline_llava.yaml")


@pytest.mark.parametrize("game", ["EZPoints", "Points24"])
def test_published_rules(game):
    c = read(ROOT/f"scripts/configs/ppo/{game.lower()}_llava.yaml")
    assert make_task(c.task, **c.task_options).make_env().unwrapped.version == 0
    assert make_task(game).make_env().unwrapped.version == 1


@pytest.mark.parametrize("line, says", [("clipp: 0.1", "clipp"), ("lora: {rank: 8}", "rank"),
                                        ("rollout: {envz: 8}", "envz"), ("loss: {clip: 7.0}", "above 0 and at most 1"),
                                        ("rollout: {steps: many}", "many"), ("top_p: 0.9", "top_p")])
def test_a_wrong_key_or_value_in_a_preset_is_refused(line, says, tmp_path, capsys):
    text = (ROOT/"scripts/configs/ppo/numberline_test.yaml").read_text()
    key = line.split(":")[0]
    (tmp_path/"wrong.yaml").write_text(
        yaml.safe_dump({**{k: v for k, v in yaml.safe_load(text).items() if k != key}, **yaml.safe_load(line)}))
    assert main(["ppo", "--config", str(tmp_path/"wrong.yaml"), "--seed=1"]) == 2
    [printed] = capsys.readouterr().err.strip().splitlines()
    assert printed.startswith("error: ") and says in printed


def test_a_preset_of_another_command_is_refused(capsys):
    assert main(["ppo", "--config", str(ROOT/"scripts/configs/sft/minigrid_test.yaml")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_as_a_user_types_it(rl4vlm, tmp_path):
    shutil.copytree(ROOT/"scripts"/"configs", tmp_path/"scripts"/"configs")
    preset = "scripts/configs/ppo/numberline_llava.yaml"
    printed = rl4vlm("ppo", "--config", preset, "--print_config").stdout
    assert yaml.safe_load(printed)["lora"]["alpha"] == 256
    (tmp_path/"saved.yaml").write_text(printed)
    assert rl4vlm("ppo", "--config", "saved.yaml", "--print_config").stdout == printed
    (tmp_path/"wrong.yaml").write_text((tmp_path/preset).read_text() + "thought_wieght: 0.5\n")
    assert len(rl4vlm("ppo", "--config", "wrong.yaml", "--print_config", code=2).stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_small_preset_trains(rl4vlm, tmp_path, blind_model):
    preset = ROOT/"scripts/configs/ppo/numberline_test.yaml"
    rl4vlm("ppo", "--config", preset, "--model", blind_model)
    steps = (tmp_path/"runs/numberline_test/metrics.jsonl").read_text().splitlines()
    assert len(steps) == 3

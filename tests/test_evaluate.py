("Evaluation as a user runs it: one table for several tasks, two models compared, "
 "stopped and resumed, wrong things named.")
import csv
import io
import json
import shutil
import pytest
from rl4vlm.config import EvalConfig
from rl4vlm.core import UsageError
from rl4vlm.evaluate import as_csv, as_markdown, evaluate_all
from rl4vlm.files import read_json

SHORT = ["--panel", "val-50", "--sampling.max_new_tokens", 6]


def other_model(blind_model, folder):
    "Another untrained checkpoint of the same class."
    import torch
    from rl4vlm.models import load_vlm
    shutil.copytree(blind_model, folder)
    model, processor = load_vlm(str(blind_model))
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p) * 0.05)
    model.save_pretrained(folder)
    return folder


def test_two_models_on_two_tasks(rl4vlm, tmp_path, blind_model):
    other_model(blind_model, tmp_path/"b")
    shutil.copytree(blind_model, tmp_path/"a")
    printed = rl4vlm("eval", "--compare", "a", "b", "--tasks", "NumberLine", "EZPoints", "--out", "runs/e",
                     "--rollout.envs", 25, *SHORT).stdout
    results = json.loads((tmp_path/"runs/e/results.json").read_text())
    assert ([(r["task"], r["name"]) for r in results["rows"]]
            == [(t, n) for t in ("NumberLine", "EZPoints") for n in ("random", "oracle", "a", "b")])
    assert ([(c["task"], c["play"], c["episodes"]) for c in results["comparisons"]]
            == [(t, p, 50) for t in ("NumberLine", "EZPoints") for p in ("sampled", "greedy")])
    assert all(c["low"] <= c["difference"] <= c["high"] for c in results["comparisons"])
    assert results["panel_version"] == 1
    assert "| NumberLine | b against a | sampled |" in printed and printed.count("| EZPoints | ") >= 6
    rows = list(csv.DictReader(io.StringIO((tmp_path/"runs/e/results.csv").read_text())))
    assert len(rows) == 8 and float(rows[2]["response_tokens"]) <= 6
    assert int(rows[2]["cause_no_json"] or 0) + int(rows[2]["cause_cut"] or 0) > 0
    assert (tmp_path/"runs/e/results.md").read_text().strip() in printed
    page = rl4vlm("report", "runs/e").stdout.splitlines()[-1]
    assert "b against a" not in (text := (tmp_path/page).read_text()) and '"comparisons":[{' in text


def test_an_evaluation_that_was_stopped_goes_on(tmp_path, blind_model):
    whole = EvalConfig(panel="val-50", sampling=dict(max_new_tokens=6), rollout=dict(envs=4),
                       out=str(tmp_path/"whole"), baselines=False)
    rows = evaluate_all(whole, dict(model=str(blind_model)))
    shards = sorted(p.name for p in (tmp_path/"whole"/"episodes").glob("*.parquet"))
    assert len(shards) == 4                                                      # 16 episodes each
    cut = tmp_path/"cut"; shutil.copytree(tmp_path/"whole", cut)
    (cut/"results.json").unlink(); (cut/"episodes"/shards[2]).unlink()
    times = {p: p.stat().st_mtime_ns for p in (cut/"episodes").glob("*.parquet")}
    again = evaluate_all(EvalConfig(**{**vars(whole), "out": str(cut), "resume": True}), dict(model=str(blind_model)))
    # only the missing part was played
    assert again == rows and all(p.stat().st_mtime_ns == t for p, t in times.items())
    strip = lambda d: {k: v for k, v in read_json(d/"results.json").items()}
    assert strip(cut) == strip(tmp_path/"whole")
    other = other_model(blind_model, tmp_path/"other")
    with pytest.raises(UsageError, match="weights of model are not those"):
        evaluate_all(EvalConfig(**{**vars(whole), "out": str(cut), "resume": True}), dict(model=str(other)))
    # without resume nothing old is taken
    assert evaluate_all(EvalConfig(**{**vars(whole), "out": str(cut)}), dict(model=str(other)))[0] != rows[0]
    (tmp_path/"whole"/"models.json").write_text('{"model": "78571a12204a9161"}')   # as version 0.1.0 wrote it
    with pytest.warns(UserWarning, match="is of version 0.1.0"):
        assert evaluate_all(EvalConfig(**{**vars(whole), "resume": True}), dict(model=str(blind_model))) == rows
    with pytest.raises(UsageError, match="weights of model are not those"):
        evaluate_all(EvalConfig(**{**vars(whole), "resume": True}), dict(model=str(other)))


def test_batch_size_and_workers_change_nothing(tmp_path, blind_model):
    from rl4vlm.store import EpisodeStore
    texts = []
    for number, how in enumerate((dict(envs=1), dict(envs=7), dict(envs=50, workers=2))):
        out = tmp_path/str(number)
        evaluate_all(EvalConfig(panel="val-50", sampling=dict(max_new_tokens=6), out=str(out), baselines=False,
                                loading=dict(dtype="float32"), **how), dict(model=str(blind_model)))
        texts.append([[t.text for t in e.turns] for folder in ("episodes", "greedy")
                      for e in EpisodeStore(out/folder).episodes()])
    assert texts[0] == texts[1] == texts[2] and len(texts[0]) == 100


def test_what_cannot_be_played_is_named_and_the_rest_is_shown(rl4vlm, tmp_path, blind_model):
    (tmp_path/"broken.py").write_text('''
from rl4vlm.tasks import Task, register_task

@register_task
class Broken(Task):
    actions = ["go"]
    def make_env(self): raise ImportError("No module named 'walls'")
''')
    shutil.copytree(blind_model, tmp_path/"run/ppo/best"); (tmp_path/"run/config.yaml").write_text("task: Blackjack\n")
    done = rl4vlm("eval", "--import", "broken", "--tasks", "Broken", "NumberLine", "--model", "run/ppo/best",
                  "--out", "runs/e", *SHORT, code=1)
    assert "| NumberLine | model |" in done.stdout.replace("| random |", "") or "| model |" in done.stdout
    notes = json.loads((tmp_path/"runs/e/results.json").read_text())["notes"]
    assert notes == ["Broken could not be played: No module named 'walls'.",
                     "model was trained on Blackjack, not on NumberLine."]
    assert "could not be played" in (tmp_path/rl4vlm("report", "runs/e").stdout.splitlines()[-1]).read_text()


@pytest.mark.parametrize("arguments, says", [
    (["--compare", "a"], "different models, two at least"),
    (["--compare", "a", "a"], "different models, two at least"),
    (["--compare", "./nowhere", "tiny"], "does not exist"),
    (["--tasks", "NumberLine", "EZPoint"], "did you mean 'EZPoints'?"),
    (["--panel", "test-3000"], "panels are val-50, test-200"),
])
def test_wrong_commands_get_one_clear_line(rl4vlm, tmp_path, arguments, says):
    done = rl4vlm("eval", *arguments, code=2)
    assert len(done.stderr.strip().splitlines()) == 1 and says in done.stderr, done.stderr
    assert not (tmp_path/"runs").exists()


def test_tables_of_rows_that_know_less():
    rows = [dict(name="a", task="T", success=0.5, low=0.4, high=0.6, episodes=10, mean_return=1.0, return_low=0.5,
                 return_high=1.5, mean_turns=2.0, failed_parses=0.0, causes={}),
            dict(name="b|c", task="U", success=1.0, low=0.7, high=1.0, episodes=10, won=0.5, mean_return=1.0,
                 return_low=0.5, return_high=1.5, mean_turns=2.0, failed_parses=0.1, causes=dict(no_json=2),
                 response_tokens=12.34)]
    lines = as_markdown(rows, {("U", "b|c"): 3.2}).splitlines()
    assert all(line.count(" | ") == lines[0].count(" | ") for line in lines[2:])
    assert "12.3" in lines[3] and "3 s" in lines[3] and "no_json 2" in lines[3]
    assert [r["name"] for r in csv.DictReader(io.StringIO(as_csv(rows)))] == ["a", "b|c"]


def test_names_of_version_0_1_0_are_found_where_they_are_now():
    import rl4vlm.evaluate
    from rl4vlm import panels, statistics
    for room, names in ((panels, ("PANELS", "panel_seeds", "file_name")),
                        (statistics, ("wilson", "bootstrap", "paired_difference"))):
        for name in names:
            with pytest.warns(FutureWarning, match=f"is {room.__name__}.{name} now"):
                assert getattr(rl4vlm.evaluate, name) is getattr(room, name)
    assert rl4vlm.evaluate.summarise is statistics.summarise and not hasattr(rl4vlm.evaluate, "summarize")

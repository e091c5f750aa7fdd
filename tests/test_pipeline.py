"Which stages are done again, and which are not."
import json
import os
from dataclasses import replace
import pytest
from rl4vlm.config import CollectConfig, EvalConfig, PipelineConfig, PPOConfig, SFTConfig
from rl4vlm.core import UsageError

ALL = ["base", "collect", "preprocess", "sft", "ppo", "eval", "report"]


@pytest.fixture(scope="module")
def config(tmp_path_factory, blind_model):
    os.chdir(tmp_path_factory.mktemp("pipeline"))
    small = dict(max_new_tokens=8)
    return PipelineConfig(model=str(blind_model), out="run", collect=CollectConfig(episodes=20),
                          sft=SFTConfig(steps=2), eval=EvalConfig(panel="val-50", **small),
                          ppo=PPOConfig(updates=1, rollout=dict(envs=4, steps=2), optim=dict(minibatch=8, epochs=1),
                                        **small))


def run(config, **options):
    "Names of the stages that were done."
    from rl4vlm.pipeline import run_pipeline
    from rl4vlm.progress import Screen
    class Names(Screen):
        names = []
        def stage(self, name, title): self.names = [*self.names, name]; super().stage(name, title)
    screen = Names(open(os.devnull, "w"))
    run_pipeline(replace(config, **options), screen)
    return screen.names


def test_stages_are_done_again_when_something_changed(config):
    assert run(config) == ALL
    first = open("run/results.json").read()
    with pytest.raises(UsageError, match="--resume"): run(config)
    assert run(config, resume=True) == []
    os.remove("run/report.html")
    assert run(config, resume=True) == ["report"]                                     # what it left is not there
    assert run(config, from_stage="ppo") == ["ppo", "eval", "report"] and open("run/results.json").read() == first
    slower = replace(config, ppo=replace(config.ppo, optim=replace(config.ppo.optim, lr=5e-5)))
    with pytest.raises(UsageError, match="ppo.optim.lr was 0.0001, now 5e-05"): run(slower, resume=True)
    assert run(slower, from_stage="ppo") == ["ppo", "eval", "report"]                 # with other options
    assert run(slower, resume=True) == [] and len([json.loads(line) for line in open("run/metrics.jsonl")]) == 2
    more = replace(slower, collect=replace(config.collect, error_rate=0.5))
    with pytest.raises(UsageError, match="earlier stage collect have changed; --from collect"):
        run(more, from_stage="sft")
    assert run(slower, from_stage="eval") == ["eval", "report"]
    from datasets import Dataset
    rows = Dataset.from_parquet("run/data/train.parquet", cache_dir="cache")
    rows.select(range(20)).to_parquet("run/data/train.parquet")
    assert run(slower, resume=True) == ["sft", "ppo", "eval", "report"]               # an input was edited by hand
    with pytest.raises(UsageError, match="did you mean 'preprocess'"): run(slower, from_stage="preproces")
    with pytest.raises(UsageError, match="holds no run"): run(slower, from_stage="ppo", out="elsewhere")


def test_an_interrupted_stage_goes_on(config, monkeypatch):
    "Of a stage that was interrupted, what it left is kept."
    import rl4vlm.pipeline as pipeline
    def stop(*args, **kwargs): raise KeyboardInterrupt
    real = pipeline.STAGES["preprocess"].run
    monkeypatch.setattr(pipeline.STAGES["preprocess"], "run", stop)
    with pytest.raises(KeyboardInterrupt): run(config, out="cut")
    shards = os.stat("cut/data/episodes/00000.parquet").st_mtime_ns
    monkeypatch.setattr(pipeline.STAGES["preprocess"], "run", real)
    assert run(config, out="cut", resume=True) == ALL[2:]
    assert os.stat("cut/data/episodes/00000.parquet").st_mtime_ns == shards


def test_from_is_an_option_of_the_command(rl4vlm):
    assert "holds no run of a pipeline" in rl4vlm("pipeline", "--from", "sft", "--out", "nowhere", code=2).stderr
    assert "holds no run of a pipeline" in rl4vlm("pipeline", "--from=sft", "--out", "nowhere", code=2).stderr

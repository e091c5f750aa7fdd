("The served engine against a stand-in with bad manners: what is checked, asked again, handed over and deleted; "
 "and whole runs through it.")
import json
import subprocess
import sys
import warnings
from pathlib import Path
import numpy as np
import pytest
from fake_vllm import FakeVLLM

HERE = Path(__file__).parent
SHORT = ("--task NumberLine --rollout.envs 4 --rollout.steps 3 --optim.minibatch 6 --sampling.max_new_tokens 6 "
         "--run.eval_every 5 --run.panel val-50 --run.save_every 1".split())


@pytest.fixture(scope="module")
def base(blind_model): return blind_model


def policy_of(base, **options):
    from rl4vlm.policy import VLMPolicy
    policy = VLMPolicy.load(base, device="cpu", **options)
    policy.eval().disable_dropout()
    return policy


@pytest.fixture
def fake(base):
    with FakeVLLM(policy_of(base)) as server: yield server


@pytest.fixture(scope="module")
def learner(base): return policy_of(base)


@pytest.fixture(scope="module")
def prompts(learner):
    from rl4vlm.env_pool import TaskEnv
    from rl4vlm.tasks import make_task
    task = make_task("NumberLine")
    frames = [TaskEnv(task).reset(seed) for seed in range(4)]
    return [learner.encode(task.prompt(f), f.images) for f in frames]


def engine_of(policy, tmp_path, *urls, sync=0, **options):
    from rl4vlm.config_parts import EngineConfig
    from rl4vlm.engine import VLLM
    engine = VLLM(policy, EngineConfig(urls=list(urls), **options), tmp_path/"engine")
    engine.connect()
    if sync is not None: engine.sync(policy, sync)
    return engine


def ids(responses): return [r.ids.tolist() for r in responses]


HOW = dict(max_new_tokens=6, temperature=0.8)


@pytest.fixture(scope="module")
def here(learner, prompts):
    "What this process samples itself."
    from rl4vlm.generate import Sampler
    return Sampler(learner).generate(prompts, [1, 2, 3, 4], **HOW)


def test_it_answers_as_the_policy_would(fake, learner, prompts, here, tmp_path):
    engine = engine_of(learner, tmp_path, fake.url, sync=7)
    there = engine.generate(prompts, [1, 2, 3, 4], **HOW)
    assert ids(there) == ids(here)
    assert {r.version for r in there} == {7} and all(r.temperature == 0.8 and r.value is None for r in there)
    assert max(np.abs(a.logprobs - b.logprobs).max() for a, b in zip(here, there)) < 1e-5
    assert engine.generate([], []) == []


@pytest.mark.parametrize("mood", ["500", "503", "429", "hang", "drop", "garbage", "abort", "other weights"])
def test_what_may_pass_is_asked_again_and_counts_once(fake, learner, prompts, here, tmp_path, mood):
    engine = engine_of(learner, tmp_path, fake.url, timeout=5 if mood == "hang" else 60, start_timeout=20)
    fake.moods[:] = [mood, mood]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = engine.generate(prompts, [1, 2, 3, 4], **HOW)
    assert ids(there) == ids(here)
    assert len(fake.bodies) == 6 and engine.events["asked_again"] == 2   # four answers, two of them in a second try
    seeds = [b["sampling_params"]["seed"] for b in fake.bodies]
    assert sorted(set(seeds)) == [1, 2, 3, 4] and all(seeds.count(s) <= 2 for s in seeds)


@pytest.mark.parametrize("mood, says",
                         [("other prompt", "read another prompt than the trainer"),
                          ("banned", "which this policy never writes"), ("no number", "gives no log-probabilities")])
def test_another_policy_stops_the_run(fake, learner, prompts, tmp_path, mood, says):
    from rl4vlm.core import InvariantError
    engine = engine_of(learner, tmp_path, fake.url)
    fake.moods[:] = [mood]
    with pytest.raises(InvariantError, match=says): engine.generate(prompts, [1, 2, 3, 4], **HOW)


def test_a_refused_prompt_is_named(fake, learner, prompts, tmp_path):
    from rl4vlm.core import UsageError
    engine = engine_of(learner, tmp_path, fake.url)
    fake.moods[:] = ["413"]
    with pytest.raises(UsageError,
                       match="refuses a prompt of 102 tokens with 1 images .status 413: not now.*limit_mm_per_prompt"):
        engine.generate(prompts, [1, 2, 3, 4], **HOW)


def test_patience_ends(fake, learner, prompts, tmp_path):
    from rl4vlm.engine import EngineError
    engine = engine_of(learner, tmp_path, fake.url, restarts=2)
    fake.moods[:] = ["503"] * 100
    with pytest.raises(EngineError, match="failed 3 times, the last time: status 503"):
        engine.generate(prompts, [1, 2, 3, 4], **HOW)
    assert len(fake.bodies) == 12


def test_a_server_that_does_not_come_back(base, learner, prompts, tmp_path):
    from rl4vlm.engine import EngineError
    with FakeVLLM(policy_of(base)) as fake: engine = engine_of(learner, tmp_path, fake.url, start_timeout=0.5)
    with pytest.raises(EngineError, match="was not back in 0.5 s"): engine.generate(prompts, [1, 2, 3, 4], **HOW)


def test_a_lost_server_is_waited_for_once_and_told_to_all(base, learner, prompts, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor
    from rl4vlm.engine import VLLM, EngineError
    mended, mend = [], VLLM._mend
    monkeypatch.setattr(VLLM, "_mend", lambda self, failures: mended.append(failures) or mend(self, failures))
    with FakeVLLM(policy_of(base)) as fake: engine = engine_of(learner, tmp_path, fake.url, start_timeout=0.5)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(engine.generate, [prompts[i % 4]], [i], **HOW) for i in range(8)]
    told = [a.exception() for a in asked]
    assert all(isinstance(e, EngineError) and "was not back in 0.5 s" in str(e) for e in told) and len(mended) == 1


def test_whole_weights_are_handed_over_in_order(fake, base, prompts, tmp_path):
    import torch
    from rl4vlm.generate import Sampler
    policy = policy_of(base)
    engine = engine_of(policy, tmp_path, fake.url)
    with torch.no_grad():
        for p in policy.model.parameters(): p.add_(0.05 * torch.randn_like(p))
    policy._features.clear(); policy._features.used = 0
    fake.calls.clear()
    engine.sync(policy, 1)
    assert fake.calls == ["/weight_info", "/pause", "/collective_rpc", "/collective_rpc",
                          "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache",
                          "/update_weight_version", "/resume"]
    assert ids(engine.generate(prompts, [1, 2, 3, 4], **HOW)) == ids(
        Sampler(policy).generate(prompts, [1, 2, 3, 4], **HOW))
    assert [p.name for p in (tmp_path/"engine").iterdir()] == [engine.label]          # the version before is gone
    engine.close()
    assert not list((tmp_path/"engine").iterdir())


def test_adapters_have_a_name_and_a_folder_for_each_version(fake, base, prompts, tmp_path):
    import torch
    from rl4vlm.config_parts import LoRAConfig
    from rl4vlm.generate import Sampler
    policy, seen = policy_of(base, lora=LoRAConfig(r=4, parts="all")), set()
    engine = engine_of(policy, tmp_path, fake.url)
    for version in range(1, 4):
        with torch.no_grad():
            for n, p in policy.model.named_parameters():
                if "lora_B" in n: p.normal_(std=0.05)
        policy._features.clear(); policy._features.used = 0
        engine.sync(policy, version)
        fake.forget()
        assert ids(engine.generate(prompts, [1, 2, 3, 4], **HOW)) == ids(
            Sampler(policy).generate(prompts, [1, 2, 3, 4], **HOW))
        # the fake says if a folder went first
        assert list(fake.loaded) == [engine.label] == [p.name for p in (tmp_path/"engine").iterdir()]
        seen.add(engine.label)
    assert len(seen) == 3 and fake.version == "default"
    engine.close()
    assert not fake.loaded


def test_weights_of_somebody_else_are_replaced(fake, learner, prompts, here, tmp_path):
    "A server that was started again by hand, or that another run has taken."
    engine = engine_of(learner, tmp_path, fake.url)
    fake.version = "default"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ids(engine.generate(prompts, [1, 2, 3, 4], **HOW)) == ids(here)
    assert fake.version == engine.label and engine.events["asked_again"] == 4


def test_an_adapter_that_is_gone_is_loaded_again(fake, base, prompts, tmp_path):
    from rl4vlm.config_parts import LoRAConfig
    policy = policy_of(base, lora=LoRAConfig(r=4))
    engine = engine_of(policy, tmp_path, fake.url)
    fake.loaded.clear()
    fake.policy.model.delete_adapter(engine.label)
    there = engine.generate(prompts, [1, 2, 3, 4], **HOW)
    assert len(there) == 4 and list(fake.loaded) == [engine.label]


def test_a_failed_reload_is_the_end_of_a_server_of_others(fake, learner, tmp_path):
    from rl4vlm.engine import EngineError
    engine = engine_of(learner, tmp_path, fake.url)
    fake.moods[:] = ["no reload"]
    with pytest.raises(EngineError, match="has lost its weights"): engine.sync(learner, 1)


def test_several_servers_share_the_work_and_one_may_go(base, learner, prompts, here, tmp_path):
    with FakeVLLM(policy_of(base)) as a:
        with FakeVLLM(policy_of(base)) as b:
            engine = engine_of(learner, tmp_path, a.url, b.url)
            assert ids(engine.generate(prompts, [1, 2, 3, 4], **HOW)) == ids(here)
            assert len(a.bodies) == len(b.bodies) == 2
        with pytest.warns(UserWarning, match="1 others go on without it"):
            assert ids(engine.generate(prompts, [1, 2, 3, 4], **HOW)) == ids(here)
        assert engine.up() == [a.url] and len(a.bodies) == 2 + 4


def test_what_cannot_be_used_is_said_in_one_line(base, learner, fake, tmp_path):
    from rl4vlm.config_parts import LoRAConfig
    from rl4vlm.engine import EngineError
    with pytest.raises(EngineError, match="no server of vLLM that is well at http://127.0.0.1:9"):
        engine_of(learner, tmp_path, "http://127.0.0.1:9")
    adapted = policy_of(base, lora=LoRAConfig(r=4))
    fake.takes_adapters = False
    with pytest.raises(EngineError, match="takes no adapters; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        engine_of(adapted, tmp_path, fake.url)
    fake.takes_adapters, fake.version = True, "other-v1"
    with pytest.raises(EngineError, match="adapters stand on their base"): engine_of(adapted, tmp_path, fake.url)


# Whole runs, with the stand-in as a program that the run starts

def program(tmp_path, **env):
    "Options of a command that starts the stand-in as its own server."
    found = ["--engine", "vllm", "--engine.command", f"{sys.executable} {HERE/'fake_vllm.py'}"]
    return found + [w for k, v in {"PYTHONPATH": f"{HERE.parent}", "FAKE_VLLM_NOTE": tmp_path/"note", **env}.items()
                    for w in (f"--engine.environment.{k}", str(v))]


def rows(tmp_path, out): return [json.loads(line) for line in (tmp_path/out/"metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("more",
                         [[], ["--lora.r", "4", "--advantage.estimator", "rloo", "--advantage.group_size", "2"]],
                         ids=["whole", "adapter"])
def test_a_run_is_the_same_with_an_engine_that_agrees(rl4vlm, tmp_path, base, more):
    "Same draws there and here, so the runs differ by rounding alone; nothing of the server is left."
    rl4vlm("ppo", *SHORT, *more, "--updates", 2, "--model", base, "--out", "served", *program(tmp_path))
    rl4vlm("ppo", *SHORT, *more, "--updates", 2, "--model", base, "--out", "here")
    served, here = rows(tmp_path, "served"), rows(tmp_path, "here")
    same = {"turns", "episodes", "success", "mean_return", "failed_parses", "response_tokens", "val_success"}
    for a, b in zip(served, here):
        assert {k: a[k] for k in same & a.keys()} == {k: b[k] for k in same & b.keys()}
        assert a.get("staleness", 0) == 0 and a.get("logprob_gap", 0) < 1e-4
    assert sorted(p.name for p in (tmp_path/"served"/"engine").iterdir()) == ["model", "server.log", "worker"]
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
    assert not left


@pytest.mark.slow
def test_a_server_that_dies_in_a_rollout_changes_nothing(rl4vlm, tmp_path, base):
    rl4vlm("ppo", *SHORT, "--updates", 2, "--model", base, "--out", "dies", *program(tmp_path, FAKE_VLLM_DIES="v1"))
    rl4vlm("ppo", *SHORT, "--updates", 2, "--model", base, "--out", "lives",
           *program(tmp_path, FAKE_VLLM_NOTE="/nonexistent"))
    assert (tmp_path/"note").exists()
    timing = [json.loads(line) for line in (tmp_path/"dies"/"timing.jsonl").read_text().splitlines()]
    assert timing[-1]["engine_restarts"] == 1
    assert rows(tmp_path, "dies") == rows(tmp_path, "lives")


@pytest.mark.slow
def test_an_engine_that_is_lost_leaves_a_checkpoint(rl4vlm, tmp_path, base):
    "No restart is allowed: one line, a checkpoint of before the update, and --resume comes to the same numbers."
    lost = rl4vlm("ppo", *SHORT, "--run.save_every", 50, "--updates", 3,
                  "--model", base, "--out", "lost", "--engine.restarts", 0,
                  *program(tmp_path, FAKE_VLLM_DIES="v1"), code=1)
    assert "a checkpoint of update 1 is written" in lost.stderr and "Traceback" not in lost.stderr, lost.stderr
    rl4vlm("ppo", *SHORT, "--run.save_every", 50, "--updates", 3, "--model", base, "--out", "lost",
           "--engine.restarts", 0, *program(tmp_path, FAKE_VLLM_DIES="v1"), "--resume")
    rl4vlm("ppo", *SHORT, "--run.save_every", 50, "--updates", 3, "--model", base, "--out", "whole",
           "--engine.restarts", 0, *program(tmp_path, FAKE_VLLM_DIES="never"))
    assert rows(tmp_path, "lost") == rows(tmp_path, "whole")


@pytest.mark.slow
def test_evaluation_and_collection_too(rl4vlm, tmp_path, base):
    from rl4vlm.store import EpisodeStore
    short = ["--sampling.max_new_tokens", 6, "--panel", "val-50", "--baselines", "false", "--model", base]
    rl4vlm("eval", *short, "--out", "served", *program(tmp_path))
    rl4vlm("eval", *short, "--out", "here")
    served, here = ([{k: r[k] for k in ("success", "mean_return", "greedy_success", "failed_parses")}
                     for r in json.loads((tmp_path/n/"results.json").read_text())["rows"]] for n in ("served", "here"))
    assert served == here
    how = ["--actor", f"local:{base}", "--episodes", 3, "--ask.max_new_tokens", 6, "--ask.temperature", 1,
           "--task_options.max_turns", 2]
    rl4vlm("collect", *how, "--out", "cs", *program(tmp_path))
    rl4vlm("collect", *how, "--out", "ch")
    assert list(EpisodeStore(tmp_path/"cs"/"data"/"episodes").read()["text"]) == list(
        EpisodeStore(tmp_path/"ch"/"data"/"episodes").read()["text"])


def test_wrong_options_are_refused_before_anything_is_made(rl4vlm, tmp_path):
    for words, says in ((["ppo", "--engine", "vllm", "--engine.command", "x", "--sampling.temperature_range", "2"],
                         "a head that chooses temperatures"),
                        (["ppo", "--engine", "sglang"], "must be one of local, vllm"),
                        (["collect", "--engine", "vllm"], "give --actor local:MODEL"),
                        (["ppo", "--engine.urls", "node:8000"], "is no address"),
                        (["engine", "start"], "rl4vlm engine install")):
        done = rl4vlm(*words, "--out" if words[0] != "engine" else "--platform", "x" if words[0] != "engine" else "cpu",
                      code=2)
        assert says in done.stderr, done.stderr
    assert not (tmp_path/"x").exists()


def test_there_is_a_line_that_says_how_to_get_vllm(rl4vlm, tmp_path, base):
    done = rl4vlm("ppo", *SHORT, "--model", base, "--out", "x", "--engine", "vllm", code=2,
                  RL4VLM_CACHE=str(tmp_path/"cache"))
    assert "rl4vlm engine install makes its environment" in done.stderr
    line = rl4vlm("engine", "command", "--model", base,
                  "--engine.command", "python -m vllm.entrypoints.openai.api_server", "--lora.r", 12,
                  "--platform", "gpu").stdout
    assert "VLLM_SERVER_DEV_MODE=1" in line and "--max-lora-rank 16" in line and f"--model {base}" in line


@pytest.mark.slow
@pytest.mark.parametrize("more", [
    pytest.param([], id="whole"),
    pytest.param("--lora.r 4 --advantage.estimator rloo --advantage.group_size 2".split(), id="adapter",
                 marks=pytest.mark.full)])
def test_a_rollout_played_while_the_policy_learns(rl4vlm, tmp_path, base, more):
    "Its weights are one update old and never older, and all is the same again in a run whose server dies."
    how = [*SHORT, *more, "--updates", 4, "--optim.value_warmup", 0, "--model", base, "--engine.max_staleness", 1,
           *program(tmp_path)]
    rl4vlm("ppo", *how, "--out", "one")
    one = rows(tmp_path, "one")
    assert [r.get("staleness") for r in one] == [None, 0, 1, 1, 1]
    assert [r["mismatch"] > 1e-4 for r in one[1:]] == [False, True, True, True], [r["mismatch"] for r in one[1:]]
    assert all(r["logprob_gap"] < 1e-4 for r in one[1:]) and not list((tmp_path/"one"/"engine").glob("*-v*"))
    if not more:
        rl4vlm("ppo", *how, "--out", "two", *program(tmp_path, FAKE_VLLM_DIES="v1"))
        assert rows(tmp_path, "two") == one and (tmp_path/"note").exists()


def test_no_environment_waits_for_the_answer_of_another():
    import threading
    from rl4vlm.rollout import Plan, Player, RandomActor
    from rl4vlm.tasks import make_task
    task = make_task("NumberLine")

    class InStep(RandomActor):
        def values(self, prompts): return [0.5] * len(prompts)

    class Served(InStep):
        "The first environment's first answer comes when all others are through with their turns."
        served, answered, lock, others = True, 0, threading.Lock(), threading.Event()
        def act(self, prompts):
            [prompt] = prompts
            if prompt.seed == first: assert self.others.wait(30)
            with self.lock:
                self.answered += prompt.seed != first
                if self.answered == 3 * 5: self.others.set()
            return super().act(prompts)

    plans = lambda i, k: Plan(seed=100 * i + k, key=(0, i, k))
    players = [Player(task, kind(task), plans, envs=4) for kind in (InStep, Served)]
    players[0].fill()
    first = players[0].next_prompt(players[0].running[0]).seed
    told = [[[(t.text, t.reward, t.seed, t.index, t.next_value) for t in row] for row in p.rollout(5)] for p in players]
    assert told[0] == told[1] and Served.others.is_set()
    ended = [{e.id: e.total_reward for e in p.finished} for p in players]
    assert ended[0] == ended[1] and players[0].state() == players[1].state()
    def broken(prompts): raise RuntimeError("no more")
    players[1].actor.act = broken
    with pytest.raises(RuntimeError, match="no more"): players[1].rollout(1)


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_servers_take_new_weights_at_the_same_time(base, prompts, tmp_path, monkeypatch, kind):
    from threading import Barrier
    from rl4vlm.config_parts import LoRAConfig
    policy = policy_of(base, **dict(adapter=dict(lora=LoRAConfig(r=2, alpha=4)), whole=dict(parts="all"))[kind])
    together, handle = Barrier(2), FakeVLLM.handle   # nobody passes before both are there
    def meet(self, path, body):
        if path.partition("?")[0] in ("/v1/load_lora_adapter", "/update_weight_version"): together.wait(30)
        return handle(self, path, body)
    with FakeVLLM(policy_of(base)) as one, FakeVLLM(policy_of(base)) as two:
        engine = engine_of(policy, tmp_path, one.url, two.url, sync=None)
        monkeypatch.setattr(FakeVLLM, "handle", meet)
        engine.sync(policy, 3)
        assert {r.version for r in engine.generate(prompts, [1, 2, 3, 4], **HOW)} == {3}
    assert not together.broken

"""A real vLLM on this machine: it agrees with the policy, takes new weights, and runs through it learn, also when it is
killed.

The environment of vLLM is made once in the cache folder (some minutes, 2 GB on disk) by `rl4vlm engine install`. Where
there is no room or no way to get the packages, these tests are skipped with the reason; in continuous integration (the
variable CI) that is a failure.
"""
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
import numpy as np
import pytest

PPO = ("--task NumberLine --seed 0 --rollout.envs 16 --rollout.steps 4 --optim.minibatch 32 --optim.value_lr 3e-3 "
       "--sampling.max_new_tokens 40 --run.eval_every 50 --run.panel val-50".split())


def prepare(box):
    "The Python with vLLM in it, or why there is none."
    from rl4vlm.core import RL4VLMError
    from rl4vlm.vllm_server import install_engine
    try: box["python"] = install_engine()
    except (RL4VLMError, OSError) as e: box["why"] = str(e)


@pytest.fixture(scope="session")
def vllm():
    "vLLM's Python, or a skip that says why."
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    box = {} if free > 4 else dict(why=f"a server of vLLM needs 4 GiB of memory and {free:.1f} are free")
    if not box: prepare(box)
    if "why" in box: (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no vLLM here: {box['why']}")
    return box["python"]


@pytest.fixture(scope="session")
def imitator(tmp_path_factory):
    "A tiny model that has learned the form of NumberLine's answers, as a checkpoint with a value head."
    from rl4vlm.config import SFTConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.sft import train_sft
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    folder, task = tmp_path_factory.mktemp("imitator"), make_task("NumberLine")
    build_tiny(folder/"base", texts=frame_texts(task, sample_frames(task, 20)))
    rows = [dict(messages=t.messages + [dict(role="assistant", content=t.text)], images=t.images)
            for e in play(task, OracleActor(task), range(40)) for t in e.turns]
    train_sft(rows, VLMPolicy.load(folder/"base"),
              SFTConfig(steps=60, optim=dict(batch_size=16), run=dict(save_every=1000)), folder/"sft")
    return folder/"sft"


@pytest.fixture(scope="session")
def server(vllm, imitator, tmp_path_factory):
    ("One server for all tests of this file, which takes adapters and whole weights; "
     "it starts while the imitator's prompts are made.")
    from rl4vlm.config_parts import EngineConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.vllm_server import Server, as_flags, lay_extension, server_environment, server_options, serving_folder
    folder, processor = tmp_path_factory.mktemp("served"), VLMPolicy.load(imitator).processor
    options = server_options(serving_folder(imitator, processor, folder/"model"), 1024, "float32", "cpu", rank=8,
                             vision=True)
    made = Server([str(vllm), "-m", "vllm.entrypoints.openai.api_server", *as_flags(options)],
                  server_environment(EngineConfig(), "cpu", lay_extension(folder)), folder/"log", 900)
    made.start()
    yield made
    made.stop()


def played(policy, seeds=range(8), turns=1):
    "Prompts of NumberLine; with more turns, those of histories with an image for each turn."
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.tasks import make_task
    task = (make_task("NumberLine", history=turns - 1, history_images=turns > 1) if turns > 1
            else make_task("NumberLine"))
    told = [e.turns[min(turns, len(e)) - 1] for e in play(task, OracleActor(task, error_rate=0.5), seeds)]
    return [policy.encode(t.messages, t.images) for t in told]


def gap(policy, prompts, responses, temperature):
    import torch
    with torch.no_grad(): scores = policy.score(prompts, [r.ids for r in responses], temperature=temperature)
    return max(float(np.abs(scores.logprobs[i][:len(r.ids)].numpy() - r.logprobs).max())
               for i, r in enumerate(responses))


def moved(policy, size):
    "Give what learns other weights, as updates would."
    import torch
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad: p.add_(size * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    policy._features.clear(); policy._features.used = 0


# Adapters first: they stand on the weights that the server was started with
@pytest.mark.parametrize("kind", ["adapter", "adapter with vision", "whole"])
def test_it_agrees_after_every_sync(server, imitator, tmp_path, kind):
    from rl4vlm.config_parts import EngineConfig, LoRAConfig
    from rl4vlm.engine import VLLM
    from rl4vlm.policy import VLMPolicy
    lora = {} if kind == "whole" else dict(lora=LoRAConfig(r=8, parts="language" if kind == "adapter" else "all"))
    policy = VLMPolicy.load(imitator, device="cpu", **lora)
    policy.eval().disable_dropout()
    prompts, seeds = played(policy), list(range(8))
    engine = VLLM(policy, EngineConfig(urls=[server.url]), tmp_path)
    engine.connect()
    texts = []
    for version, temperature in ((0, 1.0), (1, 0.7), (2, 1.3)):
        engine.sync(policy, version)
        found = engine.generate(prompts, seeds, max_new_tokens=40, temperature=temperature)
        texts.append([r.text for r in found])
        far = gap(policy, prompts, found, temperature)
        print(f"{kind}, version {version}, temperature {temperature}: gap {far:.1e}, sync {engine.seconds:.2f} s")
        assert far < 1e-4 and {r.version for r in found} == {version}
        assert [p.name for p in tmp_path.iterdir()] == [engine.label]
        moved(policy, 0.02)
    assert texts[0] != texts[1]
    # the same, whoever else is asked
    alone = engine.generate(prompts[2:3], seeds[2:3], max_new_tokens=40, temperature=1.3)
    assert alone[0].ids.tolist() == found[2].ids.tolist() and alone[0].logprobs.tolist() == found[2].logprobs.tolist()
    greedy = engine.generate(prompts, None, max_new_tokens=40)
    assert [r.ids.tolist() for r in greedy] == [r.ids.tolist()
                                                for r in engine.generate(prompts, None, max_new_tokens=40)]
    engine.close()
    assert not list(tmp_path.iterdir())


def test_histories_of_several_images(server, imitator, tmp_path):
    from rl4vlm.config_parts import EngineConfig
    from rl4vlm.engine import VLLM
    from rl4vlm.policy import VLMPolicy
    policy = VLMPolicy.load(imitator, device="cpu")
    policy.eval().disable_dropout()
    prompts = played(policy, range(6), turns=3)
    assert max(len(p.images) for p in prompts) == 3
    engine = VLLM(policy, EngineConfig(urls=[server.url]), tmp_path)
    engine.connect(); engine.sync(policy, 0)
    found = engine.generate(prompts, list(range(6)), max_new_tokens=24)
    assert gap(policy, prompts, found, 1.0) < 1e-4
    engine.close()


def test_a_checkpoint_with_a_head_can_be_served_as_it_is(imitator):
    "vLLM reads the files that the index names; the heads are not among them."
    index = json.loads((imitator/"model.safetensors.index.json").read_text())
    assert (imitator/"heads.safetensors").exists() and set(index["weight_map"].values()) == {"model.safetensors"}


def test_too_long_a_prompt_is_named(server, imitator, tmp_path):
    from rl4vlm.config_parts import EngineConfig
    from rl4vlm.core import UsageError
    from rl4vlm.engine import VLLM
    from rl4vlm.policy import VLMPolicy
    policy = VLMPolicy.load(imitator, device="cpu")
    engine = VLLM(policy, EngineConfig(urls=[server.url]), tmp_path)
    engine.connect(); engine.sync(policy, 0)
    long = policy.encode([dict(role="user", content="left or right " * 150)])
    with pytest.raises(UsageError, match="the engine refuses a prompt of .* --engine.options.max_model_len"):
        engine.generate([long], [1], max_new_tokens=8)
    engine.close()


@pytest.mark.slow
def test_ppo_with_a_server_that_is_killed(vllm, rl4vlm, imitator, tmp_path):
    ("The run starts its own server. Its worker is killed in the middle of a rollout: "
     "the run starts another one and comes to its end.")
    stop = threading.Event()
    def killer():
        log, done = tmp_path/"run"/"engine"/"server.log", 0
        while not stop.is_set() and not done:
            time.sleep(0.05)
            rows = ((tmp_path/"run"/"metrics.jsonl").read_text().count("\n")
                    if (tmp_path/"run"/"metrics.jsonl").exists() else 0)
            if rows < 2 or "Application startup complete" not in log.read_text(errors="replace"): continue
            found = subprocess.run(["pgrep", "-f", str(tmp_path/"run")], capture_output=True, text=True).stdout.split()
            server = [int(p) for p in found if b"vllm" in Path(f"/proc/{p}/cmdline").read_bytes()
                      and b"rl4vlm.cli" not in Path(f"/proc/{p}/cmdline").read_bytes()]
            for pid in server: os.kill(pid, signal.SIGKILL); done += 1
    thread = threading.Thread(target=killer, daemon=True); thread.start()
    run = rl4vlm("ppo", *PPO, "--updates", 4, "--lora.r", 8, "--model", imitator, "--out", "run", "--engine", "vllm",
                 timeout=1500)
    stop.set(); thread.join()
    rows = [json.loads(line) for line in (tmp_path/"run"/"metrics.jsonl").read_text().splitlines()]
    timing = [json.loads(line) for line in (tmp_path/"run"/"timing.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4] and [r["turns"] for r in rows[1:]] == [64] * 4, run.stderr
    assert max(r["logprob_gap"] for r in rows[1:]) < 1e-4 and {r["staleness"] for r in rows[1:]} == {0}
    assert timing[-1]["engine_restarts"] >= 1, run.stderr
    assert subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout == ""

"""On a GPU: what is sampled is what is scored, with a static cache too, and a recording sees the weights that an
optimizer has changed.

Skipped where there is none; RL4VLM_TEST_DEVICE=cpu tries the tests themselves there.
"""
import os
import numpy as np
import pytest
import torch
from rl4vlm.config import LoRAConfig
from rl4vlm.env_pool import TaskEnv
from rl4vlm.generate import generate
from rl4vlm.policy import VLMPolicy
from rl4vlm.static_cache import StaticCaches
from rl4vlm.tasks import make_task

DEVICE = os.environ.get("RL4VLM_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["float32", "bfloat16"])
def policy(request, blind_model):
    made = VLMPolicy.load(str(blind_model), lora=LoRAConfig(r=4), device=DEVICE, dtype=request.param).eval()
    made.disable_dropout()
    return made

@pytest.fixture
def prompts(policy):
    task = make_task("NumberLine")
    env = TaskEnv(task)
    frames = [env.reset(seed) for seed in range(12)]
    return [policy.encode(task.prompt(f), f.images) for f in frames]

def gap(policy, prompts, answers):
    "Mean and largest difference between log-probabilities that were sampled with and those computed afterwards."
    with torch.no_grad(): scores = policy.score(prompts, [r.ids for r in answers], temperature=1.0)
    found = np.concatenate([abs(scores.logprobs[i][scores.mask[i]].cpu().numpy() - r.logprobs)
                            for i, r in enumerate(answers)])
    return found.mean(), found.max()

def close(policy, prompts, answers):
    mean, largest = gap(policy, prompts, answers)
    assert largest < 2e-3 if policy.model.dtype == torch.float32 else mean < 0.05, (mean, largest)


@pytest.mark.parametrize("fixed", [False, True])
def test_sampled_is_scored(policy, prompts, fixed):
    if fixed: policy.static_cache = StaticCaches(policy)
    for seed in (0, 100):   # the second time from recordings
        answers = generate(policy, prompts, 48, seeds=range(seed, seed + 12))
        assert len({len(r.ids) for r in answers}) > 1 or all(r.cut for r in answers)
        close(policy, prompts, answers)


def test_a_recording_sees_changed_weights(policy, prompts):
    policy.static_cache = StaticCaches(policy)
    before = generate(policy, prompts, 32, seeds=range(12))
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        policy.score(prompts, [r.ids for r in before]).logprobs.sum().neg().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert gap(policy, prompts, before)[0] > 0.1
    close(policy, prompts, generate(policy, prompts, 32, seeds=range(12)))


@pytest.mark.parametrize(
    "options", [[], ["--sampling.static_cache", "true"],
                ["--advantage.estimator", "grpo", "--advantage.group_size", 4, "--kl.coef", 0.05, "--lora.r", 4]])
def test_two_updates(rl4vlm, blind_model, options):
    rl4vlm("ppo", "--task", "NumberLine", "--model", blind_model, "--out", "run", "--updates", 2, "--rollout.envs", 8,
           "--rollout.steps", 4, "--optim.minibatch", 16, "--sampling.max_new_tokens", 16, "--run.eval_every", 2,
           *options)

"Advantages and losses held against Stable-Baselines3, TRL and finite differences."
import math
import numpy as np
import pytest
import torch
from rl4vlm.advantages import bilevel_gae, centred, following_values, gae, grpo, rloo
from rl4vlm.batch import normalised
from rl4vlm.config import PPOConfig
from rl4vlm.losses import ppo_loss, value_loss
from rl4vlm.types import EncodedPrompt, flatten, turn_of

# ---- Stable-Baselines3 ----

sb3 = pytest.importorskip("stable_baselines3", reason="pip install stable-baselines3 (part of rl4vlm[dev])")


@pytest.mark.parametrize("gamma,lam", [(0.9, 0.95), (0.99, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_gae_is_that_of_stable_baselines3(gamma, lam):
    ("Terminations and truncations; SB3 adds the discounted value of the final observation to the last reward "
     "of a truncated episode.")
    import gymnasium as gym
    from stable_baselines3.common.buffers import RolloutBuffer
    rng = np.random.default_rng(0)
    T, N = 60, 5
    rewards, values, cut = (rng.normal(size=(T, N)).astype(np.float32) for _ in range(3))
    terminated = rng.random((T, N)) < 0.1
    truncated = ~terminated & (rng.random((T, N)) < 0.1)
    ends = terminated | truncated
    assert terminated.any() and truncated.any()
    box = gym.spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(T, box, box, gamma=gamma, gae_lambda=lam, n_envs=N)
    start = np.ones(N, bool)
    for t in range(T):
        buffer.add(np.zeros((N, 1)), np.zeros((N, 1)), rewards[t] + gamma * cut[t] * truncated[t], start,
                   torch.tensor(values[t]), torch.zeros(N))
        start = ends[t]
    last = rng.normal(size=N).astype(np.float32)     # values after the buffer
    buffer.compute_returns_and_advantage(torch.tensor(last), dones=ends[-1])
    cut[-1] = np.where(ends[-1], cut[-1], last)
    tensor = torch.tensor
    advantages, returns = gae(tensor(rewards), tensor(values),
                              following_values(tensor(values), tensor(cut), tensor(ends)), tensor(terminated),
                              tensor(ends), gamma, lam)
    np.testing.assert_allclose(advantages, buffer.advantages, atol=2e-5)
    np.testing.assert_allclose(returns, buffer.returns, atol=2e-5)


def test_losses_are_those_of_stable_baselines3():
    "SB3's own `train`, one epoch of one batch, after the policy has moved away from the one that played."
    from stable_baselines3 import PPO
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, clip_range=0.2, seed=0, device="cpu",
                normalize_advantage=False, learning_rate=1e-12)
    model.learn(64)                                  # fills the buffer
    with torch.no_grad():
        for p in model.policy.parameters(): p.add_(0.15 * torch.randn_like(p))
    batch = next(model.rollout_buffer.get(64))
    values, logprobs, entropy = model.policy.evaluate_actions(batch.observations, batch.actions.long().flatten())
    values, logprobs = values.flatten().detach(), logprobs.detach()
    model.train()
    theirs = model.logger.name_to_value
    loss, parts = ppo_loss(logprobs[:, None], batch.old_log_prob[:, None], torch.ones(64, 1), batch.advantages,
                           clip=0.2, ratio="turn")
    assert theirs["train/clip_fraction"] > 0.05
    assert loss.item() == pytest.approx(theirs["train/policy_gradient_loss"], abs=1e-5)
    assert parts["clip_fraction"] == pytest.approx(theirs["train/clip_fraction"], abs=1e-6)
    assert parts["kl"] == pytest.approx(theirs["train/approx_kl"], abs=1e-5)
    assert 2 * value_loss(values, batch.returns,
                          torch.tensor(1.0)).mean().item() == pytest.approx(theirs["train/value_loss"], rel=1e-4)


def test_clipped_value_loss_line_by_line():
    "Float64, one number at a time, as in PPO's reference implementation (the larger of the two errors)."
    rng = np.random.default_rng(0)
    v, old, R = rng.normal(size=(3, 300))
    scale, clip = 1.7, 0.2
    expected = []
    for a, b, r in zip(v, old, R):
        moved = b + min(max(a - b, -clip * scale), clip * scale)
        expected.append(0.5 * max(((a - r) / scale) ** 2, ((moved - r) / scale) ** 2))
    np.testing.assert_allclose(
        value_loss(*map(torch.tensor, (v, R)), torch.tensor(scale, dtype=torch.float64), torch.tensor(old), clip),
        expected, rtol=1e-6)


# ---- TRL ----

@pytest.fixture(scope="module")
def tiny_text(tmp_path_factory):
    "A small language model and its tokenizer in a folder."
    from transformers import AutoProcessor, Qwen2Config, Qwen2ForCausalLM
    from rl4vlm.tiny import build_tiny
    folder = tmp_path_factory.mktemp("text")
    processor = AutoProcessor.from_pretrained(
        build_tiny(folder/"vlm", texts=["Say a word about the weather, the sea and the wind."] * 3))
    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                                         num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                                         initializer_range=0.2, eos_token_id=tokenizer.eos_token_id,
                                         pad_token_id=tokenizer.pad_token_id))
    return model, tokenizer


def trl_batch(kind, tiny_text, tmp_path, **options):
    "A trainer of TRL, the batch it made of 2 prompts × 4 completions, and the rewards it was given."
    trl = pytest.importorskip("trl", reason="pip install 'rl4vlm[trl]'")
    import copy
    from datasets import Dataset
    model, tokenizer = copy.deepcopy(tiny_text[0]), tiny_text[1]
    rewards = torch.tensor([0.0, 1.0, 1.0, 3.0, 2.0, 2.0, 0.5, -1.0])
    Config, Trainer = (trl.RLOOConfig, trl.RLOOTrainer) if kind == "rloo" else (trl.GRPOConfig, trl.GRPOTrainer)
    config = Config(output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False,
                    report_to="none", per_device_train_batch_size=8, num_generations=4,
                    max_completion_length=6, **{"epsilon": 0.2, **options})
    data = Dataset.from_list([dict(prompt=[dict(role="user", content=t)]) for t in ("the sea", "the wind")])
    trainer = Trainer(model=model, reward_funcs=lambda completions, **_: rewards[:len(completions)].tolist(),
                      args=config, train_dataset=data, processing_class=tokenizer)
    batch = trainer._generate_and_score_completions([data[i // 4] for i in range(8)])
    with torch.no_grad():
        for p in trainer.model.parameters(): p.add_(0.1 * torch.randn_like(p))     # the policy has moved
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, -batch["completion_ids"].shape[1] - 1:-1]
        now = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    return trainer, batch, rewards, now


def test_rloo_is_that_of_trl(tiny_text, tmp_path):
    trainer, batch, rewards, now = trl_batch("rloo", tiny_text, tmp_path, beta=0.0, normalize_advantages=False)
    groups = torch.arange(8) // 4
    assert torch.allclose(rloo(rewards, groups), batch["advantages"], atol=1e-6)
    mask = batch["completion_mask"].float()
    old = now - 0.15 * torch.randn_like(now)
    batch["old_logps"] = (old * mask).sum(1)
    theirs = trainer._compute_loss(trainer.model, batch)
    ours, parts = ppo_loss(now, old, mask, rloo(rewards, groups), clip=0.2, ratio="turn")
    assert parts["clip_fraction"] > 0 and ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_grpo_is_that_of_trl(tiny_text, tmp_path):
    trainer, batch, rewards, now = trl_batch("grpo", tiny_text, tmp_path, beta=0.0, loss_type="bnpo")
    groups = torch.arange(8) // 4
    assert torch.allclose(grpo(rewards, groups), batch["advantages"], atol=1e-5)
    mask = batch["completion_mask"].float()
    trainer.current_gradient_accumulation_steps = 1
    batch["old_per_token_logps"] = now - 0.15 * torch.randn_like(now)
    theirs = trainer._compute_loss(trainer.model, batch)
    ours, parts = ppo_loss(now, batch["old_per_token_logps"], mask, grpo(rewards, groups), clip=0.2, ratio="token")
    assert parts["clip_fraction"] > 0 and ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def gradients(loss, model):
    "Of all parameters of a model, as one vector."
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, model.parameters())])


@pytest.mark.parametrize("name, theirs, ours", [
    ("clip-higher", dict(loss_type="bnpo", epsilon_high=0.28), dict(ratio="token", clip_high=0.28)),
    ("GSPO", dict(loss_type="grpo", importance_sampling_level="sequence", epsilon_high=0.04),
     dict(ratio="sequence", clip_high=0.04)),
    ("CISPO", dict(loss_type="cispo", epsilon_high=1.1),      # theirs is the limit itself
     dict(ratio="token", objective="cispo", clip_high=0.1)),
    ("Dr. GRPO", dict(loss_type="dr_grpo", scale_rewards="none"), dict(ratio="token"))])
def test_objectives_are_those_of_trl(name, theirs, ours, tiny_text, tmp_path):
    "The loss (of CISPO up to a constant) and its gradient in all parameters, after the policy has moved."
    clip = 0.03 if name == "GSPO" else 0.2
    trainer, batch, rewards, _ = trl_batch("grpo", tiny_text, tmp_path, beta=0.0, epsilon=clip, **theirs)
    groups, mask = torch.arange(8) // 4, batch["completion_mask"].float()
    advantages = centred(rewards, groups) if name == "Dr. GRPO" else grpo(rewards, groups)
    assert torch.allclose(advantages, batch["advantages"], atol=1e-5)
    ids, length = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1), batch["completion_ids"].shape[1]
    logits = trainer.model(
        input_ids=ids,
        attention_mask=torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)).logits[:, -length - 1:-1]
    now = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    torch.manual_seed(0)
    old = now.detach() - 0.15 * torch.randn_like(now)
    batch["old_per_token_logps"], batch["num_items_in_batch"] = old, mask.sum()
    trainer.current_gradient_accumulation_steps = 1
    trainer.args.steps_per_generation = 1
    trainer.model.train()
    their_loss = trainer._compute_loss(trainer.model, batch)
    total = 8 * trainer.max_completion_length if name == "Dr. GRPO" else None
    loss, parts = ppo_loss(now, old, mask, advantages, clip, total=total, **ours)
    assert 0 < parts["clip_fraction"] < 1
    if name == "CISPO":     # A log π there, A log ρ here
        weight = (now - old).exp().clamp(max=1.1).detach() * advantages[:, None] * mask
        assert loss.item() == pytest.approx(their_loss.item() + ((weight * old).sum() / mask.sum()).item(), abs=1e-5)
    else: assert loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    one, other = gradients(loss, trainer.model), gradients(their_loss, trainer.model)
    assert one.norm() > 1e-3 and torch.allclose(one, other, atol=1e-5)


# ---- the papers' formulas, one number at a time ----

def clipped_by_the_formula(log_ratio, A, low, high):
    ratio = math.exp(log_ratio)
    return min(ratio * A, min(max(ratio, 1 - low), 1 + high) * A)


@pytest.fixture
def some_turns():
    "Log-probs now and then (B, R), weights with λ and with padding, advantages of turns; one answer is empty."
    rng = np.random.default_rng(0)
    lengths = [5, 1, 7, 0, 3, 7]
    old, weights = rng.normal(-1, 0.5, (6, 7)), np.zeros((6, 7))
    now = old + rng.normal(0, 0.3, (6, 7))
    for row, n in zip(weights, lengths): row[:n], row[max(n - 2, 0):n] = 0.4, 1.0     # the last two are the action
    return now, old, weights, rng.normal(size=6), lengths


def test_clip_higher_by_the_formula_of_dapo(some_turns):
    "arXiv:2503.14476: all tokens of the batch have one denominator; λ weighs here, 1 there."
    now, old, weights, A, lengths = some_turns
    above = sum(weights[i, t] * clipped_by_the_formula(now[i, t] - old[i, t], A[i], 0.2, 0.28)
                for i, n in enumerate(lengths) for t in range(n))
    loss, _ = ppo_loss(*map(torch.tensor, (now, old, weights, A)), 0.2, "token", clip_high=0.28)
    assert loss.item() == pytest.approx(-above / weights.sum(), abs=1e-12)
    assert loss.item() != pytest.approx(
        ppo_loss(*map(torch.tensor, (now, old, weights, A)), 0.2, "token")[0].item(), abs=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sequence_ratio_by_the_formula_of_gspo(some_turns, weighted):
    "arXiv:2507.18071; with λ the mean in the exponent is weighted. An empty answer has ratio 1."
    now, old, weights, A, lengths = some_turns
    if not weighted: weights = (weights > 0).astype(float)
    each = []
    for i, n in enumerate(lengths):
        logs, w = [now[i, t] - old[i, t] for t in range(n)], [weights[i, t] for t in range(n)]
        each.append(clipped_by_the_formula(sum(a * b for a, b in zip(w, logs)) / sum(w) if n else 0.0,
                                           A[i], 0.05, 0.08))
    loss, parts = ppo_loss(*map(torch.tensor, (now, old, weights, A)), 0.05, "sequence", clip_high=0.08)
    assert loss.item() == pytest.approx(-sum(each) / 6, abs=1e-12) and parts["clip_fraction"] > 0


def test_cispo_by_the_formula_of_minimax(some_turns):
    "arXiv:2506.13585: every token's gradient is its clipped ratio times its advantage, also beyond the clip."
    now, old, weights, A, lengths = some_turns
    x = torch.tensor(now, requires_grad=True)
    loss, parts = ppo_loss(x, *map(torch.tensor, (old, weights, A)), 0.2, "token", clip_high=0.15, objective="cispo")
    loss.backward()
    beyond = 0
    for i in range(6):
        for t in range(7):
            ratio = math.exp(now[i, t] - old[i, t])
            wanted = -min(ratio, 1.15) * A[i] * weights[i, t] / weights.sum() if t < lengths[i] else 0.0
            beyond += (ratio > 1.15) * weights[i, t]
            assert x.grad[i, t].item() == pytest.approx(wanted, abs=1e-12)
    assert parts["clip_fraction"] == pytest.approx(beyond / weights.sum(), abs=1e-9) and beyond > 0


def test_differences_and_whitening_by_the_formulas():
    "Dr. GRPO (arXiv:2503.20783) and REINFORCE++ with a baseline (arXiv:2501.03262), over groups of unequal size."
    rng = np.random.default_rng(0)
    returns, groups = rng.normal(size=30), rng.integers(0, 5, 30)
    differences = []
    for r, g in zip(returns, groups):
        members = [s for s, h in zip(returns, groups) if h == g]
        differences.append(r - sum(members) / len(members))
    mean = sum(differences) / 30
    std = math.sqrt(sum((d - mean) ** 2 for d in differences) / 29)
    ours = centred(torch.tensor(returns), torch.tensor(groups))
    np.testing.assert_allclose(ours, differences, atol=1e-12)
    np.testing.assert_allclose(normalised(ours, torch.ones(30, dtype=torch.bool)),
                               [(d - mean) / std for d in differences], atol=1e-5)


def bilevel_by_the_formula(segment, gamma, lam, token_lam):
    ("VAGEN (arXiv:2510.16907): one segment, a list of (reward, values, penalties, value of the prompt, terminated, "
     "what follows a cut).")
    above, result = [0.0] * len(segment), []
    anchor = lambda turn: turn[1][-1] if turn[1] else turn[3]
    for t in reversed(range(len(segment))):
        reward, values, penalties, _, terminated, cut = segment[t]
        paid = reward + (penalties[-1] if penalties else 0.0)
        if terminated: above[t] = paid - anchor(segment[t])
        elif cut is not None: above[t] = paid + gamma * cut - anchor(segment[t])
        else: above[t] = paid + gamma * anchor(segment[t + 1]) - anchor(segment[t]) + gamma * lam * above[t + 1]
    for t, (_, values, penalties, _, _, _) in enumerate(segment):
        of_tokens = [0.0] * len(values)
        for i in reversed(range(len(values))):
            if i == len(values) - 1: of_tokens[i] = above[t]
            else: of_tokens[i] = penalties[i] + values[i + 1] - values[i] + token_lam * of_tokens[i + 1]
        result.append(of_tokens)
    return result


@pytest.mark.parametrize("gamma, lam, token_lam",
                         [(0.9, 0.95, 1.0), (0.9, 0.5, 0.7), (1.0, 0.0, 0.0), (0.95, 1.0, 0.9)])
def test_bilevel_gae_by_the_formula_of_vagen(gamma, lam, token_lam):
    ("Terminations, truncations, buffers that end in mid-episode, answers of unequal length and without tokens, "
     "penalties.")
    rng = np.random.default_rng(1)
    segments, plain = [], []
    for _ in range(4):
        turns, told = [], []
        for t in range(9):
            n, reward, prompt = int(rng.integers(0, 5)), float(rng.normal()), float(rng.normal())
            values, penalties = rng.normal(size=n).astype(np.float32), rng.normal(size=n).astype(np.float32)
            terminated, truncated = rng.random() < 0.2, rng.random() < 0.2
            truncated &= not terminated
            cut = float(rng.normal()) if not terminated and (truncated or t == 8) else None
            turns.append(turn_of(reward=reward, value=prompt, terminated=terminated, truncated=truncated,
                                 next_value=cut, response_ids=np.arange(n), token_values=values if n else None))
            told.append((reward, values.tolist(), penalties.tolist(), prompt, terminated, cut))
        segments.append(turns); plain.append(told)
    turns, layout = flatten(segments)
    place = {id(t): (i, k) for i, s in enumerate(segments) for k, t in enumerate(s)}
    penalty = torch.zeros(len(turns), 4)
    for row, turn in zip(penalty, turns):
        i, k = place[id(turn)]; row[:len(plain[i][k][2])] = torch.tensor(plain[i][k][2])
    found = bilevel_gae(turns, layout, torch.tensor([float(t.reward) for t in turns]), penalty, gamma, lam, token_lam)
    wanted = [bilevel_by_the_formula(s, gamma, lam, token_lam) for s in plain]
    assert (any(t.truncated for t in turns) and any(t.terminated for t in turns)
            and any(not len(t.response_ids) for t in turns))
    for row, returns, turn in zip(found.advantages, found.returns, turns):
        i, k = place[id(turn)]; n = len(turn.response_ids)
        np.testing.assert_allclose(row[:n], wanted[i][k], atol=1e-5)
        np.testing.assert_allclose(returns[:n], np.array(wanted[i][k]) + np.array(plain[i][k][1]), atol=1e-5)
        assert (row[n:] == 0).all() and (returns[n:] == 0).all()


# ---- a tiny model ----

@pytest.fixture(scope="module")
def played(tmp_path_factory):
    "A policy in float64 and two segments that it played."
    from rl4vlm.env_pool import TaskEnv
    from rl4vlm.models import load_vlm
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.rollout import Plan, Player, PolicyActor
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import build_tiny
    torch.manual_seed(0)
    task = make_task("NumberLine")
    frames = [TaskEnv(task).reset(seed) for seed in range(3)]
    folder = build_tiny(tmp_path_factory.mktemp("tiny"),
                        texts=[task.prompt(f)[0]["content"][-1]["text"] + task.answer("+", f.info) for f in frames])
    policy = VLMPolicy(*load_vlm(str(folder)))
    policy.eval(); policy.disable_dropout()
    player = Player(task, PolicyActor(policy, max_new_tokens=12), None, envs=2)
    segments = [e.turns[:2] for e in player.episodes([Plan(i, (0, i), str(i)) for i in range(2)])]
    for segment in segments:
        segment[-1].truncated, segment[-1].next_value = True, 0.3
        for t in segment: t.span = (2, 5) if len(t.text) > 5 else None      # some characters are the action
    return policy, segments


def test_gradient_of_the_weighted_turn_loss_by_finite_differences(played):
    "λ-weighted turn ratio, float64, along random directions in the space of all parameters."
    from rl4vlm.batch import make_batch
    from rl4vlm.logprobs import TokenScores
    policy, segments = played
    batch, _ = make_batch(policy, segments, PPOConfig(loss=dict(thought_weight=0.3, ratio="turn")))
    assert ((batch.weights > 0) & (batch.weights < 1)).any() and (batch.weights == 1).any()
    policy.double()
    try:
        policy._features.clear(); policy._features.used = 0
        def loss():
            states, ids, mask = policy.response_states(batch.prompts, batch.responses)
            logits = policy.base.get_output_embeddings()(states[mask])
            logp = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(
                mask, TokenScores.apply(logits, ids[mask], policy.forbidden, False)[1])
            return ppo_loss(logp, batch.old_logprobs.double() + 0.01, batch.weights.double(), batch.advantages.double(),
                            0.2, "turn")[0]
        parameters = [p for n, p in policy.model.named_parameters() if "visual" not in n]
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        for seed in range(3):
            torch.manual_seed(seed)
            directions = [torch.randn_like(p) for p in parameters]
            slope = sum((g * d).sum() for g, d in zip(gradients, directions) if g is not None).item()
            ends, h = [], 1e-5
            with torch.no_grad():
                for sign in (1, -1):
                    for p, d in zip(parameters, directions): p.add_(sign * h * d)
                    ends.append(loss().item())
                    for p, d in zip(parameters, directions): p.sub_(sign * h * d)
            # the model's norms round to float32
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-3, abs=1e-6)
    finally:
        policy.float(); policy._features.clear(); policy._features.used = 0


def test_order_and_padding_change_nothing(played):
    ("The loss of a minibatch does not depend on the order of its turns, nor on how long the "
     "longest answer or prompt is.")
    from rl4vlm.ppo import PPO
    policy, segments = played
    learner = PPO("NumberLine", policy, PPOConfig(kl=dict(max=0), loss=dict(entropy_coef=0.01)))
    from rl4vlm.batch import make_batch
    batch, _ = make_batch(policy, segments, learner.config)
    totals = lambda rows: learner.totals_of(batch, rows)
    rows = np.arange(len(batch))
    loss = lambda rows: learner.loss(batch, rows, totals(rows), False)[0].item()
    assert loss(rows) == pytest.approx(loss(rows[::-1].copy()), abs=1e-5)
    with torch.no_grad():
        alone = [policy.score([batch.prompts[i]], [batch.responses[i]]).logprobs[0] for i in rows]
        long = policy.score([*batch.prompts, batch.prompts[0]],
                            [*batch.responses, np.resize(batch.responses[0], 40)]).logprobs
    for i, one in enumerate(alone): assert (long[i, :len(one)] - one).abs().max() < 1e-4
    learner.player.close()


# ---- in an update ----

def on_two_ranks(work):
    "The results of work(rank, gather) for two ranks, each in a thread; gather gives what both have handed in."
    import threading
    barrier, handed, results = threading.Barrier(2, timeout=60), [None, None], [None, None]
    def rank(index):
        def gather(x):
            handed[index] = x
            barrier.wait(); both = list(handed); barrier.wait()
            return both
        results[index] = work(index, gather)
    threads = [threading.Thread(target=rank, args=(i,)) for i in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    return results


@pytest.mark.parametrize("estimator", ["reinforce++", "drgrpo", "bilevel"])
def test_two_ranks_have_the_advantages_of_one(estimator):
    "What is whitened is whitened by the update of all processes; groups of two, whole on each."
    from types import SimpleNamespace
    from rl4vlm.batch import make_batch
    rng = np.random.default_rng(0)
    def segment(i):
        sizes = [(int(rng.integers(1, 5)), k == n - 1) for n in [int(rng.integers(1, 4))] for k in range(n)]
        return [turn_of(group=str(i // 2), task="a", reward=float(rng.normal() + (i > 3)), value=0.1, terminated=last,
                        response_ids=np.arange(n), logprobs=np.zeros(n, np.float32),
                        token_values=rng.normal(size=n).astype(np.float32))
                for n, last in sizes]
    segments = [segment(i) for i in range(8)]
    for t in (t for s in segments for t in s): t.prompt.tokens = EncodedPrompt(np.arange(3), np.arange(3)[None], [], ())
    policy = SimpleNamespace(action_tokens=lambda ids, span: np.ones(len(ids), bool))
    config = PPOConfig(advantage=dict(estimator=estimator, group_size=2), rollout=dict(envs=8))
    def advantages(segments, **more):
        batch, _ = make_batch(policy, segments, config, **more)
        turns, _ = flatten(segments)
        return {id(t): row[:len(t.response_ids)] if row.ndim else row for t, row in zip(turns, batch.advantages)}
    alone = advantages(segments)
    first, second = on_two_ranks(lambda rank, gather: advantages(segments[4 * rank:4 * rank + 4], gather=gather))
    assert len(first) + len(second) == len(alone)
    for key, wanted in alone.items(): assert torch.allclose({**first, **second}[key], wanted, atol=1e-6)
    if estimator != "drgrpo":
        apart = advantages(segments[:4])
        assert any(not torch.allclose(apart[key], alone[key], atol=1e-3) for key in apart)


def learner_of(model, **options):
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.ppo import PPO
    options = {**dict(rollout=dict(envs=8, steps=3), optim=dict(minibatch=64, value_warmup=0, lr=1e-3),
                      sampling=dict(max_new_tokens=6), kl=dict(max=0), task_options=dict(max_turns=3)), **options}
    from rl4vlm.tasks import make_task
    return PPO(make_task("NumberLine", max_turns=3), VLMPolicy.load(str(model)), PPOConfig(**options))


def test_dr_grpo_divides_by_the_tokens_there_could_have_been(blind_model):
    "Also in parts of a minibatch; the KL that stops an update remains a mean over tokens."
    ppo = learner_of(blind_model, advantage=dict(estimator="drgrpo", group_size=4))
    ppo.step = 1
    try:
        batch, _ = ppo.compute_advantages(ppo.play())
        rows = np.arange(len(batch))
        # one answer is short
        batch.responses[0], batch.weights[0, 1:], batch.old_logprobs[0, 1:] = batch.responses[0][:1], 0.0, 0.0
        totals = ppo.totals_of(batch, rows)
        _, stats = ppo.loss(batch, rows, totals, check=False)
        assert totals["loss"] == 6 * len(rows) != totals["token"]
        assert stats["policy_loss"] == pytest.approx(
            -(batch.advantages[:, None] * batch.weights).sum().item() / (6 * len(rows)), abs=1e-5)
        batch.old_logprobs -= 0.1
        halves = [ppo.loss(batch, half, totals, check=False)[1] for half in np.array_split(rows, 2)]
        assert sum(h["kl"] for h in halves) == pytest.approx(math.exp(0.1) - 1 - 0.1, abs=1e-5)
        assert sum(h["policy_loss"] for h in halves) == pytest.approx(math.exp(0.1) * stats["policy_loss"], rel=1e-3)
    finally: ppo.player.close()


KINDS = {"bilevel": dict(advantage=dict(estimator="bilevel", answer_lambda=0.9)),
         "drgrpo": dict(advantage=dict(estimator="drgrpo", group_size=4)),
         "reinforce++": dict(advantage=dict(estimator="reinforce++", group_size=4, filter_groups=1e-6),
                             kl=dict(coef=0.1, kind="k2", max=0)),
         "clip-higher": dict(loss=dict(clip_high=0.28)),
         "sequence": dict(loss=dict(ratio="sequence", clip=3e-4, clip_high=4e-4, entropy_coef=0.01)),
         "cispo": dict(loss=dict(objective="cispo", clip_high=4.0))}

@pytest.mark.parametrize("kind", KINDS)
def test_each_updates_without_a_word(kind, blind_model):
    "Two updates of two epochs: finite, weights move, nothing is warned of."
    import warnings
    ppo = learner_of(blind_model, **KINDS[kind])
    before = {n: p.detach().clone() for n, p in ppo.policy.model.named_parameters() if p.requires_grad}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            rows = [ppo.run_update()[0] for _ in range(2)]
    finally: ppo.player.close()
    assert (all(np.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
            and all(r["minibatches"] == 2 for r in rows))
    assert any((before[n] != p).any() for n, p in ppo.policy.model.named_parameters() if n in before)
    assert all(p.isfinite().all() for p in ppo.policy.parameters())
    if kind == "sequence": assert rows[0]["clip_fraction"] > 0


@pytest.mark.parametrize("threshold, kept", [(0.0, 16), (1e-6, 12), (0.1, 8), (9.0, 0)])
def test_groups_of_small_deviation_are_left_out(threshold, kept, blind_model):
    "Four groups of four, whose returns deviate by 0, 0.01, 0.5 and 1: those below the threshold teach nothing."
    ppo = learner_of(blind_model, advantage=dict(estimator="grpo", group_size=4, filter_groups=threshold),
                     rollout=dict(envs=16))
    try:
        ppo.step = 1
        segments, deviations = ppo.play(), [0.0, 0.01, 0.5, 1.0]
        assert len(segments) == 16
        for i, segment in enumerate(segments):
            for t in segment: t.reward = 0.0
            segment[-1].reward = (i % 4 - 1.5) * deviations[i // 4] / (5 / 3)**0.5
        batch, log = ppo.compute_advantages(segments)
        turns, _ = flatten(segments)
        for i, row in enumerate(batch.spread.tolist()):
            assert row == pytest.approx(deviations[int(turns[i].group.split("-")[0]) % 4], abs=1e-6)
        left = ppo.teaching(batch)
        assert len({t.group for t, s in zip(turns, batch.spread) if s >= threshold}) == kept // 4
        assert len(left) == sum(float(s) >= threshold for s in batch.spread)
        assert log["same_return"] == 0.25
        assert ("filtered_groups" in log) == (threshold > 0)
        assert log.get("filtered_groups", 0.0) == pytest.approx(1 - kept / 16)
    finally: ppo.player.close()

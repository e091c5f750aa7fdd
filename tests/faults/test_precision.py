"""bfloat16 learns as float32 does: whole weights keep float32 copies, for fine-tuning, PPO and TRL, and come back from
a checkpoint.

float16 with whole weights is refused, and the dry run counts the copies.
"""
import pytest
import torch
from rl4vlm.config import LoRAConfig, PPOConfig, SFTConfig, TRLConfig
from rl4vlm.core import UsageError
from rl4vlm.distributed import MasterAdamW, adamw_for, dithered
from rl4vlm.policy import VLMPolicy

def walk(dtype, gradient, steps, kind=MasterAdamW, lr=1e-5, **options):
    torch.manual_seed(0)
    weight = torch.nn.Parameter((torch.randn(64, 64) * 0.08).bfloat16().to(dtype))
    optimizer, start = kind([weight], lr=lr, **options), weight.detach().float().clone()
    for step in range(steps): weight.grad = gradient(step).to(dtype); optimizer.step()
    return weight.detach().float() - start, optimizer, weight


def noise(step): return torch.randn(64, 64, generator=torch.Generator().manual_seed(step)) + 0.5

@pytest.mark.parametrize("options", [dict(), dict(weight_decay=0.1, betas=(0.9, 0.95)), dict(lr=1e-3)])
def test_masters_take_float32s_steps(options):
    exact, *_ = walk(torch.float32, lambda s: noise(s).bfloat16().float(), 40, torch.optim.AdamW, **options)
    rounded, optimizer, weight = walk(torch.bfloat16, noise, 40, **options)
    master = optimizer.state[weight]["master"]
    assert weight.dtype == torch.bfloat16 and master.dtype == torch.float32
    start = (torch.manual_seed(0), (torch.randn(64, 64) * 0.08).bfloat16().float())[1]
    assert (master - start - exact).abs().max() < 1e-5 * max(1, exact.abs().max() / 1e-3)
    assert (master - start).count_nonzero() == master.numel()
    # what the model sees follows on average
    assert abs(rounded.mean() - exact.mean()) < 0.05 * exact.abs().mean() + 1e-5
    assert ((weight.float() - master).abs() <= master.abs() * 2**-7 + 1e-30).all()


def test_float32_is_bit_for_bit_torchs():
    ours, theirs = (walk(torch.float32, noise, 10, kind)[0] for kind in (MasterAdamW, torch.optim.AdamW))
    assert torch.equal(ours, theirs)


def test_rounding_is_fair_and_still_where_nothing_moves():
    x = torch.full((100_000,), 1.0009765625)     # an eighth of the way from 1 to the next number of bfloat16
    assert set(dithered(x, 0).float().tolist()) == {1.0, 1.0078125}
    assert abs(dithered(x, 0).double().mean() - x.double().mean()) < 1e-4
    assert torch.equal(dithered(x, 0), dithered(x, 0)) and torch.equal(dithered(-x, 0), -dithered(x, 0))
    whole = torch.randn(1000).bfloat16()
    assert torch.equal(dithered(whole.float(), 3), whole)


def test_a_resumed_optimizer_goes_on_bit_for_bit(tmp_path):
    straight = walk(torch.bfloat16, noise, 20)[2]
    _, optimizer, weight = walk(torch.bfloat16, noise, 10)
    torch.save(optimizer.state_dict(), tmp_path/"optimizer.pt")
    copy = torch.nn.Parameter(weight.detach().clone())
    resumed = MasterAdamW([copy], lr=1e-5)
    resumed.load_state_dict(torch.load(tmp_path/"optimizer.pt", weights_only=True))
    for step in range(10, 20): copy.grad = noise(step).bfloat16(); resumed.step()
    assert torch.equal(copy, straight)


def test_a_state_without_copies_can_still_be_read():
    "Checkpoints of bfloat16 runs that were written before there were copies."
    _, old, weight = walk(torch.bfloat16, noise, 5, torch.optim.AdamW)
    new = MasterAdamW([weight], lr=1e-5); new.load_state_dict(old.state_dict())
    weight.grad = noise(5).bfloat16(); new.step()
    assert new.state[weight]["master"].dtype == new.state[weight]["exp_avg"].dtype == torch.float32
    assert weight.isfinite().all()


# --- the three loops ---

@pytest.fixture(scope="module")
def lessons():
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.tasks import make_task
    task = make_task("NumberLine")
    turns = [t for e in play(task, OracleActor(task), range(16)) for t in e.turns][:32]
    return [dict(messages=t.messages + [dict(role="assistant", content=t.text)], images=t.images) for t in turns]


def test_fine_tuning_learns_in_bfloat16_what_it_learns_in_float32(blind_model, lessons, tmp_path):
    from rl4vlm.sft import train_sft, validation_loss
    fall = {}
    for dtype in ("float32", "bfloat16"):
        policy = VLMPolicy.load(blind_model, dtype=dtype, device="cpu", parts="all")
        before = validation_loss(policy, lessons)
        train_sft(lessons, policy, SFTConfig(steps=12, optim=dict(batch_size=8, lr=2e-5, warmup=0.0),
                                             run=dict(save_every=10**6), trainable="all"), tmp_path/dtype)
        assert {p.dtype for p in policy.model.parameters()} == {getattr(torch, dtype)}
        fall[dtype] = before - validation_loss(policy, lessons)
    assert fall["float32"] > 0.1 and abs(fall["bfloat16"] / fall["float32"] - 1) < 0.05, fall


def test_ppo_learns_with_float32_copies_and_resumes_exactly(blind_model, tmp_path):
    from rl4vlm.ppo import PPO
    def ppo(folder):
        torch.manual_seed(0)
        config = PPOConfig(rollout=dict(envs=4, steps=2), optim=dict(minibatch=8, epochs=1, lr=1e-5, value_warmup=0),
                           sampling=dict(max_new_tokens=4), updates=2, trainable="all",
                           loading=dict(dtype="bfloat16"))
        return PPO("NumberLine", VLMPolicy.load(blind_model, dtype="bfloat16", device="cpu", parts="all"), config,
                   folder)
    one = ppo(tmp_path/"one")
    start = {n: p.detach().float().clone() for n, p in one.policy.model.named_parameters()}
    one.run_update()
    state = one.learner.optimizer.state
    learned = [(n, p) for n, p in one.policy.model.named_parameters()
               if p.grad is not None and p.grad.count_nonzero() > p.numel() / 2]
    moved = sum((state[p]["master"] != start[n]).sum() for n, p in learned) / sum(p.numel() for _, p in learned)
    assert moved > 0.9, moved
    one.save(); one.run_update()
    two = ppo(tmp_path/"one"); assert two.resume(); two.run_update()
    for (n, p), q in zip(one.policy.model.named_parameters(), two.policy.model.parameters()):
        assert torch.equal(p, q), n
    one.player.close(); two.player.close()


def test_trls_trainer_steps_float32_copies(blind_model, tmp_path, monkeypatch):
    pytest.importorskip("trl")
    from rl4vlm import trl_rloo
    seen = []
    monkeypatch.setattr(
        MasterAdamW, "_step_master",
        lambda self, group, p, seed, do=MasterAdamW._step_master: (seen.append(p.dtype), do(self, group, p, seed)))
    trl_rloo.train_trl(TRLConfig(model=str(blind_model), task="PickImage", steps=1, prompts=2, group_size=2,
                                 sampling=dict(max_new_tokens=4), loading=dict(dtype="bfloat16"),
                                 out=str(tmp_path/"run"), run=dict(trackers=[])))
    assert set(seen) == {torch.bfloat16} and len(seen) > 10


@pytest.mark.parametrize("stage", ["sft", "ppo", "trl"])
def test_float16_with_whole_weights_is_refused(blind_model, lessons, tmp_path, stage):
    if stage == "trl": pytest.importorskip("trl")
    def run():
        policy = VLMPolicy.load(blind_model, dtype="float16", device="cpu")
        if stage == "sft":
            from rl4vlm.sft import train_sft
            train_sft(lessons, policy, SFTConfig(steps=1, optim=dict(batch_size=2)), tmp_path/"run")
        elif stage == "ppo":
            from rl4vlm.ppo import train_ppo
            train_ppo("NumberLine", policy, PPOConfig(rollout=dict(envs=2, steps=1), optim=dict(minibatch=2),
                                                      loading=dict(dtype="float16")), folder=tmp_path/"run")
        else:
            from rl4vlm.trl_rloo import train_trl
            train_trl(TRLConfig(model=str(blind_model), task="PickImage", steps=1, loading=dict(dtype="float16"),
                                out=str(tmp_path/"run"), run=dict(trackers=[])))
    with pytest.raises(UsageError, match="float16 cannot train whole weights"): run()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_an_adapter_on_float16_is_let_through(blind_model):
    model = VLMPolicy.load(blind_model, dtype="float16", device="cpu", lora=LoRAConfig(r=2)).model
    assert adamw_for(model.parameters()) is MasterAdamW
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_the_dry_run_counts_the_copies():
    from rl4vlm.dry_run import memory, on_paper
    model = on_paper("Qwen/Qwen2-VL-2B-Instruct")
    number = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert memory(model)["optimizer"] == memory(model, 1, 2)["optimizer"] == 12 * number
    assert memory(on_paper("Qwen/Qwen2-VL-2B-Instruct", dtype=torch.float32))["optimizer"] == 8 * number

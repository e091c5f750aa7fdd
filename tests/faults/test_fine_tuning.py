"""Fine-tuning: a batch in parts is the same batch, and numbers that are not finite stop the run before a weight moves.

`k` rows in `n` parts give the loss and the gradient of `k·n` rows, on one process and on two. A row that cannot be
learned is refused by its number. TRL's trainer has the same guard.
"""
import subprocess
import sys
from pathlib import Path
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from rl4vlm.config import LoRAConfig, SFTConfig, TRLConfig
from rl4vlm.core import InvariantError, UsageError
from rl4vlm.policy import VLMPolicy
from rl4vlm.sft import train_sft

RUN = '''
import sys, torch, warnings; warnings.filterwarnings("ignore")
sys.path.insert(0, {here!r})
from test_fine_tuning import gradient
if __name__ == "__main__":
    model, batch_size, accumulate, folder = sys.argv[1:]
    torch.save(gradient(model, int(batch_size), int(accumulate), folder), folder + "/gradient.pt")
'''

def unequal(n=8):
    "Rows with answers of very unequal length."
    return [dict(messages=[dict(role="user", content=f"Say {i}."),
                           dict(role="assistant", content="yes" if i % 2 else "The target number is " + "7" * 5 * i)],
                 images=[]) for i in range(n)]

class Look(TrainerCallback):
    "Keeps the gradient of the first step, and the loss."
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model = getattr(model, "module", model)
        self.gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = logs.get("loss", getattr(self, "loss", None))

def gradient(model, batch_size, accumulate, folder, **options):
    "Loss and gradient of one step on the eight rows."
    look = Look()
    train_sft(unequal(), VLMPolicy.load(model, device="cpu"),
              SFTConfig(steps=1, optim=dict(batch_size=batch_size, accumulate=accumulate, max_grad_norm=1e9),
                        **options), Path(folder)/"sft", [look], shuffle=False)
    return dict(loss=look.loss, gradient=look.gradient)

def same(a, b):
    flat = lambda g: torch.cat([x.flatten() for _, x in sorted(g["gradient"].items())])
    assert abs(a["loss"] - b["loss"]) < 1e-4 * a["loss"], (a["loss"], b["loss"])
    assert (flat(a) - flat(b)).norm() < 1e-4 * flat(a).norm()

@pytest.fixture(scope="module")
def whole(blind_model, tmp_path_factory): return gradient(blind_model, 8, 1, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("batch_size, accumulate, group", [(4, 2, ""), (1, 8, ""), (2, 4, "length")])
def test_rows_in_parts_are_the_whole_batch(blind_model, whole, tmp_path, batch_size, accumulate, group):
    same(whole, gradient(blind_model, batch_size, accumulate, tmp_path, group=group))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size, accumulate", [(8, 1), (2, 4)])
def test_on_two_processes_too(blind_model, whole, tmp_path, batch_size, accumulate):
    (tmp_path/"run.py").write_text(RUN.format(here=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(tmp_path/"run.py"), str(blind_model), str(batch_size), str(accumulate), str(tmp_path)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    same(whole, torch.load(tmp_path/"gradient.pt", weights_only=True))


# --- numbers that are not finite ---

def stopped(policy, folder, what, match, callbacks=(), **options):
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    with pytest.raises(InvariantError, match=match) as error:
        train_sft(unequal(), policy, SFTConfig(**(dict(steps=3, batch_size=4, save_every=1) | options)), folder/"sft",
                  list(callbacks))
    if what:
        assert "response_ids" in load_file(folder/"sft"/"broken_batch_0.safetensors")
        assert "nothing was learned" in str(error.value)
    assert "NaN" not in (folder/"sft"/"metrics.jsonl").read_text() if (folder/"sft"/"metrics.jsonl").exists() else True
    return before


def test_a_broken_loss(blind_model, tmp_path):
    policy = VLMPolicy.load(blind_model, device="cpu")
    true = policy.score
    def broken(*args, **kwargs):
        scores = true(*args, **kwargs); scores.logprobs = scores.logprobs - torch.inf
        return scores
    policy.score = broken
    before = stopped(policy, tmp_path, "loss", "step 1: the loss is not finite")
    assert all(torch.equal(before[n], p) for n, p in policy.named_parameters())


@pytest.mark.parametrize("lora", [0, 2])
def test_a_broken_gradient_at_the_second_step(blind_model, tmp_path, lora):
    policy = VLMPolicy.load(blind_model, device="cpu", lora=LoRAConfig(r=lora))
    weight, calls, kept = next(p for p in policy.model.parameters() if p.requires_grad), [], {}
    weight.register_hook(lambda g: (calls.append(1), g * (float("nan") if len(calls) > 1 else 1))[1])
    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            kept.update({n: p.detach().clone() for n, p in policy.named_parameters()})
    stopped(policy, tmp_path, "gradient", "step 2: the gradient is not finite", [Keep()])
    assert kept and all(torch.equal(kept[n], p) for n, p in policy.named_parameters())
    for file in (tmp_path/"sft").rglob("*.safetensors"):
        assert all(t.isfinite().all() for t in load_file(file).values())


def test_a_learning_rate_that_breaks_everything(blind_model, tmp_path):
    stopped(VLMPolicy.load(blind_model, device="cpu"), tmp_path, "", "not finite", lr=1e38, warmup=0.0)
    for file in (tmp_path/"sft").rglob("*.safetensors"):
        assert all(t.isfinite().all() for t in load_file(file).values())


def test_weights_that_broke_in_the_last_step_are_not_written(blind_model, tmp_path):
    policy = VLMPolicy.load(blind_model, device="cpu")
    with torch.no_grad(): next(policy.model.parameters())[0] = float("nan")
    with pytest.raises(InvariantError, match="the weights are broken: .* such as"): policy.save(tmp_path/"out")
    assert not (tmp_path/"out").exists()


def test_a_validation_loss_that_is_not_finite_stops(blind_model, tmp_path, monkeypatch):
    from rl4vlm import sft
    monkeypatch.setattr(sft, "validation_loss", lambda *a: float("nan"))
    with pytest.raises(InvariantError, match="val_loss is nan"):
        train_sft(unequal(), VLMPolicy.load(blind_model, device="cpu"),
                  SFTConfig(steps=2, optim=dict(batch_size=2), run=dict(best="loss", eval_every=1)), tmp_path/"sft",
                  validation=unequal(2))
    assert not (log := tmp_path/"sft"/"metrics.jsonl").exists() or "NaN" not in log.read_text()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_trls_trainer_stops_too(blind_model, tmp_path, monkeypatch, what):
    trl = pytest.importorskip("trl")
    from rl4vlm.trl_rloo import train_trl
    true = trl.RLOOTrainer.compute_loss
    def broken(self, *args, **kwargs):
        loss = true(self, *args, **kwargs)
        if what == "loss": return loss * float("nan")
        loss.register_hook(lambda g: g * float("inf"))
        return loss
    monkeypatch.setattr(trl.RLOOTrainer, "compute_loss", broken)
    config = TRLConfig(model=str(blind_model), task="PickImage", steps=1, prompts=2, group_size=2,
                       sampling=dict(max_new_tokens=4), out=str(tmp_path/"run"), run=dict(trackers=[]))
    with pytest.raises(InvariantError, match=f"step 1: the {what} is not finite"): train_trl(config)
    assert load_file(tmp_path/"run"/"broken_batch_0.safetensors") and not (tmp_path/"run"/"rloo").exists()


# --- rows ---

@pytest.mark.parametrize("answer", ["a <|image_pad|> b", "done<|im_end|>and more", "<|endoftext|>"])
def test_a_row_whose_answer_cannot_be_sampled(blind_model, tmp_path, answer):
    rows = unequal(6); rows[3]["messages"][-1]["content"] = answer
    policy = VLMPolicy.load(blind_model, device="cpu")
    with pytest.raises(UsageError, match=r"row 3 cannot be learned from: .*--rows.on_bad_row skip"):
        train_sft(rows, policy, SFTConfig(steps=1, optim=dict(batch_size=2)), tmp_path/"sft")
    assert not (tmp_path/"sft").exists()
    with pytest.warns(UserWarning, match="row 3 is left out"):
        result = train_sft(rows, policy, SFTConfig(steps=1, optim=dict(batch_size=2), rows=dict(on_bad_row="skip")),
                           tmp_path/"sft")
    assert result["left_out"] == [3] and result["loss"] < 100


def test_tokens_that_were_forbidden_count_too(blind_model, tmp_path):
    policy = VLMPolicy.load(blind_model, device="cpu")
    policy.forbid(*policy.answer_ids("yes")[:1])
    with pytest.raises(UsageError, match="row 1 cannot be learned from: .* never sampled"):
        train_sft(unequal(6), policy, SFTConfig(steps=1, optim=dict(batch_size=2)), tmp_path/"sft")

"Models on paper: sizes as published, parts, memory; broken ones are told; and runs with a server of vLLM."
import json
import pytest
from rl4vlm import cli
from rl4vlm.config import LoRAConfig, PPOConfig
from rl4vlm.core import UsageError
from rl4vlm.dry_run import check_paper, estimate, known_models, on_paper, only_on_paper, run_paper, shapes_of
from rl4vlm.families import build_family
from rl4vlm.models import check_parts, load_vlm
from rl4vlm.tasks import make_task

KNOWN = known_models()


@pytest.mark.parametrize("name", KNOWN)
def test_sizes_are_the_published_ones_and_parts_are_known(name):
    model = on_paper(name)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(KNOWN[name]["billions"], rel=0.003)
    check_parts(model, name)


@pytest.mark.parametrize("makers", ["Qwen/Qwen3-VL", "google/gemma-3", "HuggingFaceTB/SmolVLM2", "OpenGVLab/InternVL3"])
def test_the_table_covers_what_people_use(makers): assert sum(n.startswith(makers) for n in KNOWN) >= 3


def test_every_known_model_can_be_estimated():
    task = make_task("NumberLine")
    for name in KNOWN:
        row = estimate(PPOConfig(model=name, lora=dict(r=16)), task, [(1, 0)])[0]
        assert row["memory"]["update"] > row["memory"]["weights"] > 0 and row["prompt"] > 100


@pytest.fixture()
def bare(tmp_path):
    "A folder with the files of a checkpoint, and no weights."
    folder = build_family(tmp_path/"bare", "smolvlm")
    (folder/"model.safetensors").unlink()
    return folder


def test_a_folder_without_weights_is_looked_at_on_paper(bare, capsys):
    assert cli.main(["doctor", "--model", str(bare)]) == 0
    out = capsys.readouterr().out
    assert "on paper" in out and "template        holds" in out and "fast path" in out
    with pytest.raises(UsageError, match="no .*safetensors"): load_vlm(str(bare))   # and by nothing else


@pytest.mark.parametrize("change, told", [
    (lambda c: dict(c, image_token_id=10**6), "image token"),
    (lambda c: dict(c, text_config=dict(c["text_config"], vocab_size=100)), "template"),
], ids=["image token beyond the vocabulary", "tokenizer larger than the model"])
def test_what_does_not_hold_is_told(bare, change, told):
    (bare/"config.json").write_text(json.dumps(change(json.loads((bare/"config.json").read_text()))))
    lines = []
    assert run_paper(str(bare), lines.append) == 1
    assert any(line.startswith(told) and "BROKEN" in line for line in lines) and "cannot be trained here" in lines[-1]


def test_parts_without_a_name_are_told_on_paper(bare, monkeypatch):
    monkeypatch.setattr("rl4vlm.models.MERGER_NAMES", ())
    found = {what: (holds, words) for what, holds, words in check_paper(str(bare))}
    assert found["parts"][0] is False and "connector" in found["parts"][1]


def test_a_name_that_nobody_knows():
    assert not only_on_paper("nobody/nothing")
    with pytest.raises(UsageError, match="sizes of model 'nobody/nothing' are not known"): shapes_of("nobody/nothing")


# --- a run with a server of vLLM

QWEN = "Qwen/Qwen2.5-VL-3B-Instruct"
ADAPTER = ["--lora.r", "16", "--optim.minibatch", "128", "--optim.microbatches", "16"]


@pytest.fixture()
def dry(capsys):
    "-> dry(options): what `rl4vlm ppo --dry-run --engine vllm` prints."
    def run(*options, model=QWEN, code=0):
        assert cli.main(["ppo", "--dry-run", "--model", model, "--engine", "vllm", *ADAPTER, *options]) == code
        out = capsys.readouterr()
        return out.out + out.err
    return run


def row_of(said, device):
    "The numbers of a device's first line: share, weights, room for cache, needed, answers at once, left."
    line = next(line for line in said.splitlines() if line.startswith(device))
    return [float(w) for w in line.removeprefix(device).split()]


def test_a_server_on_the_trainers_gpu(dry):
    said = dry("--engine.options.gpu_memory_utilization", "0.4")
    share, weights, room, needed, at_once, left = row_of(said, "H200")
    assert share == pytest.approx(0.4 * 141, abs=0.06) and left == pytest.approx(0.6 * 141, abs=0.06)
    assert room == pytest.approx(share - weights - 4, abs=0.11) and 7.5 < weights < 8 and at_once == 32
    assert needed == pytest.approx(32 * (198 + 64) * 36864 / 1e9, abs=0.06)
    assert "does not fit" not in said and "on the GPU of the first process" in said


def test_a_server_that_leaves_too_little_is_told_in_one_line(dry):
    said = dry()   # vLLM's own share
    told = [line for line in said.splitlines() if line.startswith("does not fit one H100")]
    assert len(told) == 1 and "gpu_memory_utilization" in told[0]
    most = told[0].split("gpu_memory_utilization ")[1].split(",")[0]
    assert "does not fit one H100" not in dry("--engine.options.gpu_memory_utilization", most)   # the advice holds
    assert "does not fit one H100" in dry("--engine.options.gpu_memory_utilization", str(float(most) + 0.02))


def test_a_server_that_would_not_start_is_told(dry):
    large = "Qwen/Qwen2.5-VL-32B-Instruct"
    far = ["--engine.urls", "http://node-1:8000"]
    assert "does not fit one H100 80 GB: the server's cache has room for" in dry(*far, model=large)
    assert "room for its longest sequence" not in dry(*far, "--engine.options.max_model_len", "4096", model=large)
    halved = dry(*far, "--engine.options.tensor_parallel_size", "2", model=large)
    assert row_of(halved, "H200")[1] == pytest.approx(row_of(dry(*far, model=large), "H200")[1] / 2, abs=0.06)
    assert "'1k'" in dry("--engine.options.max_model_len", "1k", code=2)


def test_servers_elsewhere_leave_the_trainer_its_gpu(dry):
    said = dry("--engine.urls", "http://node-1:8000", "http://node-2:8000")
    assert row_of(said, "H200")[-1] == 141 and row_of(said, "H200")[4] == 16   # half of 32 environments each
    assert "2 servers of vLLM on GPUs of their own" in said and "max(" not in said
    assert "on GPU 1" in dry("--engine.environment.CUDA_VISIBLE_DEVICES", "1")


def served_of(**engine):
    config = PPOConfig(model=QWEN, lora=dict(r=16), optim=dict(minibatch=128, microbatches=16),
                       engine=dict(kind="vllm", **engine))
    return estimate(config, make_task("NumberLine"), [(1, 0)])[0]["served"]["H200"]


def test_with_staleness_the_longer_of_playing_and_learning_counts(dry):
    urls = ["http://node-1:8000"]
    taking_turns, ahead = served_of(urls=urls), served_of(urls=urls, max_staleness=1)
    assert taking_turns["iteration"] - ahead["iteration"] == pytest.approx(min(ahead["rollout"], ahead["learning"]))
    assert "max(" in dry("--engine.urls", *urls, "--engine.max_staleness", "1")
    on_one = dry("--engine.options.gpu_memory_utilization", "0.4", "--engine.max_staleness", "1")
    assert "max(" not in on_one and "not counted as a gain" in on_one


def test_weights_are_handed_over_through_a_disk():
    urls = [f"http://node-{i}:8000" for i in range(4)]
    model = on_paper(QWEN, LoRAConfig(r=16))
    adapter = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)   # float32
    assert served_of(urls=urls)["handover"] == pytest.approx(adapter * 5 / 2e9)   # written once, read by four
    whole = estimate(PPOConfig(model=QWEN, engine=dict(urls=urls)), make_task("NumberLine"), [(1, 0)])[0]
    assert whole["served"]["H200"]["handover"] == pytest.approx(2 * 3.755e9 * 5 / 2e9, rel=1e-3)


def test_an_engine_of_this_process_is_estimated_as_before(capsys):
    assert cli.main(["ppo", "--dry-run", "--model", QWEN, *ADAPTER]) == 0
    said = capsys.readouterr().out
    assert "rollout + update + communication" in said and "vLLM" not in said

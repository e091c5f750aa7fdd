"""Every family of `rl4vlm.families` is held to every clause of the contract, and learns by PPO's loss.

The default run takes a family of each path; `--full` takes all.
"""
import pytest
import torch
from rl4vlm.contract import (
    CLAUSES,
    QUICK,
    Subject,
    check_contract,
    examine,
    family_outcome,
    family_outcomes,
    own_forward,
    rescored,
)
from rl4vlm.core import UsageError
from rl4vlm.families import FAMILIES, build_family, family_classes
from rl4vlm.models import check_parts, load_vlm, part_of
from rl4vlm.policy import FAST, VLMPolicy

QUICKLY = ("qwen3_vl", "gemma3", "smolvlm", "mllama")   # a fast one, and three that the fast path cannot read
families = pytest.mark.parametrize("family",
                                   [pytest.param(f, marks=[] if f in QUICKLY else pytest.mark.full) for f in FAMILIES])


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    top = tmp_path_factory.mktemp("contract")
    def made(family): return top/family if (top/family/"config.json").exists() else build_family(top/family, family)
    return made


@families
def test_all_clauses_hold(family, folder_of):
    verdicts = list(examine(folder_of(family)))
    assert [v.clause for v in verdicts] == list(CLAUSES)
    assert not [str(v) for v in verdicts if v.holds is False]
    plain = family not in FAST
    assert plain == any(v.clause == "features" and v.holds is None for v in verdicts)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in FAST])
def test_the_fast_path_agrees_with_the_plain_one(family, folder_of):
    subject = Subject(folder_of(family))
    policy = subject.load()
    policy.plain = True
    with torch.no_grad():
        fast = subject.policy.score(subject.prompts, subject.ids)
        plain = policy.score([policy.encode(*q) for q in subject.questions], subject.ids)
    assert (fast.logprobs - plain.logprobs).abs().max() < 1e-4 and (fast.mask == plain.mask).all()


def test_images_read_one_by_one_where_they_belong_together_break_a_clause(folder_of):
    "LLaVA-OneVision shows two images in another way than one: sampled and scored agree, and both are wrong."
    subject = Subject(folder_of("llava_onevision"))
    hurried = subject.load()
    hurried.alone = True
    wrong = Subject(subject.folder, hurried)
    assert rescored(wrong)[0] and own_forward(wrong)[1] > 0.1 and own_forward(subject)[0]


@families
def test_a_step_of_ppo_moves_weights(family, folder_of):
    from rl4vlm.losses import check_same_policy, ppo_loss
    policy = VLMPolicy.load(folder_of(family), device="cpu", dtype="float32", parts="all")
    policy.disable_dropout()
    subject = Subject(folder_of(family), policy)
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in policy.model.parameters() if p.requires_grad], lr=0.1)
    scores = policy.score(subject.prompts, subject.ids, 0.7)
    played = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(a.logprobs) for a in subject.answers], batch_first=True)
    gap, weights = check_same_policy(scores.logprobs, played, scores.mask, True), scores.mask.float()
    loss, stats = ppo_loss(scores.logprobs, played, weights, torch.tensor([1.0, -1.0, 0.5]))
    loss.backward()
    optimizer.step()
    assert gap < 1e-4 and stats["clip_fraction"] == 0
    moved = {part_of(n) for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"language", "merger", "vision"}


@pytest.fixture()
def unknown(monkeypatch):
    "As if no test knew a family."
    monkeypatch.setattr("rl4vlm.contract.FAST", set())
    monkeypatch.setattr("rl4vlm.contract.FAMILIES", ("smolvlm",))


def test_a_family_that_breaks_a_clause_is_refused_with_the_clause(folder_of, unknown):
    folder = folder_of("lfm2_vl")
    policy = VLMPolicy.load(folder, device="cpu", dtype="float32")
    check_contract(policy, "mine")
    policy.log_softmax = lambda hidden, temperature: VLMPolicy.log_softmax(policy, 1.1 * hidden, temperature)
    with pytest.raises(UsageError, match="'mine' .lfm2_vl. cannot be trained here.*contract: rescored"):
        check_contract(policy, "mine")


def test_in_a_coarse_precision_large_mistakes_are_refused_and_the_rest_is_said(folder_of, recwarn, unknown):
    for family, told in (("lfm2_vl", 1), ("smolvlm", 0)):   # no test holds the first one to the contract
        recwarn.clear()
        check_contract(VLMPolicy.load(folder_of(family), device="cpu", dtype="bfloat16"), "mine")
        assert [("lfm2_vl" in str(w.message), "doctor --model mine" in str(w.message)) for w in recwarn
                if "no test holds" in str(w.message)] == [(True, True)] * told
    policy = VLMPolicy.load(folder_of("lfm2_vl"), device="cpu", dtype="bfloat16")
    policy.log_softmax = lambda hidden, temperature: VLMPolicy.log_softmax(policy, 3 * hidden, temperature)
    with pytest.raises(UsageError, match="contract: "): check_contract(policy, "mine")


def test_parameters_of_no_known_part_are_refused(folder_of):
    model, _ = load_vlm(str(folder_of("smolvlm")), device="cpu")
    assert {part_of(n) for n, _ in model.named_parameters()} == {"language", "merger", "vision"}
    assert part_of("model.vision_model.encoder.layers.0.mlp.fc1.weight") == "vision"
    model.model.periscope = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="no known part, such as model.periscope.weight"): check_parts(model, "mine")


def test_a_limit_of_pixels_that_a_family_does_not_have_is_said(folder_of):
    with pytest.raises(UsageError, match="max_pixels=5000 cannot be honoured: Gemma3ImageProcessor has no such limit"):
        load_vlm(str(folder_of("gemma3")), device="cpu", max_pixels=5000)


def test_llava_next_as_it_lies_on_the_hub_and_as_servers_read_it(folder_of, tmp_path):
    ("Checkpoints from before transformers 5 name the tower's tensors `vision_tower.vision_model.…`; "
     "vLLM reads no other layout.")
    import shutil
    from safetensors.torch import load_file, save_file
    today, before = folder_of("llava_next"), tmp_path/"before"
    shutil.copytree(today, before)
    tensors = {n.replace("vision_tower.", "vision_tower.vision_model.", 1): x
               for n, x in load_file(today/"model.safetensors").items()}
    assert any(n.startswith("vision_tower.vision_model.") for n in tensors)
    save_file(tensors, before/"model.safetensors", metadata={"format": "pt"})
    (before/"model.safetensors.index.json").unlink(missing_ok=True)
    one, two = (load_vlm(str(f), device="cpu")[0].state_dict() for f in (today, before))
    assert all(torch.equal(one[n], two[n]) for n in one) and not [str(v) for v in examine(before) if v.holds is False]


def test_quick_clauses_are_clauses(): assert {*QUICK} <= {*CLAUSES}


SOME = ("qwen2_5_vl", "glm_ocr", "ovis2", "llava", "git", "t5gemma2", "got_ocr2", "llama4", "deepseek_ocr2",
        "minicpmv4_6")   # of each outcome some


@pytest.mark.parametrize("family",
                         [pytest.param(f, marks=[] if f in SOME else pytest.mark.full) for f in family_classes()])
def test_the_table_of_families_is_what_becomes_of_them(family):
    "Made again by `python scripts/families.py --write`."
    assert family_outcome(family) == family_outcomes()[family]


def test_each_class_has_an_outcome_and_each_refusal_a_reason():
    outcomes = family_outcomes()
    assert {*outcomes} == {*family_classes()} and {f for f, o in outcomes.items() if o["path"] == "fast"} == FAST
    for o in outcomes.values():
        assert (o["path"] == "refused") == bool(o["because"]) and o["path"] in ("fast", "plain", "refused")
        assert len(o["clauses"]) in (0, len(CLAUSES)) and len(o["because"].splitlines()) <= 1

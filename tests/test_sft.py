"What the loss counts, family by family; and that the order of rows changes nothing but the time."
import numpy as np
import pytest
import torch

def image(seed, size=56): return np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)


ROWS = [
    dict(messages=[dict(role="user", content=[dict(type="image"),
                                              dict(type="text", text="Which number is larger? Answer in JSON.")]),
                   dict(role="assistant", content='{"action": "+"}')], images=[image(0)]),
    dict(messages=[dict(role="user", content=[dict(type="text", text="Which number is larger?")]),
                   dict(role="assistant", content="the left one, of course")], images=[]),
    dict(messages=[dict(role="user", content=[dict(type="image"), dict(type="image"),
                                              dict(type="text", text="Same? " * 9)]),
                   dict(role="assistant", content="no")], images=[image(1), image(2, 84)]),
    dict(messages=[dict(role="user", content=[dict(type="image"), dict(type="text", text="First?")]),
                   dict(role="assistant", content="one"),
                   dict(role="user", content=[dict(type="text", text="Second?")]),
                   dict(role="assistant", content="two")], images=[image(3)]),
]


def families():
    from rl4vlm.tiny import FAMILIES
    return sorted(FAMILIES)


@pytest.fixture(scope="module", params=families())
def policy(request, tmp_path_factory):
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.tiny import build_tiny
    texts = [p if isinstance(p, str) else p.get("text", "") for r in ROWS for m in r["messages"]
             for p in ([m["content"]] if isinstance(m["content"], str) else m["content"])]
    return VLMPolicy.load(build_tiny(tmp_path_factory.mktemp(request.param), request.param, texts * 5), parts="all",
                          device="cpu")


def test_the_loss_is_on_the_answer_and_its_end_alone(policy):
    ("The tokens that count, decoded, are the answer; together with the prompt they are what the chat template writes "
     "for the whole conversation.")
    from rl4vlm.sft import Collator
    batch = Collator(policy)(ROWS)
    with torch.no_grad(): scores = policy(**batch)
    for row, prompt, response, mask, logprobs in zip(ROWS, batch["prompts"], batch["responses"], scores.mask,
                                                     scores.logprobs):
        assert mask.sum() == len(response) and (logprobs[~mask] == 0).all() and (logprobs[mask] < 0).all()
        assert policy.decode(response) == row["messages"][-1]["content"]
        assert response[-1] == policy.end_id and policy.end_id not in response[:-1]
        end = policy.tokenizer.decode([policy.end_id])
        # some templates want parts
        said = dict(role="assistant", content=[dict(type="text", text=row["messages"][-1]["content"])])
        whole = policy.processor.apply_chat_template([*row["messages"][:-1], said], tokenize=False)
        question = policy.processor.apply_chat_template(row["messages"][:-1], tokenize=False,
                                                        add_generation_prompt=True)
        assert whole.startswith(question)
        assert whole[len(question):].lstrip().replace(" " + end, end).startswith(row["messages"][-1]["content"] + end)


def test_grouping_changes_the_order_and_not_the_loss(policy):
    "Every row once; the loss summed over an epoch of a model that does not learn is the same."
    from rl4vlm.sft import Collator, GroupedSampler, row_costs
    rows = ROWS * 5
    costs, images = row_costs(rows, policy)
    assert images.tolist() == [True, False, True, True] * 5 and costs[2] > costs[1]
    def total(order):
        loss = 0.0
        for start in range(0, len(order), 4):
            with torch.no_grad():
                batch = Collator(policy)([rows[i] for i in order[start:start + 4]])
                loss -= policy(**batch).logprobs.double().sum().item()
        return loss
    grouped = list(GroupedSampler(costs, images, 4, seed=0))
    assert sorted(grouped) == list(range(len(rows))) != grouped
    assert len({images[i] for i in grouped[:4]}) == 1
    assert total(grouped) == pytest.approx(total(range(len(rows))), rel=1e-5)


def test_several_processes_take_their_share(policy):
    "The order is a function of seed and epoch, so that every process cuts the same batches."
    from rl4vlm.sft import GroupedSampler, row_costs
    one, two = (GroupedSampler(*row_costs(ROWS * 9, policy), 4, seed=5) for _ in range(2))
    torch.manual_seed(1); a = list(one); torch.manual_seed(2); b = list(two)
    assert a == b
    two.set_epoch(1); assert list(two) != a

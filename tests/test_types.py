"What flows from an environment to an update: a prompt is read once and by whom it is asked; names and checkpoints of version 0.1.0."
import importlib
import numpy as np, pytest
from rl4vlm.batch import make_batch
from rl4vlm.config import PPOConfig
from rl4vlm.labellers import Labelled
from rl4vlm.rollout import Plan, Player, PolicyActor, RandomActor
from rl4vlm.tasks import make_task
from rl4vlm.types import EncodedPrompt, Prompt, Response


class Reader:
    "Stands for a policy with a tokenizer of its own: it reads every prompt as the one token `word`."
    def __init__(self, word): self.word = word
    def encode(self, messages, images): return EncodedPrompt(np.array([self.word]), np.zeros((1, 1), int), images, ())


@pytest.fixture
def readers(monkeypatch):
    "Two actors, each of which answers with the ids that it read."
    monkeypatch.setattr("rl4vlm.generate.generate", lambda policy, prompts, *a, **k: [Response(str(policy.word), ids=p.ids) for p in prompts])
    return PolicyActor(Reader(1)), PolicyActor(Reader(2))


def test_each_policy_reads_a_prompt_itself(readers):
    "The tokens that another policy has left in it are those of another tokenizer."
    prompt = Prompt([], [])
    assert [a.act([prompt])[0].ids.tolist() for a in readers] == [[1], [2]] and prompt.tokens.ids.tolist() == [2]


def test_a_turn_keeps_the_tokens_of_the_response_that_it_keeps(readers):
    player, labeller = readers
    class Silent(RandomActor):
        def act(self, prompts): return [Response("nothing") for _ in prompts]
    for actor, ids in ((Labelled(player, labeller), [2]), (Labelled(labeller, player), [1]), (Labelled(player, Silent(None)), None)):
        prompt = Prompt([], [])
        actor.act([prompt])
        assert (prompt.tokens and prompt.tokens.ids.tolist()) == ids


def test_a_turn_is_encoded_once(blind_model, monkeypatch):
    "When it is played; advantages and update use what the policy has read then, held once however many turns show it."
    from rl4vlm.policy import VLMPolicy
    policy, read, encode = VLMPolicy.load(str(blind_model)), [], VLMPolicy.encode
    monkeypatch.setattr(VLMPolicy, "encode", lambda *a: read.append(encode(*a)) or read[-1])
    player = Player(make_task("NumberLine"), PolicyActor(policy, max_new_tokens=4), lambda i, k: Plan(k, (i, k)), envs=4)
    rows = player.rollout(3)
    segments, played = [list(s) for s in zip(*rows)], len(read)
    bootstraps = sum(t.next_value is not None for row in rows for t in row)
    assert played == 12 + bootstraps
    batch, _ = make_batch(policy, segments, PPOConfig(rollout=dict(envs=4, steps=3)))
    assert len(read) == played and all(any(p is r for r in read) for p in batch.prompts)
    same = {}
    for p in batch.prompts: assert same.setdefault(p.ids.tobytes(), p.ids) is p.ids
    assert len(same) < len(batch)
    player.close()


def test_a_checkpoint_of_version_0_1_0_goes_on():
    "It called the running episodes `seats`."
    task, plan = make_task("NumberLine"), lambda i, k: Plan(100 * i + k, (0, i, k))
    first, second = (Player(task, RandomActor(task), plan, envs=4) for _ in range(2))
    first.rollout(5)
    state = first.state()
    second.restore(dict(begun=state["begun"], seats=state["running"]))
    said = lambda rows: [[(t.text, t.reward, t.seed, t.index) for t in row] for row in rows]
    assert said(first.rollout(6)) == said(second.rollout(6))


@pytest.mark.parametrize("old, new", [
    ("tasks.Past", "types.PastTurn"), ("rollout.Answer", "types.Response"), ("config.ScoreConfig", "config.FilterConfig"), ("ppo.RunningDeviation", "ppo.RunningStd"),
    *((f"evaluate.{n}", f"panels.{n}") for n in ("PANELS", "panel_seeds", "file_name")),
    *((f"evaluate.{n}", f"statistics.{n}") for n in ("wilson", "bootstrap", "paired_difference")),
    *((f"core.{n}", f"files.{n}") for n in ("write_atomic", "write_json", "read_json", "replace_folder", "write_into", "recover_folder", "JsonLines", "scratch")),
    *((f"core.{n}", f"run_folder.{n}") for n in ("claim_run_folder", "lock_run_folder", "others_run", "RUN_FILES", "MAY_DIFFER")),
])
def test_old_names_are_told(old, new):
    (before, name), (after, called) = old.split("."), new.split(".")
    room = importlib.import_module(f"rl4vlm.{before}")
    with pytest.warns(FutureWarning, match=f"rl4vlm.{old} is rl4vlm.{new} now"): value = getattr(room, name)
    assert value is getattr(importlib.import_module(f"rl4vlm.{after}"), called)
    with pytest.raises(AttributeError, match=f"no attribute '{name}e'"): getattr(room, name + "e")

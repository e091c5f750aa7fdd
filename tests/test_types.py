("What flows from an environment to an update: a prompt is read once and by whom it is asked; "
 "names and checkpoints of version 0.1.0.")
import importlib
import warnings
from collections import Counter
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
import pytest
from rl4vlm.batch import make_batch
from rl4vlm.config import PPOConfig
from rl4vlm.envs.cards import NumberLine
from rl4vlm.evaluate import as_csv, as_markdown
from rl4vlm.files import read_json
from rl4vlm.filters import turn_scores
from rl4vlm.labellers import Labelled
from rl4vlm.parsing import parse_action, parse_tool_call
from rl4vlm.report import read_turns
from rl4vlm.rollout import Plan, Player, PolicyActor, RandomActor, play
from rl4vlm.runs import _causes_of_today, read_run, survey
from rl4vlm.store import EpisodeStore
from rl4vlm.tasks import Task, make_task
from rl4vlm.types import EncodedPrompt, Prompt, Response

class Reader:
    "Stands for a policy with a tokenizer of its own: it reads every prompt as the one token `word`."
    def __init__(self, word): self.word = word
    def encode(self, messages, images): return EncodedPrompt(np.array([self.word]), np.zeros((1, 1), int), images, ())


@pytest.fixture
def readers(monkeypatch):
    "Two actors, each of which answers with the ids that it read."
    monkeypatch.setattr("rl4vlm.generate.generate",
                        lambda policy, prompts, *a, **k: [Response(str(policy.word), ids=p.ids) for p in prompts])
    return PolicyActor(Reader(1)), PolicyActor(Reader(2))


def test_each_policy_reads_a_prompt_itself(readers):
    "The tokens that another policy has left in it are those of another tokenizer."
    prompt = Prompt([], [])
    assert [a.act([prompt])[0].ids.tolist() for a in readers] == [[1], [2]] and prompt.tokens.ids.tolist() == [2]


def test_a_turn_keeps_the_tokens_of_the_response_that_it_keeps(readers):
    player, labeller = readers
    class Silent(RandomActor):
        def act(self, prompts): return [Response("nothing") for _ in prompts]
    for actor, ids in ((Labelled(player, labeller), [2]), (Labelled(labeller, player), [1]),
                       (Labelled(player, Silent(None)), None)):
        prompt = Prompt([], [])
        actor.act([prompt])
        assert (prompt.tokens and prompt.tokens.ids.tolist()) == ids


def test_a_turn_is_encoded_once(blind_model, monkeypatch):
    "When it is played; advantages and update use what the policy has read then, held once however many turns show it."
    from rl4vlm.policy import VLMPolicy
    policy, read, encode = VLMPolicy.load(str(blind_model)), [], VLMPolicy.encode
    monkeypatch.setattr(VLMPolicy, "encode", lambda *a: read.append(encode(*a)) or read[-1])
    player = Player(make_task("NumberLine"), PolicyActor(policy, max_new_tokens=4), lambda i, k: Plan(k, (i, k)),
                    envs=4)
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
    ("tasks.Past", "types.PastTurn"), ("rollout.Answer", "types.Response"),
    ("config.ScoreConfig", "config.FilterConfig"), ("ppo.RunningDeviation", "ppo.RunningStd"),
    *((f"evaluate.{n}", f"panels.{n}") for n in ("PANELS", "panel_seeds", "file_name")),
    *((f"evaluate.{n}", f"statistics.{n}") for n in ("wilson", "bootstrap", "paired_difference")),
    *((f"core.{n}", f"files.{n}") for n in ("write_atomic", "write_json", "read_json",
                                            "replace_folder", "write_into", "recover_folder", "JsonLines", "scratch")),
    *((f"core.{n}", f"run_folder.{n}")
      for n in ("claim_run_folder", "lock_run_folder", "others_run", "RUN_FILES", "MAY_DIFFER")),
])
def test_old_names_are_told(old, new):
    (before, name), (after, called) = old.split("."), new.split(".")
    room = importlib.import_module(f"rl4vlm.{before}")
    with pytest.warns(FutureWarning, match=f"rl4vlm.{old} is rl4vlm.{new} now"): value = getattr(room, name)
    assert value is getattr(importlib.import_module(f"rl4vlm.{after}"), called)
    with pytest.raises(AttributeError, match=f"no attribute '{name}e'"): getattr(room, name + "e")


# ---- a cut answer was called truncated in version 0.1.0; nbs/recordings holds runs of that version ----

RECORDINGS = Path(__file__).resolve().parent.parent/"nbs"/"recordings"
CUT_ONCE = '{"action": "'


def test_stored_episodes_of_version_0_1_0_say_cut(tmp_path):
    "In every way in which they are read: as episodes, as rows to learn from, by the report."
    stored = pq.read_table(RECORDINGS/"number_line"/"episodes"/"ppo.parquet")
    expected = Counter(stored["cause"].to_pylist())
    assert expected["truncated"] and not expected["cut"]
    expected["cut"] = expected.pop("truncated")
    (tmp_path/"episodes").mkdir()
    pq.write_table(stored, tmp_path/"episodes"/"ppo.parquet")
    store = EpisodeStore(tmp_path/"episodes")
    assert Counter(t.cause for e in store.episodes() for t in e.turns) == expected
    assert (Counter(r["cause"] for r in store.read()) == Counter(s["cause"] for s in turn_scores(store.read()))
            == expected)
    run = read_run(tmp_path)
    assert Counter(t.cause for e in survey(run) for t in e.turns) == expected
    shown = Counter(t.get("cause") for e in read_turns(survey(run)) for t in e["turns"])
    assert shown == expected


def test_results_of_version_0_1_0_say_cut():
    "In the report, with the rows of kinds, and in the tables that are written."
    stored = read_json(RECORDINGS/"quickstart_0"/"results.json")["rows"]
    assert stored[3]["causes"] == {"truncated": 1}
    rows = read_run(RECORDINGS/"quickstart_0").results["rows"]
    assert [r["causes"] for r in rows] == [*(r["causes"] for r in stored[:3]), {"cut": 1}]
    kinds = _causes_of_today(dict(name="all",
                                  kinds=dict(red=dict(name="red", causes={"truncated": 2, "empty": 1}))))["kinds"]
    assert kinds["red"]["causes"] == {"cut": 2, "empty": 1}
    assert "(cut 1)" in as_markdown(stored) and "truncated" not in as_markdown(stored)
    assert "cause_cut" in as_csv(stored) and "cause_truncated" not in as_csv(stored)


def test_turns_of_a_checkpoint_of_version_0_1_0_say_cut():
    "A player goes back to episodes that were begun, whose turns were saved as flat values."
    task = make_task("NumberLine")
    player = Player(task, RandomActor(task), lambda env, number: Plan(7, (0, 0)), 1)
    turns = [dict(text=CUT_ONCE, cause="truncated", played="+", seed=7, episode="0.0")]
    player.restore(dict(begun=[1], running={"0": dict(seed=7, key=[0, 0], group="", turns=turns)}))
    assert [t.cause for t in player.running[0].turns] == ["cut"]


@pytest.mark.parametrize("parse", [
    lambda self, text, actions, truncated=False: parse_action(text, actions, cut=truncated),
    lambda self, text, actions, truncated=False: Task.parse(self, text, actions, truncated=truncated),
    lambda self, text, actions, *, truncated: parse_action(text, actions, truncated=truncated)],
                         ids=["action", "Task", "keyword"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_parse_of_version_0_1_0_is_told_of_a_cut(parse):
    "A stranger's task, whose `parse` takes `truncated`, plays on."
    with pytest.warns(FutureWarning, match="task Older: parse's truncated is called cut now"):
        Older = type("Older", (NumberLine,), dict(parse=parse))

    class Cut(RandomActor):
        def act(self, prompts): return [Response(CUT_ONCE, cut=True) for _ in prompts]
    [episode] = play(Older(), Cut(Older()), seeds=[0])
    assert {t.cause for t in episode.turns} == {"cut"}
    [whole] = play(Older(), RandomActor(Older()), seeds=[0])
    assert {t.cause for t in whole.turns} == {None}


def test_a_parse_of_today_is_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        type("Newer", (NumberLine,),
             dict(parse=lambda self, text, actions, cut=False: parse_action(text, actions, cut=cut)))


@pytest.mark.parametrize("call", [lambda **o: parse_action(CUT_ONCE, ["+"], **o),
                                  lambda **o: parse_tool_call('{"name": "pick', "pick", "index", ["1"], **o),
                                  lambda **o: make_task("NumberLine").parse(CUT_ONCE, ["+"], **o)],
                         ids=["parse_action", "parse_tool_call", "Task.parse"])
def test_parsing_takes_the_old_name_with_a_note(call):
    with pytest.warns(FutureWarning, match="truncated= is cut= now"): assert call(truncated=True).cause == "cut"
    assert call(cut=True).cause == "cut" and call().cause != "cut"

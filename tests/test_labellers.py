"Labelling by a model behind a server: what goes wrong there, what it may cost, and that no answer is asked for twice."
import json
import signal
import subprocess
import sys
import time
import pytest
from misbehaving import Misbehaving

SECRET = "sk-this-is-my-secret-key"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    from rl4vlm.labellers import ServerActor
    monkeypatch.setattr(ServerActor, "backoff", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def ask(server, **options):
    "The answers to one question each of four seeds, and the actor."
    from rl4vlm.config import AskConfig
    from rl4vlm.labellers import ServerActor
    from rl4vlm.rollout import play
    from rl4vlm.tasks import make_task
    actor = ServerActor("m", server.url, AskConfig(**dict(dict(retries=3, timeout=0.6), **options)))
    return [e.turns[0] for e in play(make_task("NumberLine", max_turns=1), actor, range(4), envs=4)], actor


@pytest.mark.parametrize("mood", ["429", "500", "503", "hang", "drip", "truncated", "garbage", "no choices"])
def test_what_may_pass_is_asked_again(mood):
    with Misbehaving([mood, mood, "fine"]) as server:
        turns, actor = ask(server)
        assert [t.action for t in turns] == ["+"] * 4 and len(server.requests) == 6 == actor.used["requests"]


@pytest.mark.parametrize("mood, says", [("500", "status 500"), ("hang", "no whole reply in 0.6 s"),
                                        ("drip", "no whole reply in 0.6 s"), ("truncated", "no connection"),
                                        ("garbage", "not in the protocol"), ("no choices", "not in the protocol")])
def test_patience_ends(mood, says):
    from rl4vlm.core import RL4VLMError
    with Misbehaving([mood]) as server, pytest.raises(RL4VLMError, match="no usable reply in 2 tries") as error:
        ask(server, retries=1, concurrency=1)
    assert says in str(error.value) and len(server.requests) == 2 and SECRET not in str(error.value)


@pytest.mark.parametrize("status", ["400", "401", "404"])
def test_what_will_not_pass_is_not_asked_again(status):
    from rl4vlm.core import RL4VLMError
    with (Misbehaving([status]) as server,
          pytest.raises(RL4VLMError, match=f"refuses the request for model m, status {status}") as error):
        ask(server, concurrency=1)
    assert len(server.requests) == (4 if status == "400" else 1)
    assert SECRET not in str(error.value) and "***" in str(error.value)


def test_no_server():
    from rl4vlm.core import RL4VLMError
    with Misbehaving(["fine"]) as server: pass
    with pytest.raises(RL4VLMError, match="no connection"): ask(server, retries=1)


def test_retry_after_is_respected():
    with Misbehaving(["429", "fine"]) as server:
        start = time.monotonic(); ask(server)
        assert time.monotonic() - start >= 0.3


def test_concurrency_is_limited_and_used():
    with Misbehaving(["pause"]) as server: ask(server, concurrency=2); assert server.most_at_once == 2


def test_cut_and_empty_answers_are_answers():
    with Misbehaving(["cut"], text='{"target": 3, "thoughts": "I think') as server:
        assert {t.cause for t in ask(server)[0]} == {"cut"}
    with Misbehaving(["null"]) as server: assert all(t.text == "" and t.cause for t in ask(server)[0])


def test_answers_on_their_way_are_kept_when_another_fails(tmp_path):
    "A budget of three requests: three answers are filed although the fourth is refused."
    from rl4vlm.config import AskConfig
    from rl4vlm.labellers import AnswerLog, BudgetError, make_actor
    from rl4vlm.rollout import play
    from rl4vlm.tasks import make_task
    with Misbehaving(["pause"]) as server:
        task, log = make_task("NumberLine", max_turns=1), AnswerLog(tmp_path/"answers.jsonl")
        with pytest.raises(BudgetError, match="budget of 3 requests"):
            play(task, make_actor(f"openai:m@{server.url}", task, ask=AskConfig(max_requests=3), log=log), range(8),
                 envs=8)
        assert len(AnswerLog(log.file.path).answers) == 3 == len(server.requests)
        again = AnswerLog(log.file.path)
        assert again.spent == dict(requests=3, tokens=300)
        play(task, make_actor(f"openai:m@{server.url}", task, ask=AskConfig(max_requests=30), log=again), range(8),
             envs=8)
        questions = [json.dumps(r) for r in server.requests]
        assert len(questions) == len(set(questions))


COLLECT = ["collect", "--episodes", 12, "--shard_episodes", 4, "--rollout.envs", 4, "--seed", 3,
           "--task_options.max_turns", 3, "--ask.concurrency", 2]


def data(folder):
    from rl4vlm.store import EpisodeStore
    return EpisodeStore(folder/"data"/"episodes").read().to_list()


def test_killed_and_resumed_equals_uninterrupted(rl4vlm, tmp_path):
    "Killed twice, without warning, in the middle of a shard."
    with Misbehaving(["pause"]) as server:
        actor = ["--actor", f"openai:m@{server.url}", "--ask.temperature", 0.7]   # each question has a seed of its own
        rl4vlm(*COLLECT, *actor, "--out", "whole")
        first, server.requests = len(server.requests), []
        command = [sys.executable, "-m", "rl4vlm.cli", *map(str, [*COLLECT, *actor, "--out", "cut"])]
        for kept in (5, 20):
            process = subprocess.Popen([*command, *(["--resume"] if kept > 5 else [])], cwd=tmp_path,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            answers, deadline = tmp_path/"cut/data/answers.jsonl", time.time() + 60
            while time.time() < deadline and not (answers.exists() and answers.read_text().count("\n") >= kept):
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL); process.wait()
        assert not list((tmp_path/"cut/data/episodes").glob("*00002.parquet"))
        rl4vlm(*COLLECT, *actor, "--out", "cut", "--resume")
        assert data(tmp_path/"cut") == data(tmp_path/"whole")
        assert ((tmp_path/"cut/data/episodes/README.md").read_text()
                == (tmp_path/"whole/data/episodes/README.md").read_text())
        assert first <= len(server.requests) <= first + 2 * 2   # at most the two that were on their way, each time


def test_a_resume_may_change_the_budget_but_not_the_model(rl4vlm, tmp_path):
    with Misbehaving(["fine"]) as server:
        actor = ["--actor", f"openai:m@{server.url}", "--out", "run"]
        assert "budget of 2 requests" in rl4vlm(*COLLECT, *actor, "--ask.max_requests", 2, code=1).stderr
        assert "actor was" in rl4vlm(*COLLECT, "--actor", f"openai:other@{server.url}", "--out", "run",
                                     "--resume", code=2).stderr
        rl4vlm(*COLLECT, *actor, "--ask.max_requests", 100, "--resume")


def test_the_key_is_written_nowhere(rl4vlm, tmp_path):
    with Misbehaving(["401"]) as server:
        done = rl4vlm(*COLLECT, "--actor", f"openai:m@{server.url}", "--out", "run", code=1)
        assert server.keys[0] == f"Bearer {SECRET}" and SECRET not in done.stdout + done.stderr
        server.moods = ["500", "fine"]
        done = rl4vlm(*COLLECT, "--actor", f"openai:m@{server.url}", "--out", "run", "--resume")
        assert SECRET not in done.stdout + done.stderr
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 5 and not [p for p in files if SECRET.encode() in p.read_bytes()]


def test_a_damaged_shard_is_made_again(rl4vlm, tmp_path):
    rl4vlm(*COLLECT, "--out", "run")
    shards = sorted((tmp_path/"run/data/episodes").glob("*.parquet"))
    before = [p.read_bytes() for p in shards]
    shards[1].write_bytes(before[1][:-50])
    (tmp_path/"run/data/episodes/00002.tmp").write_bytes(b"half")
    assert "00001.parquet cannot be read" in rl4vlm("preprocess", "--data", "run/data/episodes", "--out", "run",
                                                    code=2).stderr
    rl4vlm(*COLLECT, "--out", "run", "--resume")
    assert [p.read_bytes() for p in shards] == before


def test_a_policy_visits_and_the_oracle_labels(rl4vlm, tmp_path, blind_model):
    rl4vlm(*COLLECT, "--actor", f"local:{blind_model}", "--ask.max_new_tokens", 8, "--ask.temperature", 1,
           "--label", "oracle", "--error_rate", 0, "--out", "run")
    rows = data(tmp_path/"run")
    assert all(r["action"] == r["suggestion"] and r["cause"] is None and r["acted"] for r in rows)
    assert "labelled by oracle" in (tmp_path/"run/data/episodes/README.md").read_text()


def test_a_judge_is_asked_once(tmp_path, monkeypatch):
    from rl4vlm.collect import collect
    from rl4vlm.config import CollectConfig, FilterConfig, PreprocessConfig
    from rl4vlm.preprocess import preprocess
    folder = collect(CollectConfig(episodes=10, out=str(tmp_path/"run")))
    with Misbehaving(["fine"], text='{"reason": "so so", "score": 5}') as server:
        score = dict(judge=f"openai:judge@{server.url}", distinct=True)
        kept = preprocess(PreprocessConfig(data=str(folder), out=str(tmp_path/"a"), validation_share=0,
                                           filter=FilterConfig(**score, min_judge=5)))
        asked = len(server.requests)
        assert kept["train"] == asked
        with pytest.raises(Exception, match="low opinion of the judge"):
            preprocess(PreprocessConfig(data=str(folder), out=str(tmp_path/"a"), filter=FilterConfig(**score)))
        assert len(server.requests) == asked


@pytest.mark.slow
def test_a_model_behind_a_server_plays_a_panel(rl4vlm, tmp_path):
    "With intervals, a budget and --resume, sampled and greedy, beside others in one table."
    with Misbehaving(["fine"]) as server:
        how = ["eval", "--model", f"openai:big@{server.url}", "--panel", "val-50", "--task_options.max_turns", 1,
               "--sampling.max_new_tokens", 30, "--out", "panel"]
        spent = rl4vlm(*how, "--ask.max_requests", 20, code=1, OPENAI_API_KEY=SECRET)
        assert "the budget of 20 requests is spent" in spent.stderr and "--resume" in spent.stderr, spent.stderr
        assert len(server.requests) == 20, spent.stderr
        done = rl4vlm(*how, "--ask.max_requests", 1000, "--resume", OPENAI_API_KEY=SECRET)
        bodies = [json.loads(r) if isinstance(r, (bytes, str)) else r for r in server.requests]
        assert len(bodies) <= 100 + 8   # 50 episodes sampled, 50 greedy; some were under way when the budget ended
        assert {b["temperature"] for b in bodies} == {0.0, 1.0} and {b["max_tokens"] for b in bodies} == {30}
        rows = {r["name"]: r for r in json.loads((tmp_path/"panel"/"results.json").read_text())["rows"]}
        assert set(rows) == {"random", "oracle", "model"}
        assert rows["model"]["low"] <= rows["model"]["success"] <= rows["model"]["high"]
        assert "greedy_success" in rows["model"]
        before = len(server.requests)
        rl4vlm(*how, "--ask.max_requests", 1000, "--resume", OPENAI_API_KEY=SECRET)
        assert len(server.requests) == before and "model" in done.stdout
        assert SECRET not in "".join(p.read_text(errors="replace")
                                     for p in (tmp_path/"panel").rglob("*") if p.is_file())


def test_what_a_server_cannot_be_asked_is_refused(rl4vlm, tmp_path):
    done = rl4vlm("eval", "--model", "openai:big", "--out", "x", code=2)
    assert "give openai:MODEL@URL" in done.stderr and not (tmp_path/"x").exists()
    done = rl4vlm("eval", "--model", "openai:big@http://127.0.0.1:9/v1", "--sampling.top_k", 5, "--baselines", "false",
                  "--out", "y", code=2)
    assert "are not known to every server" in done.stderr

"Servers with odd manners: what they say is understood, and one question that is refused does not end a run."
import json
import re
import odd_server as odd
import pytest
from odd_server import Server, body

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    from rl4vlm.labellers import ServerActor
    monkeypatch.setattr(ServerActor, "backoff", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-odd")


def ask(server, n=1, log=None, **options):
    "The answers to `n` questions, and who was asked."
    from rl4vlm.config import AskConfig
    from rl4vlm.labellers import Remembering, ServerActor
    from rl4vlm.types import Prompt
    actor = ServerActor("m", server.url, AskConfig(**dict(dict(retries=3, timeout=30, concurrency=1), **options)),
                        log.spent if log else None)
    questions = [Prompt([dict(role="user", content=f"Question {i}?")], [], i) for i in range(n)]
    return [a.text for a in (Remembering(actor, log, "m", False) if log else actor).act(questions)], actor


PARTS = [dict(type="reasoning", text=None), dict(type="text", text='{"action": '), dict(type="text", text='"+"}')]


@pytest.mark.parametrize("reply, text", [
    (body(PARTS), '{"action": "+"}'), (body([]), ""), (body(None), ""), (body(None, refusal="I cannot."), "I cannot."),
    (body(None, finish="content_filter"), ""), (body("half \ud83d"), "half \ufffd"),
    (body("a\u2028b"), "a\u2028b"), (dict(body("one"), choices=body("one")["choices"] + body("two")["choices"]), "one"),
    (dict(body("ok"), surprise="x" * 10_000), "ok")])
def test_what_a_reply_says(reply, text):
    with Server(reply) as server: assert ask(server)[0] == [text] and len(server.requests) == 1


@pytest.mark.parametrize("usage, tokens", [
    (None, 0), ({}, 0), (dict(prompt_tokens=5, completion_tokens=7), 12),
    (dict(prompt_tokens=5, completion_tokens=None), 5),
    (dict(total_tokens=None, prompt_tokens=3, completion_tokens=4), 7),
    (dict(total_tokens="many"), 0), (dict(total_tokens=-3), 0), (dict(total_tokens=1e300), 0),
    (dict(total_tokens=9.0), 9)])
def test_what_a_reply_cost(usage, tokens):
    with Server(body(usage=usage)) as server:
        answers, actor = ask(server)
        assert answers == [odd.GOOD] and actor.used["tokens"] == tokens and len(server.requests) == 1


def test_a_budget_of_tokens_holds_where_the_server_does_not_count():
    from rl4vlm.labellers import BudgetError
    with Server(body("x" * 400, usage=None)) as server, pytest.raises(BudgetError): ask(server, 50, max_tokens=300)
    assert len(server.requests) == 3


@pytest.mark.parametrize("mood, least", [(odd.later(2, date=True), 0.9), (odd.later(400, key="retry-after-ms"), 0.4),
                                         (odd.later(0.4), 0.4), (odd.later(-50, date=True), 0), (odd.later("soon"), 0),
                                         (odd.later("nan"), 0), (odd.later("-3"), 0)])
def test_how_long_to_wait(mood, least):
    with Server(mood, body()) as server:
        ask(server)
        assert least <= server.times[1] - server.times[0] < 25      # what is misread would be a minute


@pytest.mark.parametrize("mood", [odd.html, odd.drop, odd.reset, dict(body(), choices=[]), dict(body(), choices=None),
                                  dict(error=dict(message="busy")), body(dict(a=1)), body(3), b"", b"null", b"[1]",
                                  b"[" * 100_000, b'{"choices": ' + b"9" * 5000 + b"}", b"\xff\xfe", odd.status(529),
                                  odd.status(408)])
def test_what_may_pass_is_asked_again(mood):
    from rl4vlm.core import RL4VLMError
    # nothing more comes, and the connection stays open: only the time-out ends it
    silent = mood in (odd.drop, odd.reset)
    with Server(mood, body()) as server:
        assert ask(server, timeout=3 if silent else 30)[0] == [odd.GOOD] and len(server.requests) == 2
    with Server(mood) as server, pytest.raises(RL4VLMError, match="no usable reply in 2 tries") as error:
        ask(server, retries=1, timeout=1 if silent else 30)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("code", [400, 413, 422])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_question_is_refused(code, place, tmp_path):
    "Kept as a refusal and counted; the others are answered, and a second run asks nothing."
    from rl4vlm.labellers import AnswerLog
    moods = [odd.status(code, "filtered") if i == place else body() for i in range(5)]
    with Server(*moods) as server:
        with pytest.warns(UserWarning, match="refused 1 of 5 questions"):
            answers, actor = ask(server, 5, AnswerLog(tmp_path/"a.jsonl"))
        assert answers == ["" if i == place else odd.GOOD for i in range(5)] and len(server.requests) == 5
        log = AnswerLog(tmp_path/"a.jsonl")
        assert log.refused == 1
        assert log.spent["requests"] == 5 and ask(server, 5, log)[0] == answers and len(server.requests) == 5
        assert "filtered" in json.loads((tmp_path/"a.jsonl").read_text().split("\n")[place])["refused"]


def test_a_server_that_refuses_everything_is_a_fault_of_the_command(tmp_path):
    from rl4vlm.core import RL4VLMError
    from rl4vlm.labellers import AnswerLog
    with Server(odd.status(400, "no such parameter"), *[odd.status(400)] * 3, body()) as server:
        with pytest.raises(RL4VLMError, match="refuses the request for model m, status 400"):
            ask(server, 4, AnswerLog(tmp_path/"a.jsonl"))
        assert ask(server, 4, AnswerLog(tmp_path/"a.jsonl"))[0] == [odd.GOOD] * 4     # nothing of it is remembered


def test_a_log_that_somebody_else_wrote_in(tmp_path):
    ("Every paid answer that can be read is kept: also one with a line separator, one after a damaged line, "
     "and the last one without its newline.")
    from rl4vlm.labellers import AnswerLog
    log = AnswerLog(tmp_path/"a.jsonl")
    from rl4vlm.types import Response
    for i in range(10): log.keep(f"k{i}", Response(f"a\u2028b {i} \ud83d"), 1, 10)
    lines = log.file.path.read_bytes().split(b"\n")
    log.file.path.write_bytes(
        b"\n".join([*lines[:3], b'{"key": "x"}', b"[" * 50_000, b"\xff",
                    b'{"key": 3, "text": null, "cut": 0, "record": 1, "requests": "x", "tokens": 1}', *lines[3:10]]))
    again = AnswerLog(log.file.path)
    assert len(again.answers) == 10
    assert again.spent == dict(requests=10, tokens=100) and again.answers["k9"].text == "a\u2028b 9 \ufffd"
    again.keep("k10", Response("new")); assert len(AnswerLog(log.file.path).answers) == 11


def test_a_question_may_hold_anything():
    from rl4vlm.labellers import request_messages
    [message] = request_messages([dict(role="user", content=[dict(type="text", text="half \ud83d")])], [])
    assert message["content"][0]["text"] == "half \ufffd"


def test_a_collection_goes_on(tmp_path):
    ("Answers as parts without totals, one refusal in between: the run ends well, the store can be read, "
     "and the card counts what had no action.")
    from rl4vlm.collect import collect
    from rl4vlm.config import AskConfig, CollectConfig
    from rl4vlm.store import EpisodeStore
    good = body([dict(type="text", text='{"action": "+", "thoughts": "half \\ud83d"}')], usage=None)
    with Server(good, odd.status(400), good) as server, pytest.warns(UserWarning, match="refused 1 of"):
        folder = collect(CollectConfig(actor=f"openai:m@{server.url}", episodes=4, rollout=dict(envs=2),
                                       out=str(tmp_path/"run"), task_options=dict(max_turns=2),
                                       ask=AskConfig(concurrency=1)))
    rows = EpisodeStore(folder).read()
    assert sum(t == "" for t in rows["text"]) == 1 and len(set(rows["episode"])) == 4
    assert re.search("answers without an action, by cause", (folder/"README.md").read_text())

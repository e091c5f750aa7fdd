"Data from elsewhere: imported, trained on, refused."
import json
import os
import numpy as np
import pytest
from PIL import Image

@pytest.fixture
def published(tmp_path):
    "A file as the published RL4VLM data has it: LLaVA JSON with one image and one answer a row, made by hand."
    folder = tmp_path/"numberline"; (folder/"images").mkdir(parents=True)
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.tasks import make_task
    task, rows = make_task("NumberLine"), []
    for i, turn in enumerate(t for e in play(task, OracleActor(task), range(12)) for t in e.turns):
        Image.fromarray(turn.images[0]).save(folder/"images"/f"{i}.png")
        question = "\n".join(p["text"] for p in turn.messages[0]["content"] if p["type"] == "text")
        rows.append({"id": f"numberline_{i}", "image": f"images/{i}.png",
                     "conversations": [{"from": "human", "value": "<image>\n" + question},
                                       {"from": "gpt", "value": turn.text}]})
    (folder/"data.json").write_text(json.dumps(rows))
    return folder/"data.json"


def edit(path, **changes):
    rows = json.loads(path.read_text())
    for number, change in changes.items(): rows[int(number[1:])].update(change)
    path.write_text(json.dumps(rows))
    return path


def test_a_published_file_is_imported_and_trained_on(rl4vlm, published, tmp_path, blind_model):
    rl4vlm("sft", "--data", published, "--model", blind_model, "--steps", 3, "--optim.batch_size", 4,
           "--rows.group", "length", "--run.best", "loss", "--run.eval_every", 2, "--out", "direct")
    assert "val_loss" in (tmp_path/"direct/sft/README.md").read_text()
    rl4vlm("preprocess", "--data", published, "--out", "imported", "--validation_share", 0.3, "--export", "messages")
    counts = json.loads((tmp_path/"imported/data/counts.json").read_text())
    assert counts["train"] + counts["validation"] == len(json.loads(published.read_text()))
    rl4vlm("sft", "--data", "imported/data", "--model", blind_model, "--steps", 2, "--run.best", "loss", "--out", "two")
    rl4vlm("sft", "--data", "imported/data/messages/train.json", "--model", blind_model, "--steps", 2, "--out", "three")
    def last(file): return json.loads(file.read_text().splitlines()[-1]) if file.exists() and file.read_text() else None
    a, b = (last(tmp_path/name/"sft/metrics.jsonl") for name in ("two", "three"))
    from rl4vlm.policy import VLMPolicy
    VLMPolicy.load(tmp_path/"three/sft", heads="required")


def test_bad_rows_are_skipped_counted_and_listed(rl4vlm, published, tmp_path, blind_model):
    os.symlink("/etc/hostname", published.parent/"images"/"link.png")
    (published.parent/"images"/"0.png").write_bytes((published.parent/"images"/"0.png").read_bytes()[:100])
    edit(published, r1=dict(image="../outside.png"), r2=dict(image="http://example.org/1.png"),
         r3=dict(image="images/link.png"), r4=dict(image=["images/4.png", "images/5.png"]), r5=dict(conversations=[]))
    done = rl4vlm("preprocess", "--data", published, "--out", "run", code=2)
    assert done.stderr.startswith("error: row 0 of data.json: image 'images/0.png' cannot be decoded")
    assert "--rows.on_bad_row skip" in done.stderr and not (tmp_path/"run").exists()
    out = rl4vlm("preprocess", "--data", published, "--out", "run", "--rows.on_bad_row", "skip").stdout
    counts = json.loads((tmp_path/"run/data/counts.json").read_text())
    assert counts["dropped"] == {"corrupt image": 1, "image outside": 2, "remote image": 1, "image count": 1,
                                 "empty conversation": 1}
    assert [bad["row"] for bad in counts["bad_rows"]] == [0, 1, 2, 3, 4, 5]
    assert "row 2: image 'http://example.org/1.png' is an address" in out
    out = rl4vlm("sft", "--data", published, "--rows.on_bad_row", "skip", "--model", blind_model, "--steps", 1,
                 "--out", "sft").stdout
    assert "row 5 left out" in out


def test_nothing_is_fetched(published, monkeypatch):
    "With a network that would answer: no connection is even tried."
    import socket
    from rl4vlm.conversations import JsonConversations
    def refuse(*args, **kwargs): raise AssertionError("somebody went to the network")
    monkeypatch.setattr(socket, "create_connection", refuse); monkeypatch.setattr(socket.socket, "connect", refuse)
    for address in ("http://example.org/1.png", "https://example.org/1.png", "file:///etc/passwd", "ftp://a/b.png",
                    "//example.org/x.png", "\\\\server\\x.png", "s3://bucket/x.png", "data:image/png;base64,AAAA"):
        data = JsonConversations(edit(published, r0=dict(image=address)), on_bad_row="skip")
        assert [bad["kind"] for bad in data.bad] == ["remote image"], address


def test_a_parquet_file_may_not_name_files(tmp_path):
    "A row whose image is a path or an address is refused when the file is opened; `datasets` alone would open it."
    from datasets import Dataset, Features, Image as ImageColumn, List, Value
    from rl4vlm.core import UsageError
    from rl4vlm.preprocess import Conversations
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path/"secret.png")
    features = Features(messages=Value("string"), images=List(ImageColumn()), text=Value("string"),
                        episode=Value("string"), task=Value("string"))
    for path in (str(tmp_path/"secret.png"), "https://example.org/cat.png"):
        table = Dataset.from_dict(dict(messages=['[{"role": "user", "content": [{"type": "image"}]}]'],
                                       images=[[dict(bytes=None, path=path)]], text=["a"], episode=["e"], task=[""]),
                                  features=features)
        import pyarrow.parquet as pq
        pq.write_table(table.data.table, tmp_path/"train.parquet")
        with pytest.raises(UsageError, match="only images inside the file are read"):
            Conversations(tmp_path/"train.parquet")


@pytest.mark.parametrize("content, says", [("PAR1 and no more", "was it cut off"), (None, "no column")])
def test_damaged_parquet_is_named(rl4vlm, tmp_path, content, says, blind_model):
    import pyarrow as pa
    import pyarrow.parquet as pq
    (tmp_path/"d").mkdir()
    if content: (tmp_path/"d/train.parquet").write_text(content)
    else: pq.write_table(pa.table(dict(question=["a"])), tmp_path/"d/train.parquet")
    assert says in rl4vlm("sft", "--data", "d", "--model", blind_model, "--out", "run", code=2).stderr
    assert not (tmp_path/"run").exists()


def test_data_for_another_task_is_said_before_training(rl4vlm, tmp_path, blind_model):
    rl4vlm("collect", "--task", "Blackjack", "--episodes", 5, "--out", "cards")
    rl4vlm("preprocess", "--data", "cards/data/episodes", "--out", "cards")
    arguments = ["sft", "--data", "cards/data", "--model", blind_model, "--steps", 1, "--out", "run"]
    assert "state no action of task NumberLine (-, +)" in rl4vlm(*arguments, code=2).stderr
    rl4vlm(*arguments, "--rows.check_actions", "false", "--overwrite")


def test_an_empty_validation_split_is_said_before_training(rl4vlm, tmp_path, blind_model):
    rl4vlm("collect", "--episodes", 3, "--out", "run")
    said = rl4vlm("preprocess", "--data", "run/data/episodes", "--out", "run", "--validation_share", 0.001).stdout
    assert "no validation rows: none of 3 episodes" in said
    done = rl4vlm("sft", "--data", "run/data", "--model", blind_model, "--run.best", "loss", "--out", "b", code=2)
    assert "best=loss needs validation rows" in done.stderr


def test_best_by_success(rl4vlm, tmp_path, blind_model):
    rl4vlm("collect", "--episodes", 5, "--out", "run")
    rl4vlm("preprocess", "--data", "run/data/episodes", "--out", "run")
    rl4vlm("sft", "--data", "run/data", "--model", blind_model, "--run.best", "success", "--steps", 2,
           "--run.eval_every", 1, "--run.max_new_tokens", 4, "--out", "b")
    rows = [json.loads(line) for line in (tmp_path/"b/sft/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "val_success" in r] == [1, 2]
    assert "val_success" in (tmp_path/"b/sft/README.md").read_text()


def test_the_card_the_report_and_the_evaluation_count_the_same(tmp_path):
    ("Episodes with a failed parse, an answer without the oracle's action, "
     "a group that was cut off and one without success.")
    from rl4vlm.evaluate import summarise
    from rl4vlm.run_folder import RunFolder
    from rl4vlm.runs import measured, read_run, survey, tally
    from rl4vlm.store import EpisodeStore, statistics
    from rl4vlm.types import Episode, turn_of
    asked = [dict(role="user", content=[dict(type="text", text="Which?")])]
    answers = [("+", None, "+", 1.0), ("-", None, "+", -1.0), (None, "no_json", None, 0.0), ("+", None, None, 0.5)]
    def episode(n):
        return Episode("NumberLine", n,
                       [turn_of(asked, [], f"answer {a}", action=a, cause=c, suggestion=s, reward=r, episode=f"e{n}",
                                index=i, seed=n, terminated=i == 3) for i, (a, c, s, r) in enumerate(answers[n % 2:])],
                       success=n % 3 == 0, actor="somebody")
    store = EpisodeStore(RunFolder(tmp_path/"run").episodes)
    store.write([episode(n) for n in range(5)])
    store.write([episode(n) for n in range(5, 7)])
    card, row = statistics(store.each_episode()), summarise(store.episodes(), "somebody", agreement=True)
    played = survey(read_run(tmp_path/"run"))
    page, counts = measured(played), tally(played)
    assert page == {k: row[k] for k in page}
    assert {"success", "low", "return_high", "failed_parses", "causes"} <= page.keys()
    assert {k: card[k] for k in ("episodes", "success", "mean_return", "agreement", "causes")} == {
        k: row[k] for k in ("episodes", "success", "mean_return", "agreement", "causes")}
    assert card["turns"] == counts["turns"] == 25 and card["actions"] == counts["actions"] == {"+": 11, "-": 7}
    assert (counts["asked"], counts["agreed"], row["agreement"]) == (11, 4, 4 / 11) and row["success"] == 3 / 7

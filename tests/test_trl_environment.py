"A task as TRL's environment: its tools, its rewards, and steps of GRPOTrainer in words and in pictures."
import json
import pytest
from rl4vlm.actions import Calls, FreeText, Number, OneOf, Point, Several, Text
from rl4vlm.core import UsageError
from rl4vlm.env_pool import TaskEnv
from rl4vlm.tasks import Task, make_task
from rl4vlm.trl_environment import give_tools, seeds_dataset, tool_rows, tools_of, trl_environment

pytest.importorskip("trl", reason="needs the extra trl")


@pytest.mark.parametrize("name, options", [("NumberLine", {}), ("Sokoban", dict(size=5)), ("MiniGridDoorKey5", {})])
def test_the_oracle_by_tools_earns_what_it_earns(name, options):
    task = make_task(name, **options)
    env, here = trl_environment(task)(), TaskEnv(task, oracle=True)
    for seed in range(3):
        frame, total, over = here.reset(seed), 0.0, False
        [image, words] = env.reset(seed=seed, prompt=[])
        assert image["image"].size == frame.images[0].shape[1::-1] and task.goal in words["text"]
        while not over:
            said = env.act(action=frame.suggestion)
            frame, reward, *ends = here.step(frame.suggestion)
            total, over = total + reward, any(ends)
        assert env.get_reward() == total and said == [dict(type="text", text="The episode has ended.")]
        with pytest.raises(ValueError, match="has ended"): env.act(action="up")


def test_typed_calls_become_tools_of_their_own():
    from transformers.utils import get_json_schema
    class Desk(Task):
        env_id = "FrozenLake-v1"
        actions = Calls(click=dict(at=Point(30, 20), times=Number(1, 3, whole=True)), wait={},
                        say=dict(word=Text(9), how=OneOf(("low", "loud"))))
        def to_env(self, action, info): self.got.append(json.loads(action)); return 0
        def describe(self, info): return "a desk"
        got = []
    env = trl_environment(Desk())()
    env.reset(seed=1)
    told = get_json_schema(env.click)["function"]["parameters"]
    assert told["properties"]["at"]["items"] == dict(type="integer") and told["required"] == ["at", "times"]
    env.click(at=[3, 4], times=2); env.wait()
    assert Desk.got == [dict(name="click", arguments=dict(at=[3, 4], times=2)), dict(name="wait", arguments={})]
    for wrong in (dict(at=[3, 40], times=2), dict(at="here", times=2), dict(at=[3, 4], times=9), dict(at=[3, 4])):
        with pytest.raises(ValueError): env.click(**wrong)
    assert len(Desk.got) == 2


@pytest.mark.parametrize("odd", ["jump", "", 7, None, ["fly"], {"a": 1}, "\ud800", "up," * 10_000])
def test_odd_arguments_are_told_and_end_at_the_last_turn(odd):
    env = trl_environment(make_task("Sokoban", size=5, max_turns=2))()
    env.reset(seed=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="Actions:"): env.act(action=odd)
    with pytest.raises(ValueError, match="has ended"): env.act(action="up")
    assert env.get_reward() == 0.0 and env.reset(seed=0)


def test_tools_of_each_kind():
    assert tools_of(FreeText(80)) == dict(say=dict(text=(str, "a text, at most 80 characters")))
    assert "up to 2" in tools_of(Several(["up", "down"], 2))["act"]["action"][1]
    with pytest.raises(UsageError, match="mixture"): trl_environment(make_task("NumberLine:1,Blackjack:1"))


def test_steps_of_trls_trainer(tmp_path, blind_model, monkeypatch):
    "A model that was shown calls makes them, tools answer with pictures, and the rollouts of a group start alike."
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl import GRPOConfig, GRPOTrainer
    from rl4vlm.config import SFTConfig
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.rollout import OracleActor, play
    from rl4vlm.sft import train_sft
    from rl4vlm.trl_rloo import banned_tokens
    task = make_task("NumberLine", max_turns=2)
    policy = VLMPolicy.load(str(blind_model), parts="language")
    model, processor = policy.model, give_tools(policy.processor)
    turns = [e.turns[0] for e in play(task, OracleActor(task, 0.5), range(160))]
    train_sft(tool_rows(task, processor, turns), policy, SFTConfig(
        steps=60, optim=dict(batch_size=8, lr=3e-3), run=dict(save_every=10**6)), tmp_path/"sft")
    starts, factory = [], trl_environment(task)
    reset = factory.reset
    def noted(self, seed=0, **others):
        starts.append(seed)
        return reset(self, seed=seed, **others)
    monkeypatch.setattr(factory, "reset", noted)
    trainer = GRPOTrainer(
        model=model, processing_class=processor, train_dataset=seeds_dataset(8), environment_factory=factory,
        args=GRPOConfig(output_dir=str(tmp_path/"trl"), max_steps=1, per_device_train_batch_size=4, num_generations=2,
                        max_completion_length=400, max_tool_calling_iterations=2, use_cpu=True, bf16=False,
                        logging_steps=1, report_to="none", disable_tqdm=True, save_strategy="no",
                        generation_kwargs=dict(suppress_tokens=banned_tokens(model, processor.tokenizer))))
    trainer.train()
    [row] = [row for row in trainer.state.log_history if "reward" in row]
    assert row["tools/call_frequency"] > 0 and row["tools/failure_frequency"] < 1
    assert len(starts) == 4 and starts[0] == starts[1] != starts[2] == starts[3]

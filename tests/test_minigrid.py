"MiniGrid against MiniGrid: its images, its rules, its own search for what can be seen."
from collections import deque
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from minigrid.core.grid import Grid
from minigrid.wrappers import RGBImgObsWrapper, RGBImgPartialObsWrapper
from rl4vlm.core import UsageError
from rl4vlm.envs.minigrid import ACTIONS, MiniGrid, RGBMiniGrid, _name, full_id, relative, shortest_plan
from rl4vlm.tasks import make_task

NAMES = list(ACTIONS)
TASKS = ["MiniGridEmpty", "MiniGridDoorKey5", "MiniGridDoorKey6", "MiniGridDoorKey8", "MiniGridFourRooms",
         "MiniGridLavaGap"]
WORLDS = ["MiniGrid-Empty-Random-6x6-v0", "MiniGrid-DoorKey-5x5-v0", "MiniGrid-DoorKey-8x8-v0", "MiniGrid-FourRooms-v0",
          "MiniGrid-LavaGapS7-v0", "MiniGrid-LavaCrossingS9N2-v0",
          "MiniGrid-Dynamic-Obstacles-6x6-v0", "MiniGrid-MultiRoom-N4-S5-v1",
          "MiniGrid-MemoryS7-v0", "MiniGrid-Fetch-8x8-N3-v0",
          "MiniGrid-Playground-v0", "MiniGrid-ObstructedMaze-1Dlhb-v0",
          "BabyAI-GoToLocal-v0", "BabyAI-PutNextLocal-v0", "BabyAI-OpenDoorsOrderN4-v0", "BabyAI-KeyInBox-v0",
          "BabyAI-BossLevel-v0"]
THEIRS = dict(full=RGBImgObsWrapper, partial=RGBImgPartialObsWrapper)


def make(env_id, **options): return gym.make(env_id, disable_env_checker=True, **options)


def busy_play(env, seed, steps):
    "Random actions that do not avoid anything; walking twice as often, so that the agent gets around."
    random = np.random.default_rng(seed)
    choices = [a for a in [2, *range(env.action_space.n)]]
    for _ in range(steps): yield int(random.choice(choices))


def compare(ours, theirs, seed, steps):
    "Number of images compared; asserts that all are equal, and the rest of each step too."
    def check(image, obs):
        assert image.dtype == obs["image"].dtype and np.array_equal(image, obs["image"])
        assert ours.observation_space.contains(image)
    check(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
    for i, action in enumerate(busy_play(ours, seed, steps)):
        image, *mine, info = ours.step(action)
        obs, *others, _ = theirs.step(action)
        check(image, obs)
        assert mine == others and info["mission"] == obs["mission"]
        if mine[1] or mine[2]: check(ours.reset()[0], theirs.reset()[0])
    return i + 2


@pytest.mark.parametrize("view", THEIRS)
@pytest.mark.parametrize("env_id", WORLDS)
def test_images_are_equal(env_id, view):
    for seed in (0, 1, 2):
        assert compare(RGBMiniGrid(make(env_id), view, 8), THEIRS[view](make(env_id), tile_size=8), seed, 60) > 60


@pytest.mark.parametrize("options", [dict(highlight=False), dict(agent_view_size=3), dict(agent_view_size=11),
                                     dict(see_through_walls=True)])
@pytest.mark.parametrize("view", THEIRS)
def test_images_are_equal_with_other_options(options, view):
    env_id = "MiniGrid-MultiRoom-N2-S4-v0" if "see_through_walls" in options else "MiniGrid-DoorKey-6x6-v0"
    compare(RGBMiniGrid(make(env_id, **options), view, 8), THEIRS[view](make(env_id, **options), tile_size=8), 5, 80)


def test_images_are_equal_at_full_size_and_odd_size():
    for tile_size in (32, 7):
        compare(RGBMiniGrid(make(WORLDS[1]), "full", tile_size), RGBImgObsWrapper(make(WORLDS[1]), tile_size=tile_size),
                1, 30)


@pytest.mark.parametrize("view", THEIRS)
def test_images_are_equal_in_a_vector(view):
    ours = SyncVectorEnv([lambda: RGBMiniGrid(make("MiniGrid-DoorKey-5x5-v0"), view, 8)] * 8,
                         autoreset_mode=AutoresetMode.DISABLED)
    theirs = SyncVectorEnv([lambda: THEIRS[view](make("MiniGrid-DoorKey-5x5-v0"), tile_size=8)] * 8,
                           autoreset_mode=AutoresetMode.DISABLED)
    assert np.array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0]["image"])
    random = np.random.default_rng(0)
    for _ in range(40):
        actions = random.integers(6, size=8)
        mine, others = ours.step(actions), theirs.step(actions)
        assert np.array_equal(mine[0], others[0]["image"])
        assert all(np.array_equal(a, b) for a, b in zip(mine[1:4], others[1:4]))
        if (over := mine[2] | mine[3]).any():
            assert np.array_equal(*(np.asarray(o if v is ours else o["image"]) for v in (ours, theirs)
                for o in [v.reset(options=dict(reset_mask=over))[0]]))


def test_a_image_is_not_changed_by_later_steps():
    env = RGBMiniGrid(make("MiniGrid-Empty-5x5-v0"))
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second = env.step(2)[0]
    assert np.array_equal(first, kept) and not np.array_equal(first, second)
    assert np.array_equal(env.render(), second)


@pytest.mark.parametrize("env_id", ["MiniGrid-DoorKey-6x6-v0", "MiniGrid-LavaGapS6-v0", "BabyAI-BossLevel-v0",
                                    "MiniGrid-Playground-v0"])
def test_what_info_says_is_seen_is_what_minigrid_shows(env_id):
    ours, theirs = RGBMiniGrid(make(env_id), "partial", 4), make(env_id)
    (_, info), (obs, _) = ours.reset(seed=7), theirs.reset(seed=7)
    for action in busy_play(ours, 7, 150):
        base, (_codes, shown) = theirs.unwrapped, Grid.decode(obs["image"])
        expected = set()
        for x in range(base.width):
            for y in range(base.height):
                cell, inside = base.grid.get(x, y), base.relative_coords(x, y)
                if inside is None or not shown[inside] or (x, y) == tuple(base.agent_pos): continue
                if cell is not None and cell.type not in ("wall", "floor"): expected.add((_name(cell), (x, y)))
        assert set(info["seen"]) == expected and len(info["seen"]) == len(expected)
        for name, place in info["seen"]:
            ahead, right = relative(info, place)
            assert tuple(base.get_view_coords(*place)) == (base.agent_view_size // 2 + right,
                                                           base.agent_view_size - 1 - ahead)
        assert info["front"] == _name(base.grid.get(*base.front_pos)) and info["carrying"] == _name(base.carrying)
        assert info["position"] == tuple(base.agent_pos)
        assert ["right", "down", "left", "up"].index(info["facing"]) == obs["direction"]
        (_, _, ended, late, info), (obs, *_) = ours.step(action), theirs.step(action)
        if ended or late: (_, info), (obs, _) = ours.reset(), theirs.reset()


def test_free_cells_can_be_walked():
    env = RGBMiniGrid(make("MiniGrid-FourRooms-v0"), tile_size=4)
    for seed in range(20):
        _, info = env.reset(seed=seed)
        for turn, index in [(None, 0), (0, 1), (1, 2)]:
            _, info = env.reset(seed=seed)
            free, _x = info["free"][index], info["position"]
            if turn is not None: env.step(turn)
            walked = 0
            for _ in range(free + 1):
                before = env.unwrapped.agent_pos
                _, _, ended, _, _ = env.step(2)
                walked += tuple(env.unwrapped.agent_pos) != tuple(before)
                if ended: break
            assert walked == free or ended


def play(task, choose, seed, env=None):
    env = env or task.make_env()
    obs, info = env.reset(seed=seed)
    for turn in range(1, task.max_turns + 1):
        _, reward, terminated, truncated, info = env.step(task.to_env(choose(env, info), info))
        if terminated or truncated: break
    return terminated and reward > 0, turn


@pytest.mark.parametrize("name", TASKS)
def test_oracle_solves_two_hundred_seeds(name):
    task = make_task(name, tile_size=4)
    assert [seed for seed in range(1000, 1200) if not play(task, task.oracle, seed)[0]] == []


def fewest_steps(env):
    "Steps to success by trying all seven actions of the real environment in every state that they lead to."
    base = env.unwrapped
    base.gen_obs = lambda: None
    doors = [c for c in base.grid.grid if c is not None and c.type == "door"]
    def state():
        return (tuple(base.grid.grid), tuple((d.is_open, d.is_locked) for d in doors), base.carrying,
                tuple(map(int, base.agent_pos)), base.agent_dir)
    def restore(s):
        base.grid.grid[:], base.carrying, base.agent_pos, base.agent_dir, base.step_count = s[0], s[2], s[3], s[4], 0
        for door, (door.is_open, door.is_locked) in zip(doors, s[1]): pass
    start = state()
    steps, queue = {start: 0}, deque([start])
    try:
        while queue:
            here = queue.popleft()
            for action in range(7):
                restore(here)
                _, reward, terminated, *_ = base.step(action)
                if terminated and reward > 0: return steps[here] + 1
                if not terminated and (there := state()) not in steps:
                    steps[there] = steps[here] + 1
                    queue.append(there)
    finally: restore(start)


@pytest.mark.parametrize("env_id, seeds",
                         [("MiniGrid-Empty-Random-6x6-v0", 60),
                          ("MiniGrid-DoorKey-5x5-v0", 40), ("MiniGrid-DoorKey-6x6-v0", 6),
                          ("MiniGrid-LavaGapS5-v0", 20), ("MiniGrid-LavaGapS6-v0", 20), ("MiniGrid-FourRooms-v0", 10)])
def test_plan_is_a_shortest_one(env_id, seeds):
    env = make(env_id)
    for seed in range(seeds):
        env.reset(seed=seed)
        brute, plan = fewest_steps(env), shortest_plan(env)
        assert len(plan) == brute, (seed, plan, brute)
        for action in plan: _, reward, terminated, *_ = env.step(NAMES.index(action))
        assert terminated and reward > 0


def test_plan_from_the_middle_of_an_episode():
    env = make("MiniGrid-DoorKey-5x5-v0")
    for seed in range(15):
        env.reset(seed=seed)
        for action in busy_play(env, seed, 25):
            if action == 4:
                continue   # after a drop the shortest way may begin with other things than this planner knows
            if env.step(action)[2]: break
        else: assert len(shortest_plan(env)) == fewest_steps(env)


def test_no_plan_without_a_way_or_a_goal():
    env = make("MiniGrid-Empty-5x5-v0")
    env.reset(seed=0)
    env.unwrapped.grid.horz_wall(1, 2, 3)
    assert shortest_plan(env) is None
    env = make("MiniGrid-Fetch-5x5-N2-v0")
    env.reset(seed=0)
    assert shortest_plan(env) is None
    task = make_task("MiniGrid", env_id="Fetch-5x5-N2")
    env = task.make_env()
    assert task.oracle(env, env.reset(seed=0)[1]) is None


@pytest.mark.parametrize("level", ["GoToRedBall", "PickupLoc", "PutNextLocal", "UnlockLocal", "OpenDoor"])
def test_bot_solves_babyai(level):
    task = make_task("MiniGrid", env_id=level, tile_size=4, max_turns=1000)
    env = task.make_env()   # one for all episodes: the plan of one must not be followed in the next
    assert sum(play(task, task.oracle, seed, env)[0] for seed in range(20)) == 20


def test_bot_gives_up_instead_of_failing():
    "Half of the actions are random, so boxes are opened and things are put in the way."
    asked, silent = 0, 0
    for level in ["PutNextLocal", "UnlockLocal", "KeyInBox", "BabyAI-Pickup"]:
        task = make_task("MiniGrid", env_id=level, tile_size=4)
        for seed in range(6):
            env, random = task.make_env(), np.random.default_rng(seed)
            _, info = env.reset(seed=seed)
            for _ in range(60):
                advised = task.oracle(env, info)
                asked, silent = asked + 1, silent + (advised is None)
                assert advised is None or advised in task.allowed(info)
                action = advised if advised and random.random() < 0.5 else random.choice(task.allowed(info))
                *_, ended, late, info = env.step(task.to_env(action, info))
                if ended or late: break
    assert 0 < silent < asked


def test_same_seed_same_episode():
    task = make_task("MiniGrid", env_id="PutNextLocal", tile_size=4)
    def episode(env):
        obs, info = env.reset(seed=11)
        rows = [(obs.tobytes(), info)]
        for action in busy_play(env, 1, 40):
            obs, *rest = env.step(action)
            rows.append((obs.tobytes(), rest))
            if rest[1] or rest[2]: break
        return rows
    first = task.make_env()
    assert episode(first) == episode(first) == episode(task.make_env())


def test_the_mission_in_the_prompt_is_of_this_episode():
    for view in THEIRS:
        task, missions = make_task("MiniGrid", env_id="GoToLocal", tile_size=8, view=view), set()
        env = task.make_env()
        for seed in range(8):
            frame = task.frame(*env.reset(seed=seed), env)
            words = task.prompt(frame)[0]["content"][-1]["text"]
            assert f"Mission: {env.unwrapped.mission}.\n" in words
            missions.add(frame.info["mission"])
        assert len(missions) > 3


def test_text_only_prompt_has_the_scene_and_no_image():
    task = make_task("MiniGridDoorKey6")
    env = task.make_env()
    frame = task.frame(*env.reset(seed=0), env)
    frame.images = []
    content = task.prompt(frame)[0]["content"]
    assert len(content) == 1 and frame.text in content[0]["text"] and "image shows" not in content[0]["text"]
    assert "Mission: use the key" in content[0]["text"] and "column,row" in content[0]["text"]


@pytest.mark.parametrize("view", THEIRS)
@pytest.mark.parametrize("env_id", ["DoorKey-6x6", "LavaGapS6", "BossLevel", "MultiRoom-N4-S5-v1"])
def test_answers_are_true_and_can_be_parsed(env_id, view):
    task = make_task("MiniGrid", env_id=env_id, view=view, tile_size=4)
    env = task.make_env()
    obs, info = env.reset(seed=2)
    for action in busy_play(env, 2, 60):
        frame = task.frame(obs, info, env)
        for name in frame.actions: assert task.parse(task.answer(name, info), frame.actions).action == name
        thought = task.reason(info)
        assert thought.startswith("nothing in sight") or any(f"the {name}," in thought for name, _ in info["seen"])
        assert set(task.true_fields(info)) == set(task.fields)
        obs, _, ended, late, info = env.step(action)
        if ended or late: obs, info = env.reset()


def test_what_the_oracle_thinks_in_doorkey():
    "The key, then the door, then the goal; and where they are, from the agent's point of view."
    task = make_task("MiniGridDoorKey5", tile_size=4)
    env = task.make_env()
    _, info = env.reset(seed=0)
    thoughts, ended = [], False
    while not ended:
        thoughts.append(task.reason(info))
        *_, ended, _, info = env.step(task.to_env(task.oracle(env, info), info))
    order = list(dict.fromkeys(t.removeprefix("next is the ").split(",")[0] for t in thoughts))
    assert order == ["yellow key", "locked yellow door", "green goal"]
    assert thoughts[0] == "next is the yellow key, 1 right" and thoughts[1] == "next is the yellow key, right in front"


def test_a_locked_door_matters_only_with_its_key():
    task = make_task("MiniGridDoorKey5")
    info = dict(mission="use the key to open the door and then get to the goal", position=(1, 1), facing="right",
        carrying="nothing", seen=(("locked yellow door", (3, 1)),))
    assert task.reason(info) == "nothing in sight that the mission asks for next"
    assert task.reason(dict(info, carrying="blue key")) == "nothing in sight that the mission asks for next"
    assert task.reason(dict(info, carrying="yellow key")) == "next is the locked yellow door, 2 ahead"


def test_lava_is_not_free():
    env = RGBMiniGrid(make("MiniGrid-LavaGapS5-v0"))
    for seed in range(10):
        _, info = env.reset(seed=seed)
        lava = {place for name, place in info["seen"] if name == "lava"}
        assert lava and info["free"][0] == (0 if (2, 1) in lava else 2) and info["free"][2] == 2


def test_options_and_mistakes():
    task = make_task("MiniGrid", env_id="DoorKey-6x6", env_kwargs=dict(max_steps=5), view="partial", tile_size=16)
    env = task.make_env()
    assert env.reset(seed=0)[0].shape == (112, 112, 3) and env.unwrapped.max_steps == 5
    assert task.actions == ["left", "right", "forward", "pickup", "toggle"]
    assert [task.to_env(a, {}) for a in task.actions] == [0, 1, 2, 3, 5]
    assert make_task("MiniGrid", env_id="Dynamic-Obstacles-5x5").actions == ["left", "right", "forward"]
    assert make_task("MiniGridEmpty", fields={},
                     thoughts=None).answer("left", env.reset(seed=0)[1]) == '{"action": "left"}'
    for options, message in [(dict(env_id="DorKey-6x6"), "did you mean 'MiniGrid-DoorKey-6x6-v0'"),
                             (dict(view="side"), "one of full, partial"),
                             (dict(actions=["up"]), "'up' is no action of MiniGrid"),
                             (dict(env_id="CartPole-v1"), "not a MiniGrid environment"),
                             (dict(veiw="full"), "did you mean 'view'")]:
        with pytest.raises(UsageError, match=message): make_task("MiniGrid", **options).make_env()
    for _ in range(5): over = env.step(0)[3]
    assert over
    with pytest.raises(gym.error.ResetNeeded, match=r"after the end of an episode; call reset\(\) first"): env.step(0)
    env.reset(seed=0)
    for action in (7, -1, 1.5, None):
        with pytest.raises(ValueError, match="is not in Discrete"): env.step(action)


def test_every_id_of_the_library_can_be_named():
    ids = [i for i in gym.registry if i.startswith(("MiniGrid-", "BabyAI-"))]
    assert len(ids) > 150 and all(full_id(i) == i for i in ids)
    assert MiniGrid(env_id="Empty-5x5").env_id == "MiniGrid-Empty-5x5-v0"

"The Gym-Cards games against plain models of their rules, and their oracles against brute force."
import itertools
import re
import time
import tomllib
import warnings
from fractions import Fraction
from pathlib import Path
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings, strategies as st
from PIL import Image
from rl4vlm.envs.arithmetic import FormulaError, completion, python_value, rational_value
from rl4vlm.envs.card_images import RANKS, SUITS, card_image
from rl4vlm.envs.cards import BlackjackEnv, EZPointsEnv, NumberLineEnv, Points24Env, blackjack_values
from rl4vlm.tasks import make_task

IDS = [f"gym_cards/{name}-v{version}" for name in ("NumberLine", "EZPoints", "Points24", "Blackjack")
       for version in (0, 1)]
pytestmark = pytest.mark.filterwarnings("ignore:.*out of date", "ignore::SyntaxWarning")


def make(id, **arguments): return gym.make(id, **arguments).unwrapped

def value_or_none(read, text):
    try: return read(text)
    except Exception: return None

# --- arithmetic ---

@st.composite
def formulas(draw, numbers=st.integers(1, 13), size=4):
    "Strings of the games' tokens with at most `size` numbers: well-formed ones, each sometimes disturbed by a token."
    def grow(size):
        if size == 1: return [str(draw(numbers))]
        split = draw(st.integers(1, size - 1))
        inner = (grow(split) + [draw(st.sampled_from(["+", "-", "*", "/", "**", "//", "- -", "*-", "/+", ""]))]
                 + grow(size - split))
        return ["(", *inner, ")"] if draw(st.booleans()) else inner
    tokens = grow(draw(st.integers(1, size)))
    for _ in range(draw(st.integers(0, 2))):
        tokens.insert(draw(st.integers(0, len(tokens))),
                      draw(st.sampled_from(["+", "-", "*", "/", "(", ")", " ", "()"])))
    return "".join(tokens)

def quick(text):
    "Whether Python is sure to finish soon: at most one power, of few digits."
    return "**" not in text or text.count("**") == 1 and len(re.findall("[0-9]", text)) <= 6

def same(ours, pythons):
    "Equal, type included; where we gave up, Python made an error or a number too long to be anybody's target."
    if ours is None: return pythons is None or (isinstance(pythons, int) and pythons.bit_length() > 2**14)
    return type(ours) is type(pythons) and ours == pythons

@settings(max_examples=1500, deadline=None)
@given(formulas().filter(quick))
def test_well_formed_formulas_are_worth_what_python_says(text):
    assert same(value_or_none(python_value, text), value_or_none(eval, text)), text

@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from([*map(str, range(1, 11)), *"+-*/() "]), max_size=21).map("".join).filter(quick))
def test_token_soup_is_worth_what_python_says(text):
    assert same(value_or_none(python_value, text), value_or_none(eval, text)), text

@settings(max_examples=400, deadline=None)
@given(formulas(st.integers(1, 4), 3))
def test_towers_of_small_powers(text):
    assert same(value_or_none(python_value, text), value_or_none(eval, text)), text

@pytest.mark.parametrize("text", ["5//9**9**5", "-5//9**9**5", "5//-9**9**5", "-5//-9**9**5", "5/9**9**5", "1**9**9**5",
                                  "(-1)**9**9**5", "(-1)**8**9**5", "(-1)**-9**9**5", "5//(-9)**9**5", "5//(-9)**8**6",
                                  "9**9**5/3", "9**9**5*1.", "2(3)", "2 (3)", "()", "()*3", "-()", " 1", "1 ", "(1)(2)",
                                  "2--3", "2-+-3", "2**-1", "(1-1)**-1", "00", "01", "", " ", "* 2", "2***3", "2///3"])
def test_corners_of_python(text):
    assert same(value_or_none(python_value, text), value_or_none(eval, text)), text

@pytest.mark.parametrize("text", ["9**9**9**9", "13**13**13**13", "(9**9**9)**9", "9**(9**9**9)", "-9**9**9-9",
                                  "9**9**9//9", "13**131313", "9" * 4000 + "**" + "9" * 4000, "(" * 4000, "-" * 10**5])
def test_what_python_does_not_finish_is_refused_at_once(text):
    start = time.perf_counter()
    with pytest.raises(FormulaError): python_value(text)
    assert time.perf_counter() - start < 0.2   # no measurement: seconds or hours if it were computed

def test_rational_reading():
    assert rational_value([8, "/", "(", 3, "-", 8, "/", 3, ")"]) == 24
    assert rational_value(["-", 2, "+", 3]) == 1
    for tokens in ([2, 4], [2, "*", "*", 3], [6, "/", "/", 2], ["(", ")"], [2, "(", 3, ")"],
                   [1, "/", "(", 2, "-", 2, ")"], []):
        with pytest.raises(FormulaError): rational_value(tokens)

# --- the solver ---

def test_completions_are_shortest():
    "Against all token strings of up to five entries."
    for a, b in [(2, 3), (3, 3), (1, 6)]:
        alphabet = [*sorted({a, b}), *"+-*/()"]
        worth = {}
        for length in range(1, 6):
            for tokens in itertools.product(alphabet, repeat=length):
                if sorted(t for t in tokens if isinstance(t, int)) == sorted([a, b]):
                    value = value_or_none(rational_value, tokens)
                    if value is not None: worth.setdefault(value, []).append(tokens)
        for target in (6, -1, 5, 0, Fraction(1, 2), 7):
            shortest = {}
            for tokens in worth.get(target, []):
                for cut in range(len(tokens) + 1):
                    shortest[tokens[:cut]] = min(shortest.get(tokens[:cut], 9), len(tokens) - cut)
            for length in range(4):
                for prefix in itertools.product(alphabet, repeat=length):
                    ours = completion((a, b), prefix, target)
                    if ours is not None: assert rational_value(prefix + ours) == target
                    if ours is not None and len(prefix + ours) <= 5:
                        assert len(ours) == shortest.get(prefix), (prefix, target, ours)
                    else: assert prefix not in shortest, (prefix, target)

def test_beyond_repair():
    for formula in [(2, "/", "(", 3, "-", 3, ")"), (2, 3), ("*",), (")",), (2, "("), (2, "*", "*"), (7,), (2, 2),
                    ("(", ")"), ("=",)]:
        assert completion((2, 3, 3, 4), formula) is None, formula

def makes(values, target):
    "Whether four operations can make `target`: replace two values by their result until one is left."
    if len(values) == 1: return values[0] == target
    for i, j in itertools.permutations(range(len(values)), 2):
        rest = [v for k, v in enumerate(values) if k not in (i, j)]
        a, b = values[i], values[j]
        if any(makes(rest + [c], target) for c in [a + b, a - b, a * b] + ([a / b] if b else [])): return True
    return False

def test_solvable_deals():
    rng = np.random.default_rng(0)
    for _ in range(60):
        numbers = tuple(sorted(int(n) for n in rng.integers(1, 14, size=4)))
        found = completion(numbers)
        assert (found is not None) == makes([Fraction(n) for n in numbers], 24), numbers
        if found: assert rational_value(found) == 24 and sorted(t for t in found if isinstance(t, int)) == list(numbers)

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=4, max_size=4), st.data())
def test_any_beginning_is_completed_or_hopeless(numbers, data):
    formula = []
    for _ in range(data.draw(st.integers(1, 6))):
        left = [n for n in set(numbers) if formula.count(n) < numbers.count(n)]
        formula.append(data.draw(st.sampled_from(left + [*"+-*/() "])))
    rest = completion(tuple(sorted(numbers)), tuple(formula))
    if rest is None: return
    assert rational_value([t for t in [*formula, *rest] if t != " "]) == 24
    if rest:
        after = completion(tuple(sorted(numbers)), (*formula, rest[0]))
        assert len(after) == len(rest) - 1

# --- rules ---

def published_points(cards, moves, target, limit, count):
    "The published rules of EZPoints and Points24, as plainly as possible."
    numbers, formula, used = [min(RANKS.index(c[1]) + 1, 10) for c in cards], [], []
    for move in moves:
        if len(formula) > limit: yield -1, False, True, list(formula); return
        if move == "=":
            text = "".join(map(str, formula))
            won = quick(text) and value_or_none(eval, text) == target and len(used) == count
            yield (10 if won else -1), True, False, list(formula); return
        if isinstance(move, int) and used.count(move) >= numbers.count(move): formula.append(" "); reward = -1
        else:
            if isinstance(move, int): used.append(move)
            formula.append(move); reward = 0
        yield reward, False, False, list(formula)

card_names = st.tuples(st.sampled_from(SUITS), st.sampled_from(RANKS)).map("".join)

@pytest.mark.parametrize("game, count, limit, target", [(EZPointsEnv, 2, 5, 12), (Points24Env, 4, 20, 24)])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_points_games_play_as_published(game, count, limit, target, data):
    env = game()
    cards = data.draw(st.lists(card_names, min_size=count, max_size=count))
    entries = [int(n) if n.isdigit() else n for n in env.action_names]
    on_cards = [min(RANKS.index(c[1]) + 1, 10) for c in cards]
    moves = (data.draw(st.lists(st.sampled_from(entries[:-1] + 3 * on_cards + 2 * entries[10:-1]), max_size=limit + 3))
             + ["="])
    if not quick("".join(map(str, moves))): return
    info = env.reset(options=dict(cards=cards))[1]
    assert info == dict(Cards=cards, Numbers=on_cards, Formula=[])
    published = published_points(cards, moves, target, limit, count)
    for move, (reward, terminated, truncated, formula) in zip(moves, published):
        observation, *rest, info = env.step(entries.index(move))
        assert rest == [reward, terminated, truncated] and info == dict(Cards=cards, Numbers=on_cards, Formula=formula)
        assert [type(e) for e in info["Formula"]] == [type(e) for e in formula]
    with pytest.raises(gym.error.ResetNeeded): env.step(0)

def points_result(env, tokens, cards):
    env.reset(options=dict(cards=cards))
    for token in tokens: result = env.step(env.action_names.index(token))
    return result[1:4]

@pytest.mark.parametrize("tokens, cards, v0, v1", [
    ("24*1/1=", ["H2", "D4", "SA", "CA"], 10, -1),              # digits concatenate
    ("2**3*3*1=", ["H2", "D3", "S3", "CA"], 10, -1),            # stars make a power
    ("8/(3-8/3)=", ["H8", "D3", "S8", "C3"], -1, 10),           # floats round
    ("8*3=", ["H8", "D3", "S8", "C3"], -1, -1),                 # not all cards
    ("4*(3+2+1)=", ["H4", "D3", "S2", "CA"], 10, 10),
    ("74*(3+2+1)=", ["H4", "D3", "S2", "CA"], 10, 10),          # a blank in front
    ("2(3)*4+1=", ["H4", "D3", "S2", "CA"], -1, -1)])
def test_what_v1_repairs(tokens, cards, v0, v1):
    for version, reward in ((0, v0), (1, v1)):
        assert points_result(Points24Env(version=version), tokens, cards) == (reward, True, False)

def test_points_arguments():
    court = Points24Env(treat_face_cards_as_10=False)
    assert court.action_space.n == 20
    assert court.reset(options=dict(cards=["HK", "DQ", "SJ", "CT"]))[1]["Numbers"] == [13, 12, 11, 10]
    assert points_result(Points24Env(target_points=10), "4+3+2+1=", ["H4", "D3", "S2", "CA"])[0] == 10

@pytest.mark.parametrize("version", [0, 1])
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8).flatmap(lambda m: st.tuples(st.just(m), st.integers(0, m), st.integers(0, m))),
       st.lists(st.integers(0, 1), min_size=20, max_size=20))
def test_number_line_rules(version, start, actions):
    highest, target, current = start
    env = NumberLineEnv(max_position=highest, version=version)
    assert env.reset(options=dict(target=target, current=current))[1] == dict(Target=target, Current=current)
    for count, action in enumerate(actions, 1):
        before, current = abs(target - current), min(max(current + (1, -1)[action == 0], 0), highest)
        after = abs(target - current)
        expected = [1 if after == 0 else 0 if after < before else -1, after == 0, after != 0 and count >= 2 * highest]
        observation, *rest, info = env.step(action)
        assert rest == expected and info == dict(Target=target, Current=current)
        if any(expected[1:]): break

def test_number_line_starts():
    starts = [[NumberLineEnv(version=v).reset(seed=s)[1] for s in range(4000)] for v in (0, 1)]
    assert all(info["Target"] != info["Current"] for infos in starts for info in infos)
    shares = [np.mean([info["Target"] == 5 for info in infos]) for infos in starts]
    assert shares[0] < 0.153 < shares[1]   # 5/36 = 0.139 as published, 1/6 repaired

def test_ez_points_deals():
    env = EZPointsEnv()
    infos = [env.reset(seed=seed)[1] for seed in range(3000)]
    assert all(sum(i["Numbers"]) == 12 or np.prod(i["Numbers"]) == 12 for i in infos)
    counts = {(3, 4): 1/12, (3, 9): 1/24 + 1/12, (6, 6): 1/24, (2, 10): 1/24 + 4/12}
    for pair, chance in counts.items():
        share = np.mean([sorted(i["Numbers"]) == list(pair) for i in infos])
        assert abs(share - chance) < 5 * (chance * (1 - chance) / 3000) ** 0.5, (pair, share, chance)
    assert (0.45 < np.mean([i["Numbers"][0] > i["Numbers"][1] for i in infos if i["Numbers"][0] != i["Numbers"][1]])
            < 0.55)

# --- Blackjack ---

jack_cards = st.tuples(st.integers(1, 10), st.sampled_from("JQK"), st.sampled_from("CDHS")).map(
    lambda c: (c[0], "A" if c[0] == 1 else c[1] if c[0] == 10 else str(c[0]), c[2]))

def points_of(cards):
    values = [c[0] for c in cards]
    return sum(values) + 10 * (1 in values and sum(values) + 10 <= 21)

@settings(max_examples=300, deadline=None)
@given(st.lists(jack_cards, min_size=2, max_size=2), st.lists(jack_cards, min_size=2, max_size=2),
       st.lists(jack_cards, min_size=40, max_size=40), st.lists(st.integers(0, 1), min_size=25, max_size=25),
       st.booleans(), st.booleans(), st.sampled_from([0, 1]))
def test_blackjack_rules(player, dealer, deck, actions, natural, sab, version):
    env = BlackjackEnv(natural=natural, sab=sab, version=version)
    env.reset(options=dict(player=[list(c) for c in player], dealer=dealer, deck=deck))
    player, dealer, deck = list(player), list(dealer), list(deck)
    for action in actions:
        if action: player.append(deck.pop(0))
        else:
            while points_of(dealer) < 17: dealer.append(deck.pop(0))
        lost = points_of(player) > 21
        dealers = points_of(dealer) if points_of(dealer) <= 21 else 0
        reward = -1 if lost else 0 if action else int(np.sign(points_of(player) - dealers))
        blackjack = [sorted(c[0] for c in cards) == [1, 10] for cards in (player, dealer)]
        if version and not action and sab and blackjack[0] and not blackjack[1]: reward = 1
        elif version and not action and natural and not sab and blackjack[0] and reward == 1: reward = 1.5
        observation, *rest, info = env.step(action)
        assert rest == [reward, lost or not action, False]
        assert info == {"Dealer Card": dealer, "Player Card": player}
        assert all(type(c) is tuple for c in info["Player Card"])
        if rest[1]: return

@pytest.mark.parametrize("dealer, plain, natural, sab",
                         [([10, 7], 1, 1.5, 1), ([10, 1], 0, 0, 0), ([6, 10, 5], 0, 0, 1)])
def test_naturals_count_in_v1_only(dealer, plain, natural, sab):
    face = {1: "A", 10: "Q"}
    start = dict(player=[[1, "A", "H"], [10, "K", "S"]], dealer=[[v, face.get(v, str(v)), "C"] for v in dealer])
    def stand(**arguments):
        env = BlackjackEnv(**arguments)
        env.reset(options=start)
        return env.step(0)[1]
    assert [stand(version=1), stand(natural=True, version=1), stand(sab=True, version=1),
            stand(natural=True, sab=True, version=1)] == [plain, natural, sab, sab]
    assert [stand(), stand(natural=True), stand(sab=True)] == [plain] * 3

def test_blackjack_deals_a_seed_as_published():
    deck = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]
    def card(rng):
        value, suit = int(rng.choice(deck)), str(rng.choice(["C", "D", "H", "S"]))
        return value, "A" if value == 1 else str(rng.choice(["J", "Q", "K"])) if value == 10 else str(value), suit
    env = BlackjackEnv()
    for seed in range(200):
        rng, info = gym.utils.seeding.np_random(seed)[0], env.reset(seed=seed)[1]
        assert info == {"Dealer Card": [card(rng), card(rng)], "Player Card": [card(rng), card(rng)]}
        rng.choice(4)
        if info["Dealer Card"][0][0] == 10: rng.choice(3)
        assert env.step(1)[4]["Player Card"][-1] == card(rng)

def test_blackjack_tuple():
    start = dict(player=[[1, "A", "H"], [6, "6", "S"]], dealer=[[10, "K", "C"], [7, "7", "D"]])
    for version in (0, 1):   # the published tuple never shows the usable ace
        assert BlackjackEnv(is_pixel=False, version=version).reset(options=start)[0] == (17, 10, version)

def returns_of(choose, env, episodes):
    for seed in range(episodes):
        info, terminated = env.reset(seed=seed)[1], False
        while not terminated: _, reward, terminated, _, info = env.step(choose(info))
        yield reward

@pytest.mark.parametrize("choose, wins, mean",
                         [("oracle", .429, -.047), ("stand", .381, -.186), ("random", .281, -.396)])
def test_blackjack_play(choose, wins, mean):
    task, rng = make_task("Blackjack"), np.random.default_rng(1)
    choices = dict(oracle=lambda info: task.actions.index(task.oracle(None, info)), stand=lambda info: 0,
                   random=lambda info: int(rng.integers(2)))
    returns = np.array(list(returns_of(choices[choose], BlackjackEnv(is_pixel=False), 6000)))
    assert abs((returns > 0).mean() - wins) < 4 * 0.5 / 6000**0.5 and abs(returns.mean() - mean) < 4 / 6000**0.5

def test_blackjack_table():
    hits = {(points, ace): {d for d in range(1, 11) if np.subtract(*blackjack_values(points - 10 * ace, ace, d)) < 0}
            for ace in (False, True) for points in range(12, 21)}
    assert all(hits[points, False] == {7, 8, 9, 10, 1} for points in (13, 14, 15, 16))
    assert hits[12, False] == {7, 8, 9, 10, 1, 2, 3}
    assert all(not hits[points, False] for points in (17, 18, 19, 20))
    assert all(hits[points, True] == set(range(1, 11)) for points in range(12, 18)) and hits[18, True] == {9, 10, 1}
    task = make_task("Blackjack")
    for points, value in itertools.product(range(4, 18), range(1, 11)):   # two cards, without an ace
        info = {"Player Card": [(points - points // 2, "", "H"), (points // 2, "", "H")],
                "Dealer Card": [(value, "", "H")]}
        assert task.oracle(None, info) == ("hit" if points < 12 or value in hits[points, False] else "stand")
    stand, hit = blackjack_values(20, False, 10)
    assert stand > 0.4 and hit < -0.8

# --- all games ---

@pytest.mark.parametrize("id", IDS)
def test_checker_is_content(id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*out of date")
        check_env(make(id))

@pytest.mark.parametrize("id", IDS)
def test_same_seed_same_game(id):
    def episode(seed):
        env = make(id)
        rng = np.random.default_rng(7)
        observation, info = env.reset(seed=seed)
        seen = [(observation.tobytes(), repr(info))]
        for _ in range(12):
            observation, reward, terminated, truncated, info = env.step(rng.integers(env.action_space.n))
            seen.append((observation.tobytes(), reward, terminated, truncated, repr(info)))
            if terminated or truncated: observation, info = env.reset()
        return seen
    assert episode(5) == episode(5)
    assert len({repr(make(id).reset(seed=s)[1]) for s in range(20)}) > 5

@pytest.mark.parametrize("id", IDS)
def test_what_is_returned_stays_as_it_was(id):
    env = make(id)
    observation, info = env.reset(seed=0)
    before, words = observation.copy(), repr(info)
    env.step(0)
    assert (observation == before).all() and repr(info) == words
    observation[:] = 0
    assert env.reset(seed=0)[0].any()

@pytest.mark.parametrize("id", IDS)
def test_what_cannot_be_played(id):
    env = make(id)
    with pytest.raises(gym.error.ResetNeeded, match="call reset"): env.step(0)
    env.reset(seed=0)
    for action in (-1, env.action_space.n, 0.5, "hit", None):
        with pytest.raises(ValueError, match=re.escape(f"action {action!r} is not in")): env.step(action)
    with pytest.raises(ValueError, match="unknown to"): env.reset(options=dict(start=1))
    with pytest.raises(ValueError, match="render_mode='human'"): type(env)(render_mode="human")
    with pytest.raises(ValueError, match="version=2"): type(env)(version=2)

@pytest.mark.parametrize("game, options, message", [
    (NumberLineEnv, dict(target=6), "from 0 to 5"), (NumberLineEnv, dict(current="a"), "from 0 to 5"),
    (EZPointsEnv, dict(cards=["H2"]), "has 1 cards"), (EZPointsEnv, dict(cards=["2H", "H2"]), "'2H' is no card"),
    (Points24Env, dict(cards=[1, 2, 3, 4]), "1 is no card"),
    (BlackjackEnv, dict(player=[[10, "J", "H"]]), "two cards or more"),
    (BlackjackEnv, dict(dealer=[[10, "9", "H"]] * 2), "is no card"),
    (BlackjackEnv, dict(deck=[3]), "3 is no card"),
    (BlackjackEnv, dict(player=[[10, "J", "H"]] * 3), "no more than 21")])
def test_starts_that_do_not_exist(game, options, message):
    with pytest.raises(ValueError, match=message): game().reset(options=options)

def test_cards_differ_at_the_size_that_small_models_see():
    names = [suit + rank for suit in SUITS for rank in RANKS]
    for width, height in ((67, 93), (70, 98), (135, 189)):
        small = [np.asarray(Image.fromarray(card_image(n, width, height))
                            .resize((width * 112 // 300, height * 112 // 300))).astype(float) for n in names]
        different = min((np.abs(a - b).max(-1) > 60).sum() for a, b in itertools.combinations(small, 2))
        assert different >= 10   # pixels by which the most similar two cards clearly differ

def test_every_entry_is_seen():
    env, ez = Points24Env(), EZPointsEnv()
    for env, cards, tokens in ((env, ["HT", "ST", "DT", "CT"], (["10", "+"] * 4 + ["+"] * 20)[:21]),
                               (ez, ["HT", "ST"], ["10", "*", "10", "+", "+", "*"])):
        images = [env.reset(options=dict(cards=cards))[0]]
        images += [env.step(env.action_names.index(token))[0] for token in tokens]
        assert all((a != b).any() for a, b in zip(images, images[1:]))

# --- tasks ---

@pytest.mark.parametrize("name", ["EZPoints", "Points24", "Blackjack"])
def test_tasks(name):
    task = make_task(name)
    env = task.make_env()
    for seed in range(40):
        frame, reward = task.frame(*env.reset(seed=seed), env), None
        while reward is None:
            assert frame.actions == list(env.unwrapped.action_names)
            prompt, action = task.prompt(frame)[0]["content"][-1]["text"], task.oracle(env, frame.info)
            if name != "Blackjack":
                assert f"Formula so far: {task.true_fields(frame.info)['formula'] or 'empty'}\n" in prompt
            assert set(task.true_fields(frame.info)) == set(task.fields)
            assert all(f'"{f}"' in prompt for f in task.fields)
            parsed = task.parse(task.answer(action, frame.info), frame.actions)
            assert parsed.action == action
            observation, step_reward, terminated, truncated, info = env.step(task.to_env(action, frame.info))
            if terminated or truncated: reward = step_reward
            elif name != "Blackjack": assert step_reward == 0
            frame = task.frame(observation, info, env)
        if name == "EZPoints": assert reward == 10 and len(info["Formula"]) == 3
        if name == "Points24": assert (reward == 10) == (completion(tuple(sorted(info["Numbers"]))) is not None)

def test_the_hidden_card_is_not_told():
    task, start = make_task("Blackjack"), dict(player=[[10, "J", "H"], [6, "6", "S"]])
    told = set()
    for hidden in ([1, "A", "H"], [9, "9", "C"]):
        env = task.make_env()
        frame = task.frame(*env.reset(seed=0, options=dict(start, dealer=[[10, "Q", "D"], hidden])), env)
        told.add((frame.images[0].tobytes(), frame.text, task.answer("hit", frame.info)))
    assert len(told) == 1

def test_tasks_with_other_arguments():
    task = make_task("Points24", env_kwargs=dict(treat_face_cards_as_10=False, target_points=36))
    env = task.make_env()
    frame = task.frame(*env.reset(options=dict(cards=["HK", "DQ", "SJ", "CT"])), env)
    assert frame.actions == list(env.unwrapped.action_names)
    assert "worth 36" in task.goal and "11, 12 and 13" in task.goal
    while True:
        observation, reward, terminated, truncated, info = env.step(
            task.to_env(task.oracle(env, frame.info), frame.info))
        frame = task.frame(observation, info, env)
        if terminated: break
    assert (reward == 10) == makes([Fraction(n) for n in (13, 12, 11, 10)], 36)

def test_entry_points_name_all_four():
    project = tomllib.loads((Path(__file__).parent.parent/"pyproject.toml").read_text())["project"]
    for name in ("NumberLine", "EZPoints", "Points24", "Blackjack"):
        assert project["entry-points"]["rl4vlm.tasks"][name] == f"rl4vlm.envs.cards:{name}"


def test_regret_is_what_a_rule_lies_below_best_play():
    "The regret of a rule's turns, weighted by how often it meets them, is best play's mean return less its own."
    from types import SimpleNamespace
    from rl4vlm.envs.cards import DECK, Blackjack, blackjack_regret, blackjack_values, dealer_outcomes, total
    words = lambda hard, ace, dealer: (f"player {'soft ' * (total(hard, ace) != hard)}{total(hard, ace)}, "
                                       f"dealer {11 if dealer == 1 else dealer}")
    def of_rule(hard, ace, dealer, rule):   # its mean return, and the regret that it gathers
        action = rule(hard, ace, dealer)
        given_away = blackjack_regret(words(hard, ace, dealer), action)
        if action == "stand":
            mine = total(hard, ace)
            outcomes = dealer_outcomes(dealer, dealer == 1).items()
            return sum(c * ((mine > final) - (mine < final)) for final, c in outcomes), given_away
        below = [(-1, 0.0) if hard + v > 21 else of_rule(hard + v, ace or v == 1, dealer, rule) for v in DECK]
        return sum(b[0] for b in below) / 13, given_away + sum(b[1] for b in below) / 13
    cautious = lambda hard, ace, dealer: "hit" if total(hard, ace) < 14 else "stand"
    for a, b, dealer in ((1, 6, 10), (2, 3, 5), (10, 6, 1), (1, 1, 9), (4, 8, 2)):
        start = a + b, 1 in (a, b), dealer
        mean, regret = of_rule(*start, cautious)
        assert regret >= 0 and abs(max(blackjack_values(*start)) - mean - regret) < 1e-9
    assert blackjack_regret("a queen and an ace", "hit") is None
    assert blackjack_regret("player 12, dealer 3", None) is None
    turns = [SimpleNamespace(state="player 12, dealer 10", played="stand", action=None),
             SimpleNamespace(state="other words", played="hit", action="hit")]
    regret = Blackjack().columns(SimpleNamespace(turns=turns[:1]))["regret"]
    stand, hit = blackjack_values(12, False, 10)
    assert regret == hit - stand > 0 and Blackjack().columns(SimpleNamespace(turns=turns))["regret"] is None

"""environments, pools of them and the parser

Our environments against what they replace: card games that decode their images from PNG files, text that is drawn
anew at each step, MiniGrid's own wrappers, environments in this process or in workers."""
import contextlib
import io
import struct
import tempfile
import time
import zlib
from pathlib import Path
import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from measure import best, clock, milliseconds, rate, ratio, table, times, verdict
from minigrid.wrappers import RGBImgObsWrapper, RGBImgPartialObsWrapper
from PIL import Image, ImageDraw, ImageFont
from rl4vlm.env_pool import EnvPool
from rl4vlm.envs.card_images import RANKS, SUITS, card_image
from rl4vlm.envs.cards import NumberLine
from rl4vlm.envs.minigrid import RGBMiniGrid
from rl4vlm.parsing import parse_action
from rl4vlm.tasks import make_task

TITLE = "Environments"


# ------------------------------------------------------------------------------------------- what is compared with

def write_png16(path, image):
    "Write (H, W, 3) uint8 as a PNG of 16 bits a channel, which PIL cannot."
    height, width = image.shape[:2]
    deep = (image.astype(np.uint16) * 257).astype(">u2").reshape(height, -1)
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    lines = b"".join(b"\0" + line.tobytes() for line in deep)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def decode_cards(files, count, size):
    "Open `count` card files, shrink them and put them on a table of 300×300 pixels."
    table = Image.new("RGB", (300, 300), "green")
    for k in range(count): table.paste(Image.open(files[k % len(files)]).convert("RGB").resize(size), (5 + 70 * k, 100))
    return np.asarray(table)


def redraw(lines, font):
    "Draw lines of text on an empty image."
    image = Image.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((30, 50 + 100 * i), line, fill="black", font=font or ImageFont.load_default(size=42))
    return np.asarray(image)


# ------------------------------------------------------------------------------------------------- the measurements

def steps(env, count, seed=0):
    "Seconds of each of `count` random steps; resets in between are not counted."
    random, found = np.random.default_rng(seed), []
    env.reset(seed=seed)
    for action in random.integers(env.action_space.n, size=count):
        start = clock(); result = env.step(int(action)); found.append(clock() - start)
        if result[2] or result[3]: env.reset()
    return found


def cards(repeats):
    "Resets and Blackjack's step against decoding PNG files; other steps against drawing their text."
    envs = {name: make_task(name).make_env() for name in ("NumberLine", "EZPoints", "Points24", "Blackjack")}
    shown = dict(EZPoints=(2, (135, 189)), Points24=(4, (67, 93)), Blackjack=(3, (70, 98)))
    texts = dict(NumberLine=("Target: 3", "Current: 1"), EZPoints=("Formula: 10 + 2",),
                 Points24=("Formula:", "( 10 + 2 ) * 2"))
    for env in envs.values():   # draw each card once
        for seed in range(400): env.reset(seed=seed)
    font = ImageFont.load_default(size=42)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder)/f"{suit}{rank}.png" for suit in SUITS for rank in RANKS[:4]]
        for file in files: write_png16(file, card_image(file.stem, 750, 1050))
        cases = {}
        for name, (count, size) in shown.items():
            cases[name, "reset"] = lambda env=envs[name]: times(lambda seed: env.reset(seed=seed), range(300))
            decode = lambda _, count=count, size=size: decode_cards(files, count, size)
            cases[name, "decode"] = lambda decode=decode: times(decode, range(3))
        for name, env in envs.items(): cases[name, "step"] = lambda env=env: steps(env, 300)
        for name, lines in texts.items():
            cases[name, "redraw"] = lambda lines=lines: times(lambda _: redraw(lines, None), range(50))
            cases[name, "redraw, font kept"] = lambda lines=lines: times(lambda _: redraw(lines, font), range(50))
        t = best(cases, repeats)
    rows = []
    def compare(name, ours, other, what, target):
        times_faster = t[name, other] / t[name, ours]
        rows.append([f"{name} {ours}", milliseconds(t[name, ours]), what, milliseconds(t[name, other]),
                     ratio(times_faster), verdict(times_faster, target)])
    for name, (count, _) in shown.items(): compare(name, "reset", "decode", f"{count} PNGs decoded and resized", 100)
    compare("Blackjack", "step", "decode", "3 PNGs decoded and resized", 100)
    for name in texts: compare(name, "step", "redraw", "its text drawn anew", 5)
    for name in texts: compare(name, "step", "redraw, font kept", "the same, font kept in memory", None)
    return rows


def play_pool(pool, count, clock=clock):
    "Seconds of a step of one environment, by random play in a pool; resets are part of the time."
    random, seed = np.random.default_rng(0), len(pool)
    frames = pool.reset({i: i for i in range(len(pool))})
    start = clock()
    for numbers in random.random((count, len(pool))):
        results = pool.step({i: frames[i].actions[int(x * len(frames[i].actions))] for i, x in enumerate(numbers)})
        frames = {i: r[0] for i, r in results.items()}
        ended = [i for i, r in results.items() if r[2] or r[3]]
        if ended: frames.update(pool.reset({i: seed + k for k, i in enumerate(ended)})); seed += len(ended)
    return (clock() - start) / count / len(pool)


def play_list(envs, count):
    "The same for a plain list of gymnasium environments."
    random = np.random.default_rng(0)
    for i, env in enumerate(envs): env.reset(seed=i)
    start = clock()
    for actions in random.integers(envs[0].action_space.n, size=(count, len(envs))):
        for env, action in zip(envs, actions):
            result = env.step(int(action))
            if result[2] or result[3]: env.reset()
    return (clock() - start) / count / len(envs)


def play_vector(vector, count, actions=3):
    "The same for a gymnasium vector environment, which resets by itself."
    chosen = np.random.default_rng(0).integers(actions, size=(count, vector.num_envs))
    start = clock()
    for row in chosen: vector.step(row)
    return (clock() - start) / count / vector.num_envs


TEXTS = ['{"target": 3, "current": 1, "thoughts": "3 is larger than 1", "action": "+"}',
         'Let me see.\n```json\n{"target": 3, "current": 1, "thoughts": "3 is larger than 1, so", "action": "-",}\n```',
         "{'thoughts': 'it is smaller', 'action': '-'}",
         '{"target": 3, "current": 1, "thoughts": "3 is larger th',
         "I would add one here."]


def rates(repeats):
    "Steps and texts a second."
    task = NumberLine()
    pool, plain = EnvPool(task, 64), [task.make_env() for _ in range(64)]
    t = best({"pool": lambda: play_pool(pool, 30), "list": lambda: play_list(plain, 30),
              "json": lambda: times(lambda text: parse_action(text, task.actions), TEXTS[:1] * 1000),
              "mixed": lambda: sum(times(lambda text: parse_action(text, task.actions), TEXTS * 200))
              / len(TEXTS) / 200}, repeats)
    rows = [("64 NumberLines in an `EnvPool`, steps with resets", "pool", 10_000),
            ("the same as a list of gymnasium environments", "list", None),
            ("parser, the JSON that was asked for", "json", 20_000),
            ("parser, that and four that are spoilt in different ways", "mixed", 20_000)]
    return [[what, rate(t[key]), verdict(1 / t[key], target)] for what, key, target in rows]


def minigrid(repeats):
    "Eight MiniGrid environments, ours and theirs."
    rows = []
    for env_id, view in [("MiniGrid-Empty-Random-6x6-v0", "full"), ("MiniGrid-DoorKey-8x8-v0", "full"),
                         ("MiniGrid-DoorKey-8x8-v0", "partial")]:
        wrapper = RGBImgObsWrapper if view == "full" else RGBImgPartialObsWrapper
        make = lambda: gymnasium.make(env_id, disable_env_checker=True)
        pool = EnvPool(make_task("MiniGrid", env_id=env_id, view=view, actions=["left", "right", "forward"]), 8)
        theirs, ours = (SyncVectorEnv([m] * 8)
                        for m in (lambda: wrapper(make(), tile_size=32), lambda: RGBMiniGrid(make(), view, 32)))
        for vector in (theirs, ours): vector.reset(seed=0); play_vector(vector, 200)   # tiles are drawn once
        play_pool(pool, 100)
        t = best({"theirs": lambda: play_vector(theirs, 40), "ours": lambda: play_vector(ours, 40),
                  "pool": lambda: play_pool(pool, 40)}, repeats)
        rows.append([f"{env_id}, {view}", rate(t["theirs"]), rate(t["ours"]), rate(t["pool"]),
                     ratio(t["theirs"] / t["ours"]), ratio(t["theirs"] / t["pool"]),
                     verdict(t["theirs"] / max(t["ours"], t["pool"]), 2)])
    return rows


class Thinking(gymnasium.Wrapper):
    "Uses some milliseconds of processor time in each step."
    def __init__(self, env, milliseconds): super().__init__(env); self.seconds = milliseconds / 1000
    def step(self, action):
        end = time.thread_time() + self.seconds
        while time.thread_time() < end: pass
        return self.env.step(action)


class SlowLine(NumberLine):
    "A number line whose step is expensive."
    milliseconds = 20.0
    def make_env(self): return Thinking(super().make_env(), self.milliseconds)


def workers(repeats):
    "The same pool here and in two worker processes."
    rows = []
    for name, task, count in [("NumberLine", NumberLine(), 10), ("NumberLine with 20 ms of thinking", SlowLine(), 3)]:
        here, there = (EnvPool(task, 8, workers=k) for k in (0, 2))
        try:
            t = best({"here": lambda: play_pool(here, count, time.perf_counter),
                      "there": lambda: play_pool(there, count, time.perf_counter)}, repeats)
        finally: here.close(); there.close()
        rows.append([name, rate(t["here"]), rate(t["there"]), ratio(t["here"] / t["there"])])
    return rows


def run(options):
    "The section of the report."
    n = options.repeats
    with contextlib.redirect_stdout(io.StringIO()):   # MiniGrid's chatter
        found = cards(n), rates(n), minigrid(n), workers(n)
    return "\n\n".join([
        "Times are processor time (only with workers, wall time): medians, the best of several rounds in which "
        "the two sides\ntake turns. Games are made as users make them, by `gymnasium.make` with its default wrappers. "
        "The PNG files have 750×1050\npixels with 16 bits a channel and are made for the run; "
        "for Blackjack three are counted, the cards that lie open.",
        table(["cards", "ours", "against", "theirs", "ratio", "target"], found[0]),
        table(["rates", "", "target"], found[1]),
        "Eight MiniGrid environments with images of 32 pixels a cell. \"Theirs\": "
        "MiniGrid's wrapper in gymnasium's `SyncVectorEnv`; \"ours in\ntheirs\": our wrapper in the same; \"ours\": "
        "the `EnvPool`, which also writes the state in words.",
        table(["MiniGrid, steps", "theirs", "ours in theirs", "ours", "ratio, in theirs", "ratio", "target for both"],
              found[2]),
        "Eight environments in this process or shared by two workers, wall time:",
        table(["workers, steps", "in process", "two workers", "ratio"], found[3])])

"""What a collection, an evaluation or a look at frames needs at its peak, in megabytes beyond the start.

    python big_images.py collect|eval|tiny EPISODES FOLDER
"""
import resource
import sys
import gymnasium
import numpy as np
from rl4vlm.tasks import Task, register_task

class Big(gymnasium.Env):
    "Another image of 400 × 600 pixels at every step, for 20 steps."
    action_space, observation_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(1)
    render_mode = "rgb_array"
    def reset(self, seed=None, options=None): self.n, self.seed = 0, seed; return 0, {}
    def step(self, action): self.n += 1; return 0, 1.0, self.n == 20, False, {}
    def render(self):
        image = np.zeros((400, 600, 3), np.uint8)
        image[:8, :8] = np.random.default_rng([self.seed % 2**31, self.n]).integers(0, 256, (8, 8, 3))
        return image

gymnasium.register("Big-v0", Big)

@register_task
class BigImages(Task):
    env_id, env_kwargs, actions, goal = "Big-v0", {}, ["left", "right"], "Look."
    def make_env(self): return Big()
    def text(self, observation, info): return "an image"


def peak()->float: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

if __name__ == "__main__":
    what, episodes, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    from rl4vlm.collect import collect
    from rl4vlm.config import CollectConfig
    from rl4vlm.evaluate import evaluate
    from rl4vlm.rollout import RandomActor
    from rl4vlm.store import EpisodeStore
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import sample_frames
    before = peak()
    if what == "collect": collect(CollectConfig(task="BigImages", actor="random", episodes=episodes,
                                                rollout=dict(envs=4), shard_episodes=episodes, out=folder))
    if what == "eval":
        evaluate("BigImages", RandomActor(make_task("BigImages")), range(episodes), envs=4, store=EpisodeStore(folder))
    if what == "tiny": sample_frames(make_task("BigImages"), episodes)
    print(round(peak() - before))

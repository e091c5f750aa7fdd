"A task whose environments start processes and forget them: one beside them and one in a session of its own."
import subprocess
from pathlib import Path
import gymnasium
from rl4vlm.envs.cards import NumberLine

class Forgetful(gymnasium.Wrapper):
    def __init__(self, env, notes): super().__init__(env); self.notes = notes
    def reset(self, **kwargs):
        for session in (False, True):
            (Path(self.notes)/str(subprocess.Popen(["sleep", "1000"], start_new_session=session).pid)).touch()
        return self.env.reset(**kwargs)


class Starting(NumberLine):
    notes = ""
    def make_env(self): return Forgetful(super().make_env(), self.notes)

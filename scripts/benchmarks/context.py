"""An episode as a conversation, learned from in one pass, against each turn by itself with all that came before it.

The tiny model scores answers of an episode of 4, 8 and 16 turns (frames of NumberLine), with gradients: once with all
turns in one row, once with a row for each turn. Tokens read, and processor time, the best of some rounds in which the
two sides take turns. Beside them, the same turns asked one by one with nothing quoted (`per_turn`).
"""
import tempfile

TITLE = "Conversations in one pass"


def episode(policy, context, turns):
    "Prompts and answers of an episode of so many turns."
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import sample_frames
    from rl4vlm.types import PastTurn
    task, past, found = make_task("NumberLine", context=context), [], []
    for frame in sample_frames(task, 60)[:turns]:
        said = task.answer("+", frame.info)
        found.append((policy.encode(*task.conversation(frame, past)), policy.answer_ids(said)))
        past.append(PastTurn(frame, said, "+", 0.0))
    return found


def run(options):
    from families import best
    from rl4vlm.policy import VLMPolicy
    from rl4vlm.tasks import make_task
    from rl4vlm.tiny import build_tiny, frame_texts, sample_frames
    task = make_task("NumberLine")
    lines = ["| turns | tokens, one question a turn | tokens, turn by turn | tokens, one pass | time, turn by turn "
             "| time, one pass | ratio |", "| ---: " * 7 + "|"]
    with tempfile.TemporaryDirectory() as top:
        policy = VLMPolicy.load(build_tiny(top, texts=frame_texts(task, sample_frames(task, 20))),
                                device=options.device, dtype="float32")
        def learn(batches):
            before = policy.tokens_read
            for batch in batches: policy.score(*zip(*batch)).logprobs.sum().backward()
            return policy.tokens_read - before
        for turns in (4, 8, 16):
            single, talk = ([[t] for t in episode(policy, c, turns)] for c in ("per_turn", "concat"))
            whole = [[t for [t] in talk]]
            read = [learn(single), learn(talk), learn(whole)]
            apart, together = best(options.repeats, lambda: learn(talk), lambda: learn(whole))
            lines.append(f"| {turns} | {read[0]} | {read[1]} | {read[2]} | {apart:.2f} s | {together:.2f} s "
                         f"| {apart / together:.1f}× |")
    return "\n".join(lines)

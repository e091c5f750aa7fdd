"""A stand-in for vLLM's server: the same addresses, the answers of this project's own sampler, and manners that can be
chosen.

In a test: `with FakeVLLM(policy) as fake:`, and `fake.moods` says what the next answers are like. As a program it takes
the options of vLLM's server: `python fake_vllm.py --model FOLDER --port N`; FAKE_VLLM_DIES=v1 has it die in the middle
of the answers by version 1 of the weights, once (FAKE_VLLM_NOTE is the file that remembers it).
"""
import argparse
import base64
import io
import json
import os
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np

LOADING = threading.Lock()   # of the process: transformers cannot load in two threads at once

class FakeVLLM:
    def __init__(self, policy, port=0, adapters=True):
        self.policy, self.lock, self.takes_adapters = policy, threading.Lock(), adapters
        # of the next answers; paths in their order; requests for answers
        self.moods, self.calls, self.bodies = [], [], []
        self.version, self.loaded, self.paused, self.answers = "default", {}, False, Counter()
        self.on_answer = lambda: None
        fake = self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *a): pass
            def do_GET(self): self.reply(None)
            def do_POST(self): self.reply(json.loads(self.rfile.read(int(self.headers["content-length"])) or "{}"))
            def reply(self, body):
                try: status, said = fake.handle(self.path, body)
                except ConnectionAbortedError: return self.connection.close()
                except Exception as e: status, said = 500, dict(error=dict(message=f"{type(e).__name__}: {e}"))
                raw = said if isinstance(said, bytes) else json.dumps(said).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError: pass   # it is too late for that answer
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler); self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error): self.server.shutdown(); self.server.server_close()

    def handle(self, path, body):
        path = path.partition("?")[0]
        self.calls.append(path)
        if path == "/inference/v1/generate": return self.generate(body)
        if path == "/v1/load_lora_adapter": return self.load_adapter(body)
        if path == "/v1/unload_lora_adapter":
            assert Path(self.loaded[body["lora_name"]]).exists(), "its folder was deleted before it was unloaded"
            with self.lock: self.loaded.pop(body["lora_name"]); self.policy.model.delete_adapter(body["lora_name"])
            return 200, b"Success"
        if path == "/collective_rpc" and body["method"] == "reload_weights":
            return self.reload(body["kwargs"]["weights_path"])
        if path == "/update_weight_version": self.version = body["new_version"]
        if path in ("/pause", "/resume"): self.paused = path == "/pause"
        models = [dict(id="rl4vlm", parent=None), *(dict(id=n, parent="rl4vlm") for n in self.loaded)]
        known = {"/health": {}, "/version": dict(version="0.32.0"), "/weight_info": dict(weight_version=self.version),
                 "/pause": {}, "/resume": {}, "/v1/models": dict(data=models), "/collective_rpc": {},
                 "/update_weight_version": {}, "/reset_prefix_cache": {}, "/reset_mm_cache": {},
                 "/reset_encoder_cache": {}}
        return (200, known[path]) if path in known else (404, dict(error=dict(message="Not Found")))

    def load_adapter(self, body):
        if not self.takes_adapters: return 404, dict(detail="Not Found")
        if not Path(body["lora_path"]).exists():
            return 404, dict(error=dict(message=f"No adapter found for {body['lora_path']}"))
        from peft import PeftModel
        with self.lock:
            if isinstance(self.policy.model, PeftModel):
                self.policy.model.load_adapter(body["lora_path"], body["lora_name"])
            else:
                self.policy.model = PeftModel.from_pretrained(
                    self.policy.model, body["lora_path"], adapter_name=body["lora_name"]).eval()
            self.loaded[body["lora_name"]] = body["lora_path"]
            self.forget()
        return 200, b"Success"

    def reload(self, folder):
        if "no reload" in self.moods:
            self.moods.remove("no reload")
            return 500, dict(error=dict(message="weights on meta"))
        assert self.paused, "the server was not paused"
        from rl4vlm.models import fill_model
        with LOADING, self.lock: fill_model(self.policy.model, folder); self.forget()
        return 200, {}

    def forget(self): self.policy._features.clear(); self.policy._features.used = 0

    def generate(self, body):
        probe = not body.get("content_parts")
        mood = "" if probe or not self.moods else self.moods.pop(0)
        if not probe: self.bodies.append(body); self.on_answer()
        if mood.isdigit(): return int(mood), dict(error=dict(message="not now"))
        if mood == "hang": time.sleep(15)
        if mood == "drop": raise ConnectionAbortedError
        if mood == "garbage": return 200, b"{<html>"
        if body["model"] not in ("rl4vlm", *self.loaded):
            return 404, dict(error=dict(message=f"The model `{body['model']}` does not exist."))
        ids, images = self.expanded(body)
        with self.lock:
            out, logprobs, end = ([self.policy.end_id], [0.0], "stop") if probe else self.sample(body, images, ids)
        if mood == "banned": out[0] = self.policy.config.image_token_id
        if mood == "no number": logprobs[0] = None
        if mood == "other prompt": ids = ids[1:]
        version = "someone-v3" if mood == "other weights" else self.version
        if not probe: self.answers[version if not self.loaded else body["model"]] += 1
        choice = dict(index=0, finish_reason="abort" if mood == "abort" else end, token_ids=out,
                      logprobs=dict(content=[dict(token_id=i, logprob=p) for i, p in zip(out, logprobs)]),
                      weight_versions=[dict(version=version, start=0, end=len(out))])
        return 200, dict(model=body["model"], prompt_token_ids=ids, choices=[choice])

    def expanded(self, body):
        "What vLLM makes of one image token each."
        from PIL import Image
        open_ = lambda part: np.array(Image.open(io.BytesIO(base64.b64decode(part["url"].partition(",")[2]))))
        images, ids, token = [open_(p) for p in body.get("content_parts", [])], [], self.policy.config.image_token_id
        waiting = iter(images)
        for i in body["token_ids"]:
            ids += [i] * (self.policy.image_tokens(next(waiting).shape[:2]) if i == token else 1)
        return ids, images

    def sample(self, body, images, ids):
        import torch
        from rl4vlm.generate import generate
        from rl4vlm.images import image_key
        from rl4vlm.types import EncodedPrompt
        how, policy = body["sampling_params"], self.policy
        if self.loaded: policy.model.set_adapter(body["model"]) if body["model"] in self.loaded else None
        grids = [policy.pixels(i, image_key(i)).get("image_grid_thw") for i in images]
        positions = policy._positions(torch.tensor([ids]), torch.cat(grids) if grids and grids[0] is not None else None)
        prompt = EncodedPrompt(np.array(ids), positions, images, tuple(map(image_key, images)))
        allowed, policy.allowed = policy.allowed.clone(), policy.allowed
        forbidden = {str(i) for i in (~allowed).nonzero()[:, 0].tolist()}
        assert forbidden == set(how["logit_bias"]), "other tokens are forbidden"
        [r] = generate(policy, [prompt], how["max_tokens"], how["temperature"] or 1.0,
                       [how["seed"]] if "seed" in how else None)
        return r.ids.tolist(), r.logprobs.tolist(), "length" if r.cut else "stop"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--port", type=int)
    parser.add_argument("--host")
    options, _ = parser.parse_known_args()
    from rl4vlm.policy import VLMPolicy
    fake = FakeVLLM(VLMPolicy.load(options.model, device="cpu"), options.port)
    dies, note = os.environ.get("FAKE_VLLM_DIES", ""), Path(os.environ.get("FAKE_VLLM_NOTE", "/nonexistent"))
    def perhaps_die():
        if dies and sum(n for label, n in fake.answers.items() if label.endswith(dies)) >= 5 and not note.exists():
            note.write_text("died")
            os._exit(9)
    fake.on_answer = perhaps_die
    fake.server.serve_forever()

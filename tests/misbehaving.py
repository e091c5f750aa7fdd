"A server that speaks OpenAI's protocol badly, with the standard library alone; each test says how."
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Misbehaving:
    "with Misbehaving(['429', 'fine']) as server: ...; the moods are used up in order, the last one stays."
    def __init__(self, moods, text='{"target": 3, "current": 1, "thoughts": "3 is larger", "action": "+"}'):
        self.moods, self.text, self.requests, self.keys = list(moods), text, [], []
        self.at_once, self.most_at_once, self.lock = 0, 0, threading.Lock()

    def __enter__(self):
        outer = self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *args): pass
            def do_POST(self): outer.answer(self)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return self

    def __exit__(self, *error): self.server.shutdown(); self.server.server_close(); self.thread.join()

    def answer(self, handler):
        body = handler.rfile.read(int(handler.headers["content-length"]))
        with self.lock:
            self.requests.append(json.loads(body)); self.keys.append(handler.headers.get("authorization"))
            mood = self.moods.pop(0) if len(self.moods) > 1 else self.moods[0]
            self.at_once += 1; self.most_at_once = max(self.most_at_once, self.at_once)
        try: self.reply(handler, mood)
        except (BrokenPipeError, ConnectionResetError): pass
        finally:
            with self.lock: self.at_once -= 1

    def reply(self, handler, mood):
        choice = dict(index=0, finish_reason="length" if mood == "cut" else "stop",
                      message=dict(role="assistant", content=None if mood == "null" else self.text))
        fine = json.dumps(dict(id="x", object="chat.completion", created=0, model="m",
                               choices=[] if mood == "no choices" else [choice],
                               usage=dict(prompt_tokens=90, completion_tokens=10, total_tokens=100))).encode()
        status, data = 200, b"<html>busy</html>" if mood == "garbage" else fine
        if mood.isdigit():
            key = str(handler.headers.get("authorization")).encode()
            status, data = int(mood), b'{"error": {"message": "no, and your header was %s"}}' % key
        if mood == "hang": time.sleep(1.5)
        if mood == "pause": time.sleep(0.1)
        handler.send_response(status)
        handler.send_header("content-type", "text/html" if mood == "garbage" else "application/json")
        handler.send_header("content-length", str(len(data)))
        if mood == "429": handler.send_header("retry-after", "0.3")
        handler.end_headers()
        if mood == "truncated":
            handler.wfile.write(data[:len(data) // 2])
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(2)
            return
        if mood == "drip":   # alive, but never done
            for byte in data[:40]: handler.wfile.write(bytes([byte])); handler.wfile.flush(); time.sleep(0.1)
            handler.close_connection = True
            return
        handler.wfile.write(data)

"""Stands in for llama-server where a real one cannot be made to fail as wanted: it speaks its protocol, and then
does what `STAND_IN` says. It holds no model, and its times mean nothing.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import sys
import time
from pathlib import Path

EVENTS = 3  # streamed before it hangs or dies
GOOD_REQUESTS = 1  # answered in full before that


class Answers(http.server.BaseHTTPRequestHandler):
    """`/health` and `/completion` of llama-server."""

    asked = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Answers.asked += 1
        self.send_response(200)
        self.end_headers()
        count, prompt = request["n_predict"], len(request["prompt"])
        for n in range(1, count + 1):
            if Answers.asked > GOOD_REQUESTS and n > min(EVENTS, count - 1):
                fail()
            timings = {
                "prompt_n": prompt,
                "cache_n": 0,
                "prompt_ms": 5.0,
                "predicted_n": n,
                "predicted_ms": 1.0 * (n - 1),
            }
            event = {"stop": n == count, "timings": timings}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()


def fail() -> None:
    if os.environ["STAND_IN"] == "die":
        os._exit(7)
    if os.environ["STAND_IN"] == "eat":
        Path(os.environ["GROUP"]).write_text(str(os.getpid()))  # whose limit ends this
        held = []
        while True:
            held.append(b"x" * (16 << 20))
    time.sleep(600)


def main() -> None:
    if "--version" in sys.argv:
        print("version: 1 (a stand-in)")
    elif "--help" in sys.argv:
        print("--fit --load-mode --device")
    elif os.environ["STAND_IN"] == "hang at load":
        print("load_model: loading model 'x'", flush=True)
        time.sleep(600)
    elif os.environ["STAND_IN"] == "port taken":
        print("load_model: loading model 'x'", flush=True)
        with socket.socket() as wanted:
            wanted.bind(("127.0.0.1", int(os.environ["TAKEN_PORT"])))
    else:
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
            print("load_model: loading model 'x'", flush=True)
            print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    main()

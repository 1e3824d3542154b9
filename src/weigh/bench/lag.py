"""How late an event loop reads what has come: written by a thread, read by the loop, as often as a token might come.

Counted from when the thread meant to write: that it woke late itself is the lateness of a busy machine, and the loop's
would have been the same.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from threading import Event, Thread

_EVERY_S = 0.02


class Lag:
    """Measures from `start` to `stop`; `samples_s` are delays from when a socket should be written to reading it."""

    def __init__(self) -> None:
        self.samples_s: list[float] = []
        self._stopped = Event()

    def start(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)
        self._thread = Thread(target=self._write, name="lag of the loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._loop.remove_reader(self._reader)
        self._reader.close()
        self._writer.close()

    def _write(self) -> None:
        draw = random.Random(0)  # at uneven times, so as not to keep step with anything
        while True:
            wait_s = draw.uniform(0.5, 1.5) * _EVERY_S
            intended_s = time.monotonic() + wait_s
            if self._stopped.wait(wait_s):
                return
            self._writer.send(struct.pack("d", intended_s))

    def _read(self) -> None:
        now_s = time.monotonic()
        for (intended_s,) in struct.iter_unpack("d", self._reader.recv(8 << 10)):
            self.samples_s.append(max(0.0, now_s - intended_s))

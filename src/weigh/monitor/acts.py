"""What a guard did: said at once and kept in the store, in a thread that never holds the guard up."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weigh.errors import WeighError
from weigh.monitor.guard import Act, Guard
from weigh.store import Store
from weigh.store.measurement import Event, save_event

LONGEST_S = 5.0  # that the end waits for a disk or a terminal that takes nothing

Said = Callable[[Act], None]


@contextmanager
def guarded_by(guard: Guard | None, said: Said) -> Iterator[None]:
    """The guard at work meanwhile. When it ends, nothing is left paused.

    Args:
        said: is told each act before it is kept, and that it could not be kept.
    """
    if guard is None:
        yield
        return
    acts: queue.SimpleQueue[Act | None] = queue.SimpleQueue()
    teller = threading.Thread(target=_tell_and_keep, args=(acts, said), name="guard's acts", daemon=True)
    guard.said = acts.put
    teller.start()
    guard.start()
    try:
        yield
    finally:
        guard.close()
        acts.put(None)
        teller.join(LONGEST_S)


def _tell_and_keep(acts: queue.SimpleQueue[Act | None], said: Said) -> None:
    while (act := acts.get()) is not None:
        said(act)
        try:
            save_event(Store(), Event(act.when_unix_s, act.kind, act.text, act.details))
        except WeighError as error:
            said(Act(time.time(), "failed", f"this could not be kept: {error.message}", {}))

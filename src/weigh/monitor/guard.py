"""The guard: before memory runs out, it warns, then pauses or stops the processes that were named, and no other.

It watches one or more gauges, each with a limit. Below the limit by a step it warns; at the limit, or when the
present growth would reach it within the next look, it acts. It looks more often the nearer a limit is: no
further apart than memory could be filled up to it. It runs in a thread of its own, so that a slow terminal
never holds it up.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from weigh import units
from weigh.errors import BadInput
from weigh.machine.processes import Process, Tree, is_stopped

FASTEST_S = 0.05
UNREADABLE_S = 0.5
SETTLED_S = 0.5  # while the limit is reached and all is done that can be
MEMBERS_SHARE = 0.002  # of one core, for looking at whom the tree has now
MEMBERS_S = 5.0  # so long may one's parent live and end without it being known to belong
MOST_OF_A_CORE = 0.05  # where looking takes long it is done less often
WARN_SHARE = 0.95  # of the limit
RESUME_SHARE = 0.90
# No faster do programs fill memory here: several threads that write fresh pages reach a few GiB/s.
FILLS_BYTES_PER_S = 4 * units.GIB
GRACE_S = 5.0
# While a process is given time to end, memory may still grow: with half of what was kept free gone, time is up.
LAST_SHARE = 0.5


class OnLimit(StrEnum):
    """What is done at the limit."""

    WARN = "warn"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Limit:
    """A share (0 to 1) of what may be used, or bytes."""

    share: float | None = None
    bytes: int | None = None

    def of(self, usable_bytes: int) -> int:
        """In bytes, and never more than there is."""
        asked = int(usable_bytes * self.share) if self.share is not None else self.bytes
        return usable_bytes if asked is None else min(asked, usable_bytes)

    def __str__(self) -> str:
        return f"{self.share * 100:g} %" if self.share is not None else units.gib(self.bytes or 0)


def parse_limit(text: str) -> Limit:
    """``90%`` or ``20GiB``.

    Raises:
        BadInput: it is neither, or not above nought and at most 100 %.
    """
    if not text.strip().endswith("%"):
        size = units.parse_bytes(text)
        if size <= 0:
            raise BadInput(f"`{text}` leaves nothing to use")
        return Limit(bytes=size)
    try:
        share = float(text.strip()[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise BadInput(f"`{text}` is not a share of memory", hint="write it like `90%` or `20GiB`")
    return Limit(share=share)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A gauge as it stands.

    Attributes:
        grows_bytes_per_s: since the look before; 0 for the first.
        next_s: when to look again.
    """

    used_bytes: int
    usable_bytes: int
    limit_bytes: int
    grows_bytes_per_s: float
    next_s: float

    @property
    def reached(self) -> bool:
        return self.used_bytes >= self.limit_bytes

    @property
    def about_to_be(self) -> bool:
        """Whether at this growth it is reached before the next look, were that as soon as can be."""
        return self.used_bytes + self.grows_bytes_per_s * 2 * FASTEST_S >= self.limit_bytes

    @property
    def near(self) -> bool:
        return self.used_bytes >= self.limit_bytes * WARN_SHARE

    @property
    def clear(self) -> bool:
        return self.used_bytes < self.limit_bytes * RESUME_SHARE

    @property
    def desperate(self) -> bool:
        kept_free = self.usable_bytes - self.limit_bytes
        return self.used_bytes >= self.limit_bytes + kept_free * LAST_SHARE and kept_free > 0


class Gauge:
    """One quantity under a limit.

    Args:
        what: its name in sentences.
        read: (used, usable) bytes; None when it cannot be read just now.
        interval_s: between two looks when the limit is far.
    """

    def __init__(
        self,
        what: str,
        read: Callable[[], tuple[int, int] | None],
        limit: Limit,
        on_limit: OnLimit,
        interval_s: float,
    ) -> None:
        self.what, self.limit, self.on_limit = what, limit, on_limit
        self.warned = self.warned_over = False
        self._read, self._interval_s = read, interval_s
        self._before: tuple[float, int] | None = None

    def look(self, now_s: float) -> Outlook | None:
        found = self._read()
        if found is None:
            return None
        used, usable = found
        before, self._before = self._before, (now_s, used)
        growth = 0.0
        if before is not None and now_s > before[0]:
            growth = min(FILLS_BYTES_PER_S, max(0.0, (used - before[1]) / (now_s - before[0])))
        limit = self.limit.of(usable)
        soonest_s = max(0, limit - used) / FILLS_BYTES_PER_S
        return Outlook(used, usable, limit, growth, min(self._interval_s, max(FASTEST_S, soonest_s)))

    def told(self, outlook: Outlook) -> str:
        share = outlook.used_bytes / outlook.usable_bytes if outlook.usable_bytes else 1.0
        grows = f", growing by {units.gib(outlook.grows_bytes_per_s)}/s"
        of = f" ({share:.0%} of {units.gib(outlook.usable_bytes)})" if self.limit.share is not None else ""
        return (
            f"{self.what} at {units.gib(outlook.used_bytes)}{of}, limit {self.limit}"
            f"{grows if outlook.grows_bytes_per_s > units.MIB else ''}"
        )


@dataclass(frozen=True, slots=True)
class Act:
    """Something the guard did: `warned`, `paused`, `resumed`, `stopped`, `killed` or `failed`, and why."""

    when_unix_s: float
    kind: str
    text: str
    details: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _next_s(gauge: Gauge, outlook: Outlook) -> float:
    return max(outlook.next_s, SETTLED_S) if gauge.warned_over and outlook.reached else outlook.next_s


class Guard:
    """Looks after gauges in a thread, from `start` to `close`.

    Args:
        tree: the processes it may pause and stop; None for none.
        what: their name in sentences.
        grace_s: between SIGTERM and SIGKILL.

    Attributes:
        said: is told each act once it is done, in the guard's thread, which it must not hold up.
        acts: all it did so far.
        stopped: whether it has stopped the processes, at whatever time.
    """

    def __init__(
        self,
        gauges: Sequence[Gauge],
        tree: Tree | None,
        *,
        what: str = "",
        grace_s: float = GRACE_S,
    ) -> None:
        self._gauges, self._tree, self._what = gauges, tree, what
        self.said: Callable[[Act], None] = lambda _act: None
        self._grace_s = grace_s
        self._lock = threading.RLock()
        self._paused: set[Process] = set()
        self._may_pause = True
        self._kill_at_s: float | None = None
        self._killed = self._refused = False
        self._members_at_s = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.acts: list[Act] = []
        self.stopped = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; what it has paused goes on, which is said."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.let_go("the guard ends")

    def let_go(self, why: str) -> None:
        """Resume what is paused, and pause nothing from now on: someone wants it to end."""
        with self._lock:
            self._may_pause = False
            self._resume(why)

    @property
    def paused(self) -> bool:
        return bool(self._paused)

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                began_s = time.thread_time()
                next_s = self.look(time.monotonic())
                self._over.wait(max(next_s, (time.thread_time() - began_s) / MOST_OF_A_CORE))
        except Exception as error:  # nothing may be left paused by a guard that is no more
            self._tell("failed", f"the guard broke: {type(error).__name__}: {error}")
            self.let_go("the guard broke")

    def look(self, now_s: float) -> float:
        """Look at all gauges and do what is due; seconds until the next look."""
        if self._tree is not None and now_s >= self._members_at_s:
            began_s = time.thread_time()
            self._tree.members()
            self._members_at_s = now_s + max(MEMBERS_S, (time.thread_time() - began_s) / MEMBERS_SHARE)
        looks = [(gauge, gauge.look(now_s)) for gauge in self._gauges]
        found = [(gauge, outlook) for gauge, outlook in looks if outlook is not None]
        if not found:
            with self._lock:
                if self._kill_at_s is not None:
                    self._see_it_end(now_s, desperate=False)
            return UNREADABLE_S
        with self._lock:
            self._do_what_is_due(found, now_s)
        return FASTEST_S if self._kill_at_s is not None else min(_next_s(*one) for one in found)

    def _do_what_is_due(self, found: Sequence[tuple[Gauge, Outlook]], now_s: float) -> None:
        over = [(gauge, outlook) for gauge, outlook in found if outlook.reached or outlook.about_to_be]
        if self._kill_at_s is not None:
            self._see_it_end(now_s, desperate=any(outlook.desperate for _, outlook in found))
        for gauge, outlook in over:
            self._act(gauge, outlook, now_s)
        for gauge, outlook in found:
            if outlook.clear:
                gauge.warned = gauge.warned_over = False
            elif outlook.near and not gauge.warned and (gauge, outlook) not in over:
                gauge.warned = True
                self._tell("warned", gauge.told(outlook), gauge, outlook)
        if self._paused and all(outlook.clear for _, outlook in found):
            self._resume(found[0][0].told(found[0][1]))

    # --- what it does ------------------------------------------------------------------------------

    def _act(self, gauge: Gauge, outlook: Outlook, now_s: float) -> None:
        acts = False
        if self._tree is not None and self._kill_at_s is None:
            if gauge.on_limit is OnLimit.PAUSE and self._may_pause:
                acts = self._pause(self._tree, gauge, outlook)
            elif gauge.on_limit is OnLimit.STOP:
                acts = self._stop(self._tree, gauge, outlook, now_s)
        if not acts and not gauge.warned_over and self._kill_at_s is None and not self._paused:
            self._tell("warned", f"{gauge.told(outlook)}: the limit is reached", gauge, outlook)
        gauge.warned = gauge.warned_over = True

    def _pause(self, tree: Tree, gauge: Gauge, outlook: Outlook) -> bool:
        """Pause whoever is awake, those too whom someone else has resumed meanwhile."""
        paused = tree.signal(signal.SIGSTOP, lambda process: not is_stopped(process))
        fresh = [process for process in paused if process not in self._paused]
        self._paused |= set(fresh)
        if fresh:
            what = f"{gauge.told(outlook)}: paused {self._named(fresh)}"
            self._tell("paused", what, gauge, outlook, fresh)
        elif not paused:
            self._say_if_refused(tree, gauge, outlook)
        return bool(fresh)

    def _resume(self, why: str) -> None:
        if not self._paused or self._tree is None:
            return
        paused, self._paused = self._paused, set()
        resumed = self._tree.signal(signal.SIGCONT, paused.__contains__)
        if resumed:
            self._tell("resumed", f"{why}: resumed {self._named(resumed)}", members=resumed)

    def _stop(self, tree: Tree, gauge: Gauge, outlook: Outlook, now_s: float) -> bool:
        stopping = tree.signal(signal.SIGTERM)
        if not stopping:
            self._say_if_refused(tree, gauge, outlook)
            return False
        tree.signal(signal.SIGCONT)  # one that is paused would not hear it
        self._paused = set()
        self.stopped, self._killed = True, False
        self._kill_at_s = now_s + self._grace_s
        what = f"{gauge.told(outlook)}: stopped {self._named(stopping)}"
        self._tell("stopped", what, gauge, outlook, stopping)
        return True

    def _see_it_end(self, now_s: float, *, desperate: bool) -> None:
        assert self._tree is not None
        assert self._kill_at_s is not None
        if not self._tree.members():
            self._kill_at_s = None
        elif now_s >= self._kill_at_s or desperate:
            killed = self._tree.signal(signal.SIGKILL)
            if killed and not self._killed:
                self._killed = True
                why = "memory grew on" if desperate else f"still there after {units.seconds(self._grace_s)}"
                self._tell("killed", f"{why}: killed {self._named(killed)}", members=killed)

    def _say_if_refused(self, tree: Tree, gauge: Gauge, outlook: Outlook) -> None:
        left = [process for process in tree.members() if not is_stopped(process)]
        if left and not self._refused:
            self._refused = True
            what = f"{gauge.told(outlook)}: {self._named(left)} may not be touched by this user"
            self._tell("failed", what, gauge, outlook, left)

    # --- what it says ------------------------------------------------------------------------------

    def _named(self, members: Sequence[Process]) -> str:
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        return f"{self._what} (process {members[0].pid}{more})"

    def _tell(
        self,
        kind: str,
        text: str,
        gauge: Gauge | None = None,
        outlook: Outlook | None = None,
        members: Sequence[Process] = (),
    ) -> None:
        details: dict[str, Any] = {"what": self._what, "pids": [process.pid for process in members]}
        if gauge is not None:
            details |= {"gauge": gauge.what, "limit": str(gauge.limit), "on_limit": str(gauge.on_limit)}
        if outlook is not None:
            details |= {
                "used_bytes": outlook.used_bytes,
                "usable_bytes": outlook.usable_bytes,
                "limit_bytes": outlook.limit_bytes,
                "grows_bytes_per_s": round(outlook.grows_bytes_per_s),
            }
        act = Act(time.time(), kind, text, details)
        self.acts.append(act)
        self.said(act)

"""What tests of the watch and the guard run: real processes, and control groups of their own."""

from __future__ import annotations

from tests.machine.conftest import control_group, tree
from tests.running import start

__all__ = ["control_group", "start", "tree"]

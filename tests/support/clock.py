"""Virtual time for tests; see `bridge.sandbox.virtual`."""

from __future__ import annotations

from bridge.sandbox.virtual import WALL_START, VirtualClock, run_virtual

__all__ = ["WALL_START", "VirtualClock", "run_virtual"]

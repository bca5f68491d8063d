"""Lets the tests of this folder import the helpers beside them, and the small models of tests/graph_passes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "graph_passes")]

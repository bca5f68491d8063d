"""Lets the tests of this folder import the small models of tests/graph_passes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "graph_passes"))

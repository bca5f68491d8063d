"""Lets the tests of this folder import `small_models`, and deploys one model for many of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from small_models import Deployed, batch, small_net


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Deployed:
    """`small_net`, deployed: a scope with BN, a scope with bias, and a pool without scope."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return Deployed(small_net, ["out"], folder, feeds=[batch(0), batch(1)])

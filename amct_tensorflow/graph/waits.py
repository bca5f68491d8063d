"""Which ops order nothing for those that wait for them by a control edge."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import tensorflow as tf

_PASSIVE = ("Const", "Placeholder", "Identity", "NoOp")


def idle_ops(kinds: Mapping[str, str], needs: Mapping[str, Sequence[str]]) -> set[str]:
    """Returns the names of constants and placeholders, and of Identity and NoOp ops that only such ops lead to.

    TF2 freezes ``with control_dependencies(reads)`` into edges from these, and inlines functions with a NoOp that waits
    for their inputs; they order nothing, but would keep float weights in a file that nobody uses any more.

    Args:
        kinds: op name -> type.
        needs: op name -> names of the ops that it reads or waits for.
    """
    missing = {name: len(needs[name]) for name, kind in kinds.items() if kind in _PASSIVE}
    users: dict[str, list[str]] = {}
    for name in missing:
        for before in needs[name]:
            users.setdefault(before, []).append(name)
    idle: set[str] = set()
    ready = deque(name for name, count in missing.items() if count == 0)
    while ready:
        name = ready.popleft()
        idle.add(name)
        for user in users.get(name, ()):
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    return idle


def waits_that_order(ops: Sequence[tf.Operation]) -> dict[str, list[str]]:
    """Returns the names of the ops that each op of a graph waits for by a control edge that orders something."""
    waits = {op.name: [before.name for before in op.control_inputs] for op in ops}
    needs = {op.name: [*waits[op.name], *(used.op.name for used in op.inputs)] for op in ops}
    idle = idle_ops({op.name: op.type for op in ops}, needs)
    return {name: [other for other in before if other not in idle] for name, before in waits.items()}

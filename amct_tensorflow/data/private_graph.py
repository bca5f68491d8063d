"""Running a tf.data pipeline apart from whatever graph or eager mode the caller is in."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1


def iterate(build: Callable[[], tf.data.Dataset], count: int) -> Generator[np.ndarray, None, None]:
    """Yields the first `count` elements of the dataset that `build` makes, on the CPU.

    It must have so many: TensorFlow takes seconds to compose the error of a session that runs out of data.
    """
    graph = tf.Graph()
    with graph.as_default():
        iterator = tf1.data.make_initializable_iterator(build())
        element = iterator.get_next()
    session = tf1.Session(graph=graph, config=tf1.ConfigProto(device_count={"GPU": 0}))
    try:
        session.run(iterator.initializer)
        for _ in range(count):
            yield session.run(element)
    finally:
        session.close()

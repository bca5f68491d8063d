"""Reading, matching, rewiring and saving tf.Graph: the only room that touches TensorFlow's private API."""

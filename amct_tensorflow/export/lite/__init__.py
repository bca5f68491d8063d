"""TFLite models: TensorFlow's converter makes them, and what it cannot be told is done to the graph that it gives."""

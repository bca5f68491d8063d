"""ONNX models: tf2onnx makes them, and what it cannot do is done to the graph that it gives."""

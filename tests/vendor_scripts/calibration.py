"""The calls of the vendor's calibration sample, in its order and with its keywords, on another model and data."""

import os

import numpy as np
import tensorflow as tf

import amct_tensorflow as amct

amct.set_logging_level(print_level="info", save_level="info")

OUTPUTS = os.path.realpath("./outputs/calibration")
INPUT_NAME = "input"
OUTPUT_NAME = "MobilenetV2/Predictions/Softmax"


def main():
    model_path = os.path.realpath("./model/model.pb")
    with tf.io.gfile.GFile(model_path, mode="rb") as model:
        graph_def = tf.compat.v1.GraphDef()
        graph_def.ParseFromString(model.read())

    # Into the default graph, with eager mode on.
    tf.import_graph_def(graph_def, name="")
    graph = tf.compat.v1.get_default_graph()
    input_tensor = graph.get_tensor_by_name(INPUT_NAME + ":0")
    output_tensor = graph.get_tensor_by_name(OUTPUT_NAME + ":0")

    images = np.load("./data/images.npy")
    image_test = images[:1]
    with tf.compat.v1.Session() as session:
        origin_prediction = session.run(output_tensor, feed_dict={input_tensor: image_test})

    config_path = os.path.join(OUTPUTS, "config.json")
    amct.create_quant_config(config_file=config_path, graph=graph, skip_layers=[], batch_num=1)

    record_path = os.path.join(OUTPUTS, "record.txt")
    amct.quantize_model(graph=graph, config_file=config_path, record_file=record_path)

    with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(output_tensor, feed_dict={input_tensor: images})

    amct.save_model(
        pb_model=model_path, outputs=[OUTPUT_NAME], record_file=record_path, save_path=os.path.join(OUTPUTS, "model")
    )

    with tf.io.gfile.GFile(name=os.path.join(OUTPUTS, "model_quantized.pb"), mode="rb") as model:
        graph_def_reload = tf.compat.v1.GraphDef()
        graph_def_reload.ParseFromString(model.read())

    graph_reload = tf.Graph()
    with graph_reload.as_default():
        tf.import_graph_def(graph_def=graph_def_reload, name="")
    input_tensor = graph_reload.get_tensor_by_name(INPUT_NAME + ":0")
    output_tensor = graph_reload.get_tensor_by_name(OUTPUT_NAME + ":0")
    with tf.compat.v1.Session(graph=graph_reload) as session:
        fakequant_prediction = session.run(output_tensor, feed_dict={input_tensor: image_test})

    print("Origin Model Prediction:", origin_prediction.argmax(), round(float(origin_prediction.max()), 3))
    print("Quantized Model Prediction:", fakequant_prediction.argmax(), round(float(fakequant_prediction.max()), 3))


if __name__ == "__main__":
    main()

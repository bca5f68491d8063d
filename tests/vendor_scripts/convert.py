"""The calls of the vendor's two conversion samples: from a record, and from a model of quantization-aware training."""

import os
import sys

import numpy as np
import tensorflow as tf

import amct_tensorflow as amct
from amct_tensorflow.utils.log import LOGGER

amct.set_logging_level(print_level="info", save_level="info")

OUTPUTS = os.path.realpath("./outputs/convert")


def predict(graph, output_name, images):
    input_tensor = graph.get_tensor_by_name("input:0")
    output_tensor = graph.get_tensor_by_name(output_name + ":0")
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(output_tensor, feed_dict={input_tensor: images})


def read(path):
    with tf.io.gfile.GFile(name=path, mode="rb") as model:
        graph_def = tf.compat.v1.GraphDef()
        graph_def.ParseFromString(model.read())
    return graph_def


def main(model_path, output_name, record_file):
    images = np.load("./data/images.npy")
    tf.import_graph_def(read(model_path), name="")
    origin_prediction = predict(tf.compat.v1.get_default_graph(), output_name, images)

    save_path = os.path.join(OUTPUTS, "model")
    if record_file:
        amct.convert_model(pb_model=model_path, outputs=[output_name], record_file=record_file, save_path=save_path)
    else:
        amct.convert_qat_model(
            pb_model=model_path,
            outputs=[output_name],
            save_path=save_path,
            record_file=os.path.join(OUTPUTS, "record.txt"),
        )
    LOGGER.push_warning_message("converted", module_name="sample")

    graph_reload = tf.Graph()
    with graph_reload.as_default():
        tf.import_graph_def(graph_def=read(save_path + "_quantized.pb"), name="")
    convert_prediction = predict(graph_reload, output_name, images)
    print("agreement:", np.mean(origin_prediction.argmax(1) == convert_prediction.argmax(1)))


if __name__ == "__main__":
    main(*sys.argv[1:])

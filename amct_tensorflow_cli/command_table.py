"""The table of commands."""

from __future__ import annotations

import dataclasses

from absl import flags

from amct_tensorflow_cli.commands import Command, Option
from amct_tensorflow_cli.values import UsageError

_EXCLUSIVE = {
    "evaluator": (
        *("data_dir", "input_shape", "data_types", "image_size", "mean", "std", "channel_order"),
        "compression_optimize_conf",
    ),
    "compression_optimize_conf": ("data_dir", "input_shape", "data_types", "calibration_config"),
}
_EXCLUSIVE_WHY = {
    "evaluator": "an evaluator feeds the data itself",
    "compression_optimize_conf": "that file names data, shapes and configuration",
}


def _check_calibration(values: flags.FlagValues) -> None:
    for source, excluded in _EXCLUSIVE.items():
        both = [name for name in excluded if values[source].value is not None and values[name].present]
        if both:
            raise UsageError(f"--{source} and --{both[0]} cannot be given together: {_EXCLUSIVE_WHY[source]}")
    if not (values.data_dir or values.evaluator or values.compression_optimize_conf):
        raise UsageError(
            "--data_dir is missing: name the folder with calibration data, or give --evaluator or "
            "--compression_optimize_conf"
        )


def _check_export(values: flags.FlagValues) -> None:
    for option, file_format in (("opset", "onnx"), ("integer_io", "tflite")):
        if values[option].present and values.format != file_format:
            raise UsageError(f"--{option} is for --format {file_format}: leave it out")


_ALWAYS = (
    Option("help", "", "print this", kind="switch", short="h"),
    Option("verbose", "", "print every log line, TensorFlow's too, and tracebacks", kind="switch", short="v"),
)
_MODEL = Option(
    "model",
    "PATH",
    "the model: a frozen .pb or .pbtxt, a SavedModel folder, or a .keras or .h5 file",
    required=True,
)
_SAVE_PATH = Option("save_path", "PATH", "folder and prefix of the results", required=True)
_SIGNATURE = Option("signature", "NAME", "the signature of a SavedModel. Default: serving_default")
_OUTPUTS = Option(
    "outputs",
    "NAMES",
    'its outputs, ops or tensors: "a:0;b:0". May be left out if the model has only one op that nothing consumes',
)
_OUTPUTS_TO_INSPECT = Option(
    "outputs", "NAMES", 'its outputs, ops or tensors: "a:0;b:0". Default: all ops that nothing consumes'
)
_DATA = (
    Option(
        "data_dir",
        "DIRS",
        'a folder or file for each input, "dir1;dir2": images (also in subfolders, taken evenly from all), '
        ".npy or .npz arrays of samples, TFRecords of images, or .bin files of one or more batches each",
    ),
    Option(
        "input_shape",
        "SHAPES",
        'inputs and shapes, the batch size first: "name:32,224,224,3;name2:32,10". May be left out if the '
        "model knows the shapes; the batch size then is 32, or less for fewer samples",
    ),
    Option(
        "data_types",
        "TYPES",
        'types of the values in .bin files, "float32;int8". Default: those of the inputs',
        alias="data_type",
    ),
)
_IMAGES = (
    Option("image_size", "H,W", "size that images are resized to. Default: that of the input"),
    Option("mean", "M", "subtracted from pixels of 0 to 255: one number, or one per channel. Default: 0"),
    Option(
        "std",
        "S",
        "then divides them: one number, or one per channel. Default: 1. With 127.5 for mean and std, pixels become "
        "-1 to 1; with 255 for std alone, 0 to 1",
    ),
    Option(
        "channel_order",
        "RGB|BGR",
        "order of the channels that the model takes. Default: RGB",
        kind="choice",
        choices=("RGB", "BGR"),
    ),
)

CALIBRATION = Command(
    name="calibration",
    summary="quantize a float model with a few batches of real data",
    description=(
        "Finds the scales of a float model on batch_num batches, and writes\n"
        "  <save_path>_quantized.pb  the int8 model\n"
        "  <save_path>_quant.json    which float ops each of its ops stands for\n"
        "  <save_path>_config.json   what was quantized and how\n"
        "  <save_path>_record.txt    the scales; the command convert takes them, too\n"
        "  <save_path>_record.txt.safetensors  how the weights are rounded, for save_model\n"
        "16 to 32 samples in all are enough, prepared exactly as for inference."
    ),
    example=(
        "  amct_tensorflow calibration --model mobilenet.pb --save_path out/mobilenet \\\n"
        "      --data_dir my_images --mean 127.5 --std 127.5\n"
        "  amct_tensorflow calibration --model model.pb --save_path out/model --outputs logits:0 \\\n"
        '      --input_shape "a:8,16,16;b:8,10" --data_dir "bins/a;bins/b" --data_types "float32;int32" --batch_num 4'
    ),
    groups=(
        (
            "model",
            (
                _MODEL,
                _SAVE_PATH,
                _OUTPUTS,
                _SIGNATURE,
                Option(
                    "target",
                    "NAME",
                    "what will run the int8 model: ascend, or onnxruntime, for which additions behind convolutions are "
                    "int8, too. Default: that of --calibration_config, or ascend",
                    kind="choice",
                    choices=("ascend", "onnxruntime"),
                ),
            ),
        ),
        (
            "calibration data",
            (
                *_DATA,
                Option(
                    "batch_num", "N", "number of batches. Default: that of --calibration_config, or 1", kind="count"
                ),
            ),
        ),
        ("images", _IMAGES),
        (
            "other ways",
            (
                Option(
                    "evaluator",
                    "FILE",
                    "a Python file that feeds the data itself: its object customize_evaluator has "
                    "calibration(graph, outputs), which runs the outputs batch_num times in a session",
                ),
                Option("calibration_config", "FILE", "a simplified configuration (.cfg): which layers, and how"),
                Option("compression_optimize_conf", "FILE", "the chip compiler's file with data, shapes and .cfg"),
            ),
        ),
        ("always", _ALWAYS),
    ),
    module="amct_tensorflow_cli.calibration",
    check=_check_calibration,
)

COMPARE = Command(
    name="compare",
    summary="show where an int8 model loses accuracy, layer by layer",
    description=(
        "Runs a float model and its int8 model on the same data and prints how far the result of each quantized layer\n"
        "is from that of the float model: the error that the layer itself makes (own), and that of all up to it\n"
        "(accumulated); the worst first. Then the outputs, with how often the top-1 is the same."
    ),
    example=(
        "  amct_tensorflow compare --model mobilenet.pb --quantized out/mobilenet_quantized.pb \\\n"
        "      --data_dir my_images --mean 127.5 --std 127.5"
    ),
    groups=(
        (
            "model",
            (
                dataclasses.replace(_MODEL, help=f"{_MODEL.help}; or another int8 model of it"),
                Option(
                    "quantized",
                    "PATH",
                    "the int8 model: <save_path>_quantized.pb, with its <save_path>_quant.json beside it",
                    required=True,
                ),
                _OUTPUTS_TO_INSPECT,
                _SIGNATURE,
                Option("json", "FILE", "write the figures to this file, too"),
            ),
        ),
        (
            "data",
            (
                dataclasses.replace(_DATA[0], required=True),
                *_DATA[1:],
                Option("batch_num", "N", "number of batches. Default: as many as there are", kind="count"),
            ),
        ),
        ("images", _IMAGES),
        ("always", _ALWAYS),
    ),
    module="amct_tensorflow_cli.compare",
)

CONVERT = Command(
    name="convert",
    summary="make the int8 model of a model whose scales are known",
    description=(
        "Without --record_file the model was trained with fake quantization (FakeQuantWithMinMaxVars nodes): their\n"
        "ranges become the scales, which are also written to <save_path>_record.txt. With --record_file the scales\n"
        "of that file are applied to a float model. Writes <save_path>_quantized.pb and <save_path>_quant.json."
    ),
    example=(
        "  amct_tensorflow convert --model trained_with_fake_quant.pb --save_path out/model\n"
        "  amct_tensorflow convert --model model.pb --record_file out/model_record.txt --save_path out/again"
    ),
    groups=(
        (
            "model",
            (
                _MODEL,
                _SAVE_PATH,
                _OUTPUTS,
                _SIGNATURE,
                Option("record_file", "FILE", "scales and offsets for a float model"),
            ),
        ),
        ("always", _ALWAYS),
    ),
    module="amct_tensorflow_cli.convert",
)

INSPECT = Command(
    name="inspect",
    summary="show what can be quantized in a model, and the options to copy",
    description=(
        "Lists the layers of a model: which can be quantized, why others cannot, and which batch norms are folded\n"
        "into them. Ends with the --outputs and --input_shape of the command calibration, or with where an int8 model\n"
        "can run. Writes nothing."
    ),
    example=(
        "  amct_tensorflow inspect --model model.pb\n  amct_tensorflow inspect --model out/model_quantized.pb --time"
    ),
    groups=(
        (
            "model",
            (
                _MODEL,
                _OUTPUTS_TO_INSPECT,
                _SIGNATURE,
                Option(
                    "time",
                    "",
                    "run an int8 model, and its float model, in all runtimes that are installed, and print how long "
                    "batches of 1 and 32 take",
                    kind="switch",
                ),
            ),
        ),
        ("always", _ALWAYS),
    ),
    module="amct_tensorflow_cli.inspect",
)

EXPORT = Command(
    name="export",
    summary="give an int8 model to a runtime with int8 kernels",
    description=(
        "Writes <save_path>.onnx for onnxruntime, <save_path>.tflite for LiteRT, or <save_path>.pb for TensorFlow\n"
        "on x86, with the scales, integer weights and biases of the int8 model, and says which layers the runtime\n"
        "computes in int8, and why not the others. A model that was calibrated with --target onnxruntime has more."
    ),
    example=(
        "  amct_tensorflow export --model out/model_quantized.pb --save_path out/model --format onnx\n"
        "  amct_tensorflow export --model out/model_quantized.pb --save_path out/model --format tflite"
    ),
    groups=(
        (
            "model",
            (
                Option("model", "PATH", "the int8 model: <save_path>_quantized.pb", required=True),
                Option("save_path", "PATH", "the file to write; its ending may be left out", required=True),
                Option(
                    "format",
                    "NAME",
                    "onnx, tflite or tensorflow. Default: onnx",
                    kind="choice",
                    choices=("onnx", "tflite", "tensorflow"),
                ),
                _OUTPUTS_TO_INSPECT,
                Option("opset", "N", "onnx: version of the operators, from 13 on. Default: 17", kind="count"),
                Option("integer_io", "", "tflite: inputs and outputs that have scales are int8", kind="switch"),
            ),
        ),
        ("always", _ALWAYS),
    ),
    module="amct_tensorflow_cli.export",
    check=_check_export,
)

COMMANDS = {command.name: command for command in (CALIBRATION, COMPARE, CONVERT, EXPORT, INSPECT)}

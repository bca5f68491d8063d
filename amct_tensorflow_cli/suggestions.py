"""What the command inspect says of a model, and the command line that goes on from there."""

from __future__ import annotations

from amct_tensorflow.analysis.inspect_model import InputReport, ModelReport
from amct_tensorflow.load import WITH_WEIGHTS
from amct_tensorflow.progress import are, counted

_KINDS = {
    "float": "a float model",
    "fake-quantized": "a model trained with fake-quant ops",
    "not frozen": "a model with variables",
    "calibration": "a calibration graph: start from the float model",
    "quantized": "a quantized model already",
    "exported": "an int8 model for TensorFlow's own int8 ops: its _quantized.pb is what other commands take",
}
_BATCH = 32
_NOT_NUMBERS = ("string", "resource", "variant")


def closing_lines(report: ModelReport) -> list[str]:
    """Returns the lines behind the table."""
    kind = f"{report.model} is {_KINDS[report.kind]}, with {counted(report.op_count, 'op')}."
    return [
        "",
        kind,
        *{"float": _float, "fake-quantized": _trained, "not frozen": _loose}.get(report.kind, _made)(report),
    ]


def _made(report: ModelReport) -> list[str]:
    if report.kind == "exported":
        return []
    quantized = sum(layer.quantized for layer in report.layers)
    lines = [f"{quantized} of {counted(len(report.layers), 'layer')} {are(quantized)} quantized already."]
    return [*lines, "", *_where_it_runs(report)] if report.kind == "quantized" else lines


def _where_it_runs(report: ModelReport) -> list[str]:
    return [
        "It runs on the chip, whose compiler takes it as it is, and in TensorFlow with amct_tensorflow imported, which",
        "computes what the chip will compute, in float. To run it in int8 on a CPU:",
        f"  amct_tensorflow export --model {report.model} --format onnx --save_path {report.model.removesuffix('.pb')}",
        "The option --time of inspect tells how long it takes in each.",
    ]


def _trained(report: ModelReport) -> list[str]:
    return [
        f"It has {counted(len(report.layers), 'layer')}; those whose input and weights come from such ops become int8.",
        "",
        "To make it int8, give the command convert this option:",
        _outputs(report),
    ]


def _loose(report: ModelReport) -> list[str]:
    return [f"It is not frozen: {WITH_WEIGHTS}."]


def _float(report: ModelReport) -> list[str]:
    if not report.layers:
        return ["It has no layer of a type that can be quantized."]
    quantizable = sum(layer.quantizable for layer in report.layers)
    folded = sum(layer.batch_norm is not None for layer in report.layers)
    lines = [
        f"{quantizable} of {counted(len(report.layers), 'layer')} can be quantized; "
        f"{counted(folded, 'batch norm')} {are(folded)} folded into them."
    ]
    return [*lines, "", *_options(report)] if quantizable else lines


def _options(report: ModelReport) -> list[str]:
    """Returns the options for the command calibration."""
    inputs = [placeholder for placeholder in report.inputs if not placeholder.has_default]
    unfed = [placeholder for placeholder in inputs if _cannot_be_fed(placeholder)]
    if unfed:
        named = ", ".join(f"{placeholder.name} ({_words(placeholder)})" for placeholder in unfed)
        return [
            f"No file of data can feed {named}: freeze the model with a constant in its place,",
            "or give the command calibration a Python file that feeds it:",
            _outputs(report),
            "  --evaluator evaluator.py",
        ]
    lines = ["To quantize it, give the command calibration these options and your data:", _outputs(report)]
    shapes = ";".join(map(_shape, inputs))
    if shapes:
        lines.append(f'  --input_shape "{shapes}"')
    if "?" in shapes:
        lines.append("The model does not know the sizes that are '?' here: write those of your data in their place.")
    return lines


def _outputs(report: ModelReport) -> str:
    return f'  --outputs "{";".join(report.outputs)}"'


def _cannot_be_fed(placeholder: InputReport) -> bool:
    return placeholder.shape == () or placeholder.dtype in _NOT_NUMBERS


def _words(placeholder: InputReport) -> str:
    return f"a {placeholder.dtype} scalar" if placeholder.shape == () else placeholder.dtype


def _shape(placeholder: InputReport) -> str:
    name = placeholder.name.removesuffix(":0")
    if placeholder.shape is None:
        return f"{name}:?"
    sizes = [_BATCH if at == 0 and size is None else size for at, size in enumerate(placeholder.shape)]
    return f"{name}:{','.join('?' if size is None else str(size) for size in sizes)}"

"""The job convert_model."""

from __future__ import annotations

from amct_tensorflow.arguments import check_types
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.graph_passes.pipelines import perform_deployment, plan_conversion
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.post_training.deploy import FloatModel, ResultFiles, report_saved, write_model
from amct_tensorflow.record import has_rounding, read_record, rounding_path

_MODULE = "convert_model"


@check_types(pb_model=MODEL_TYPES, record_file=str, save_path=str)
def convert_model(pb_model: ModelSource, outputs: list[str], record_file: str, save_path: str) -> None:
    """Writes the int8 model from quantization factors of any origin, without calibration.

    Batch norms are folded as in quantize_model, except into layers whose record says skip_fusion, or whose scale_w is
    that of the weights without their batch norm: a WARNING names those.

    Args:
        pb_model: the float model: a path, a Keras model or a graph, as `load_graph` takes them.
        outputs: names of its output ops, ``op``, or of their outputs, ``op:1``; they keep their names in the saved
            model.
        record_file: the factors of the layers to quantize, in protobuf text format; layers without stay float. Of
            a file beside it only the statistics of batch norms are taken; how weights are rounded is for save_model
            only, of which a WARNING reminds.
        save_path: folder and prefix of the files to write, as in save_model.

    Raises:
        AmctTypeError, AmctValueError: an argument, the model or a factor cannot be used.
        AmctRuntimeError: the record cannot be read or parsed, is incomplete or for another model, the outputs need none
            of its layers, a bias is beyond int32, or a file cannot be written. Nothing is written then.
    """
    files = ResultFiles.of(save_path, pb_model)
    model = FloatModel.load(pb_model, outputs)
    model.take_statistics(record_file, _MODULE)
    inventory = Inventory.of(model.graph)
    records = {name: record for name, record in read_record(record_file).items() if not record.is_empty}
    workspace = model.workspace(inventory, records, record_file)
    warnings = plan_conversion(workspace, records)
    perform_deployment(workspace, records)
    write_model(workspace, model.outputs, files, _MODULE)
    for warning in warnings:
        LOGGER.push_warning_message(warning, _MODULE)
    _warn_of_rounding(record_file)
    model.report(inventory, workspace, _MODULE)
    report_saved(files, _MODULE)


def _warn_of_rounding(record_file: str) -> None:
    if has_rounding(record_file):
        LOGGER.push_warning_message(
            "weights are rounded to the nearest integers and biases stay as they are: only save_model takes what a "
            f"calibration has found in {rounding_path(record_file)}",
            _MODULE,
        )

"""Each kind of bad input gives one clear error that names the thing, and leaves nothing half-written.

The fields of config.json and of the record have their tests in tests/config and tests/record.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import CONV_NET_LAYERS, batch, conv_net, freeze, load, prepare, run, write_record

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.record import read_record

tf1 = tf.compat.v1


@pytest.fixture
def graph() -> tf.Graph:
    return conv_net()


@pytest.fixture
def model(tmp_path) -> str:
    return freeze(conv_net(), tmp_path / "model.pb")


@pytest.fixture
def record(tmp_path, graph) -> str:
    """A finished calibration of `model`."""
    path = prepare(graph, tmp_path)
    run(graph, batch())
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuses(error: type[AmctError], words: list[str], folder: Path, call) -> None:
    """The call raises one sentence with all the words and writes nothing into the folder."""
    before = files_of(folder)
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert files_of(folder) == before


# create_quant_config


def test_graph_without_quantizable_layer(tmp_path):
    with tf.Graph().as_default() as empty:
        tf.nn.relu(tf1.placeholder(tf.float32, [1], name="x"))
    refuses(
        AmctValueError,
        ["No layer support quantization in the graph."],
        tmp_path,
        lambda: amct.create_quant_config(str(tmp_path / "c.json"), empty),
    )


@pytest.mark.parametrize(
    ("skip_layers", "words"),
    [
        pytest.param(["block/con"], ["block/con", "does not exist", "did you mean 'block/conv'"], id="unknown"),
        pytest.param(["conv"], ["conv", "does not exist", "did you mean 'block/conv'"], id="without_scope"),
        pytest.param(["block/relu"], ["block/relu", "does not support quantization"], id="not_quantizable"),
        pytest.param(["head/fc", "head/fc"], ["repeated", "head/fc"], id="repeated"),
        pytest.param(CONV_NET_LAYERS, ["Except skip_layers, no layer needs to quantize."], id="all"),
    ],
)
def test_skip_layers(tmp_path, graph, skip_layers, words):
    refuses(
        AmctValueError,
        words,
        tmp_path,
        lambda: amct.create_quant_config(str(tmp_path / "c.json"), graph, skip_layers=skip_layers),
    )


@pytest.mark.parametrize("skip_layers", ["block/conv", [1]], ids=["str", "ints"])
def test_skip_layers_of_the_wrong_type(tmp_path, graph, skip_layers):
    refuses(
        AmctTypeError,
        ["skip_layers"],
        tmp_path,
        lambda: amct.create_quant_config(str(tmp_path / "c.json"), graph, skip_layers=skip_layers),
    )


@pytest.mark.parametrize(
    ("batch_num", "error"),
    [(0, AmctValueError), (-1, AmctValueError), (True, AmctTypeError), (1.0, AmctTypeError), ("1", AmctTypeError)],
    ids=["zero", "negative", "bool", "float", "str"],
)
def test_batch_num(tmp_path, graph, batch_num, error):
    refuses(
        error,
        ["batch_num"],
        tmp_path,
        lambda: amct.create_quant_config(str(tmp_path / "c.json"), graph, batch_num=batch_num),
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"config_file": 1}, "config_file"),
        ({"config_file": None}, "config_file"),
        ({"graph": "graph"}, "graph"),
        ({"graph": tf1.GraphDef()}, "graph"),
        ({"activation_offset": 1}, "activation_offset"),
    ],
    ids=["config_file_int", "config_file_none", "graph_str", "graph_def", "activation_offset_int"],
)
def test_arguments_of_the_wrong_type(tmp_path, graph, arguments, name):
    given = {"config_file": str(tmp_path / "c.json"), "graph": graph, **arguments}
    refuses(AmctTypeError, ["create_quant_config", name], tmp_path, lambda: amct.create_quant_config(**given))


@pytest.mark.parametrize("name", ["config_file", "config_defination"])
def test_paths_with_a_nul_character(tmp_path, graph, name):
    given = {"config_file": str(tmp_path / "c.json"), "graph": graph, name: str(tmp_path / "a\0b")}
    words = ["create_quant_config", name, "NUL character"]
    refuses(AmctValueError, words, tmp_path, lambda: amct.create_quant_config(**given))


def test_numbers_of_numpy(tmp_path, graph):
    path = tmp_path / "c.json"
    amct.create_quant_config(str(path), graph, batch_num=np.int64(3), activation_offset=np.bool_(False))
    config = json.loads(path.read_text())
    assert (config["batch_num"], config["activation_offset"]) == (3, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"save_model\(\) missing 3 required positional arguments"),
        ({"record": "r"}, r"save_model\(\) got an unexpected keyword argument 'record'"),
    ],
    ids=["missing", "unknown"],
)
def test_arguments_that_do_not_fit_are_an_error_of_python(arguments, message):
    with pytest.raises(TypeError, match=message) as caught:
        amct.save_model("m.pb", **arguments)
    assert caught.value.__context__ is None


# quantize_model


def test_config_that_is_not_json(tmp_path, graph):
    (tmp_path / "config.json").write_text("{")
    refuses(
        AmctValueError,
        ["config.json"],
        tmp_path,
        lambda: amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt")),
    )


def test_config_of_another_model(tmp_path, graph):
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    config = json.loads((tmp_path / "config.json").read_text())
    config["other/conv"] = config.pop("block/conv")
    (tmp_path / "config.json").write_text(json.dumps(config))
    refuses(
        AmctValueError,
        ["other/conv", "invalid layer name", "did you mean"],
        tmp_path,
        lambda: amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt")),
    )


def test_finalized_graph(tmp_path, graph):
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    graph.finalize()
    refuses(
        AmctRuntimeError,
        ["finalized", "new tf.Graph"],
        tmp_path,
        lambda: amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt")),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_weights_that_are_not_finite(tmp_path, value):
    weights = np.ones((3, 3, 3, 4), np.float32)
    weights[0, 0, 0, 0] = value
    graph = conv_net(weights)
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    refuses(
        AmctValueError,
        ["block/conv", "skip_layers"],
        tmp_path,
        lambda: amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt")),
    )
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


def test_weights_too_large(tmp_path):
    graph = conv_net(np.full((3, 3, 3, 4), 1e10, np.float32))
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    refuses(
        AmctValueError,
        ["block/conv", "1 / FLT_EPSILON", "skip_layers"],
        tmp_path,
        lambda: amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt")),
    )


def test_graph_that_is_quantized_already(tmp_path, graph):
    prepare(graph, tmp_path)
    words = ["already quantized", "QuantIfmr", "float model"]
    refuses(AmctValueError, words, tmp_path, lambda: prepare(graph, tmp_path))


def test_unwritable_record(tmp_path, graph):
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    (tmp_path / "file").write_text("")
    refuses(
        AmctRuntimeError,
        [str(tmp_path / "file" / "record.txt"), f"cannot be written ({tmp_path / 'file'} is a file, not a folder)"],
        tmp_path,
        lambda: amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "file" / "record.txt")),
    )


def test_record_file_that_is_a_folder(tmp_path, graph):
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    refuses(
        AmctValueError,
        ["record_file", str(tmp_path)],
        tmp_path,
        lambda: amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path)),
    )


@pytest.mark.parametrize(
    ("calib_outputs", "error", "words"),
    [
        (["oot"], AmctValueError, ["oot", "does not exist", "did you mean 'out'"]),
        (["out:1"], AmctValueError, ["output 'out:1' does not exist", "op 'out' has 1 output(s)"]),
        ([], AmctValueError, ["calib_outputs", "empty"]),
        ("out", AmctTypeError, ["calib_outputs", "list"]),
        ([1], AmctTypeError, ["calib_outputs", "int"]),
    ],
    ids=["unknown", "index", "empty", "str", "int"],
)
def test_calib_outputs(tmp_path, graph, calib_outputs, error, words):
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    refuses(
        error,
        words,
        tmp_path,
        lambda: amct.quantize_model(
            graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"), calib_outputs=calib_outputs
        ),
    )


# the calibration run


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(np.full((2, 8, 8, 3), np.nan, np.float32), ["block/conv", "inf or nan", "skip_layers"], id="nan"),
        pytest.param(np.full((2, 8, 8, 3), np.inf, np.float32), ["block/conv", "inf or nan", "skip_layers"], id="inf"),
        pytest.param(np.zeros((0, 8, 8, 3), np.float32), ["block/conv", "empty"], id="empty"),
        pytest.param(
            np.full((2, 8, 8, 3), 1e10, np.float32), ["block/conv", "1 / FLT_EPSILON", "skip_layers"], id="too_large"
        ),
    ],
)
def test_activations(tmp_path, graph, model, data, words):
    record = prepare(graph, tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        run(graph, data)
    for word in words:
        assert word in caught.value.message
    with pytest.raises(AmctRuntimeError, match="0 of 1 batches seen"):
        amct.save_model(model, ["out"], record, str(tmp_path / "saved"))


def test_identical_batches_are_warned_of(tmp_path, graph, capsys):
    prepare(graph, tmp_path, batch_num=3)
    for _ in range(3):
        run(graph, batch())
    assert "all identical" in capsys.readouterr().err


def test_different_batches_are_not(tmp_path, graph, capsys):
    prepare(graph, tmp_path, batch_num=3)
    for seed in range(3):
        run(graph, batch(seed))
    assert "identical" not in capsys.readouterr().err


def test_activation_that_is_always_zero(tmp_path, capsys):
    graph = conv_net(bias=np.full(4, -1e3, np.float32))
    model = freeze(graph, tmp_path / "model.pb")
    record = prepare(graph, tmp_path)
    expected = run(conv_net(bias=np.full(4, -1e3, np.float32)), batch())
    run(graph, batch())
    warning = next(line for line in capsys.readouterr().err.splitlines() if "was zero" in line)
    assert "WARNING" in warning and "head/pool" in warning
    assert read_record(record)["head/pool"].scale_d == 1.0
    amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    np.testing.assert_allclose(run(load(tmp_path / "saved_quantized.pb"), batch()), expected, atol=0.02)


def test_ragged_last_batch(tmp_path, graph, model):
    record = prepare(graph, tmp_path, batch_num=2)
    run(graph, batch(0, size=4))
    run(graph, batch(1, size=1))
    amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    assert (tmp_path / "saved_quantized.pb").exists()


# save_model


def test_before_any_batch(tmp_path, graph, model):
    record = prepare(graph, tmp_path, batch_num=2)
    words = ["not finished", "3 of 3 layers", "block/conv (0 of 2 batches seen)", "head/pool", "head/fc"]
    refuses(AmctRuntimeError, words, tmp_path, lambda: amct.save_model(model, ["out"], record, str(tmp_path / "saved")))


def test_before_all_batches(tmp_path, graph, model):
    record = prepare(graph, tmp_path, batch_num=3)
    run(graph, batch(0))
    run(graph, batch(1))
    words = ["not finished", "block/conv (2 of 3 batches seen)"]
    refuses(AmctRuntimeError, words, tmp_path, lambda: amct.save_model(model, ["out"], record, str(tmp_path / "saved")))


def test_when_only_some_layers_ran(tmp_path, graph, model):
    record = prepare(graph, tmp_path)
    run(graph, batch(), "block/relu:0")
    with pytest.raises(AmctRuntimeError, match=r"not finished for 2 of 3 layers.*head/pool \(0 of 1 batches seen\)"):
        amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    assert not list(tmp_path.glob("saved*"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["record_file is empty"]),
        (b"record {\n  key: 'block/conv'\n  val", ["cannot be parsered"]),
        (b"\x00\x01\xff", ["record"]),
        (b"hello", ["cannot be parsered"]),
    ],
    ids=["empty", "truncated", "binary", "text"],
)
def test_damaged_record(tmp_path, model, content, words):
    path = tmp_path / "damaged.txt"
    path.write_bytes(content)
    refuses(
        AmctRuntimeError,
        [*words, str(path)],
        tmp_path,
        lambda: amct.save_model(model, ["out"], str(path), str(tmp_path / "saved")),
    )


def test_record_that_does_not_exist(tmp_path, model):
    path = str(tmp_path / "none.txt")
    refuses(AmctRuntimeError, [path], tmp_path, lambda: amct.save_model(model, ["out"], path, str(tmp_path / "saved")))


def test_record_of_another_model(tmp_path, model, record):
    records = read_record(record)
    records["other/conv"] = records.pop("block/conv")
    path = str(tmp_path / "other.txt")
    write_record(path, records)
    words = ["find other/conv failure in", model, "Please match"]
    refuses(AmctRuntimeError, words, tmp_path, lambda: amct.save_model(model, ["out"], path, str(tmp_path / "saved")))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        (
            "import/block/conv",
            "where it is 'block/conv': import the graph with tf.import_graph_def(graph_def, name='')",
        ),
        ("blok/conv", "; did you mean 'block/conv'?"),
        ("xyz", "other.txt"),
    ],
    ids=["imported_with_a_prefix", "similar", "other"],
)
def test_record_of_another_name(tmp_path, model, record, name, end):
    records = read_record(record)
    records[name] = records.pop("block/conv")
    path = write_record(tmp_path / "other.txt", records)
    with pytest.raises(AmctRuntimeError, match=f"^find {name} failure in ") as caught:
        amct.save_model(model, ["out"], path, str(tmp_path / "saved"))
    assert str(caught.value).endswith(end)


def test_record_with_wrong_lengths(tmp_path, model, record):
    records = read_record(record)
    shorter = records["block/conv"]
    records["block/conv"] = type(shorter)(
        scale_d=shorter.scale_d,
        offset_d=shorter.offset_d,
        scale_w=shorter.scale_w[:3],
        offset_w=shorter.offset_w[:3],
        shift_bit=shorter.shift_bit[:3],
    )
    path = str(tmp_path / "other.txt")
    write_record(path, records)
    words = ["block/conv", "should be equal"]
    refuses(AmctRuntimeError, words, tmp_path, lambda: amct.save_model(model, ["out"], path, str(tmp_path / "saved")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale_d", "nan"),
        ("scale_d", "0"),
        ("scale_d", "-1"),
        ("scale_d", "inf"),
        ("offset_d", "128"),
        ("offset_d", "-129"),
        ("scale_w", "nan"),
        ("scale_w", "0"),
        ("scale_w", "-0.5"),
    ],
)
def test_record_with_values_out_of_range(tmp_path, model, record, field, value):
    lines = Path(record).read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.strip().startswith(field))
    lines[at] = f"    {field}: {value}\n"
    path = tmp_path / "other.txt"
    path.write_text("".join(lines))
    refuses(
        AmctError,
        ["block/conv", field],
        tmp_path,
        lambda: amct.save_model(model, ["out"], str(path), str(tmp_path / "saved")),
    )


def test_bias_beyond_int32(tmp_path):
    weights = np.full((3, 3, 3, 4), 1e-4, np.float32)
    bias = np.full(4, 1e6, np.float32)
    graph = conv_net(weights, bias)
    model = freeze(graph, tmp_path / "model.pb")
    record = prepare(graph, tmp_path)
    run(graph, batch())
    words = ['Quantized bias of layer "block/conv" exceed int32 range', "please add it to skip layer"]
    refuses(AmctRuntimeError, words, tmp_path, lambda: amct.save_model(model, ["out"], record, str(tmp_path / "saved")))


def test_model_that_is_quantized_already(tmp_path, model, record):
    amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    quantized = str(tmp_path / "saved_quantized.pb")
    refuses(
        AmctValueError,
        ["already quantized", "AscendQuant"],
        tmp_path,
        lambda: amct.save_model(quantized, ["out"], record, str(tmp_path / "again")),
    )


@pytest.mark.parametrize("content", [b"hello world, this is no model", b"\x00\xff" * 100])
def test_pb_that_is_no_graph_def(tmp_path, record, content):
    path = tmp_path / "bad.pb"
    path.write_bytes(content)
    refuses(
        AmctValueError,
        [str(path), "GraphDef", "pass a frozen .pb"],
        tmp_path,
        lambda: amct.save_model(str(path), ["out"], record, str(tmp_path / "saved")),
    )


def test_no_path_of_a_model(tmp_path, record):
    words = ["the path of the model is empty"]
    refuses(AmctValueError, words, tmp_path, lambda: amct.save_model("", ["out"], record, str(tmp_path / "saved")))


@pytest.mark.parametrize("path", ["none.pb", "."], ids=["missing", "folder"])
def test_pb_that_cannot_be_read(tmp_path, record, path):
    model = str(tmp_path / path)
    refuses(AmctValueError, [model], tmp_path, lambda: amct.save_model(model, ["out"], record, str(tmp_path / "saved")))


@pytest.mark.parametrize(
    ("outputs", "error", "words"),
    [
        (["oot"], AmctValueError, ["oot", "does not exist", "did you mean 'out'"]),
        ([], AmctValueError, ["outputs", "empty"]),
        ("out", AmctTypeError, ["outputs", "list"]),
    ],
    ids=["unknown", "empty", "str"],
)
def test_outputs(tmp_path, model, record, outputs, error, words):
    refuses(error, words, tmp_path, lambda: amct.save_model(model, outputs, record, str(tmp_path / "saved")))


def test_unwritable_save_path(tmp_path, model, record):
    (tmp_path / "file").write_text("")
    target = str(tmp_path / "file" / "saved")
    words = [target + "_quantized.pb", f"cannot be written ({tmp_path / 'file'} is a file, not a folder)"]
    refuses(AmctRuntimeError, words, tmp_path, lambda: amct.save_model(model, ["out"], record, target))
    refuses(AmctRuntimeError, words[1:], tmp_path, lambda: amct.save_model(model, ["out"], record, f"{target}/deep/m"))


def test_prefix_too_long(tmp_path, model, record):
    target = str(tmp_path / ("a" * 242))
    refuses(AmctValueError, ["save_path", "241"], tmp_path, lambda: amct.save_model(model, ["out"], record, target))


def test_result_that_cannot_all_be_written(tmp_path, model, record):
    (tmp_path / "saved_quant.json").mkdir()
    target = str(tmp_path / "saved")
    words = [target + "_quant.json", "cannot be written"]
    refuses(AmctRuntimeError, words, tmp_path, lambda: amct.save_model(model, ["out"], record, target))


def test_save_path_that_would_overwrite_the_model(tmp_path, model, record):
    source = tmp_path / "net_quantized.pb"
    source.write_bytes(Path(model).read_bytes())
    words = ["save_path", str(source)]
    refuses(
        AmctValueError,
        words,
        tmp_path,
        lambda: amct.save_model(str(source), ["out"], record, str(tmp_path / "net")),
    )


def test_record_file_that_is_the_config_file(tmp_path, graph):
    path = str(tmp_path / "config.json")
    amct.create_quant_config(path, graph)
    words = ["record_file", "config_file", path]
    refuses(AmctValueError, words, tmp_path, lambda: amct.quantize_model(graph, path, path))


@pytest.mark.parametrize("name", ["pb_model", "record_file", "save_path"])
def test_save_model_arguments_of_the_wrong_type(tmp_path, model, record, name):
    given = {"pb_model": model, "outputs": ["out"], "record_file": record, "save_path": str(tmp_path / "saved")}
    given[name] = given[name].encode()
    refuses(AmctTypeError, ["save_model", name], tmp_path, lambda: amct.save_model(**given))


def test_paths_of_pathlib(tmp_path, model, record):
    amct.save_model(Path(model), ["out"], Path(record), tmp_path / "saved")
    assert (tmp_path / "saved_quantized.pb").exists()


def test_an_edited_record_is_not_overwritten(tmp_path, model, record):
    """The user may delete a layer from the record to keep it in float."""
    records = read_record(record)
    del records["head/fc"]
    write_record(record, records)
    amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    assert "head/fc" not in read_record(record)
    assert os.path.exists(tmp_path / "saved_quantized.pb")

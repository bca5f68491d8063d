from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool, text_format

from amct_tensorflow import proto
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.proto import compile as proto_compile

USER_FORM = """
record {
  key: "conv"
  value {
    scale_d: 0.5 offset_d: -3 scale_w: 0.25 scale_w: 0.125 offset_w: 0 offset_w: 0 shift_bit: 1 shift_bit: 2
    skip_fusion: true act_type: "INT8" wts_type: "INT8"
  }
}
"""
INNER_FORM = """
record { key: "conv" value { cluster: 1 dst_type: "INT8" prune_producer: "a" prune_consumer: "b"
                             tensor_balance_factor: 1.5 } }
prune_record {
  producer { name: "a" attr { name: "type" type: STRING s: "Conv2D" } attr { name: "begin" type: INT i: 0 } }
  consumer { name: "b" }
  selective_prune { name: "c" attr { name: "mask_shape" type: INTS ints: 3 ints: 3 } }
}
"""


SIMPLIFIED = """
batch_num: 2 activation_offset: false joint_quant: true fakequant_precision_mode: FORCE_FP16_QUANT
skip_layers: "a" skip_layer_types: "MatMul" skip_approximation_layers: "b" do_fusion: false skip_fusion_layers: "c"
nuq_config { mapping_file: "m.json" nuq_quantize { num_steps: 32 num_of_iteration: 1 } }
common_config {
  arq_quantize { channel_wise: true quant_bits: 8 weight_rounding: compensated bias_correction: false }
  ifmr_quantize { search_range_start: 0.7 search_range_end: 1.3 search_step: 0.01 max_percentile: 0.9
                  min_percentile: 0.9 asymmetric: true dst_type: INT8 }
  dmq_balancer { migration_strength: 0.5 }
}
override_layer_types {
  layer_type: "MatMul"
  calibration_config { hfmg_quantize { num_of_bins: 4096 asymmetric: false dst_type: INT16 } }
}
override_layer_configs {
  layer_name: "d"
  calibration_config {
    ada_quantize { num_iteration: 1 reg_param: 1 beta_range_start: 1 beta_range_end: 1 warm_start: 1
                   channel_wise: true }
  }
}
conv_calibration_config { } fc_calibration_config { }
tensor_quantize { layer_name: "e" input_index: 0 ifmr_quantize { } }
tensor_quantize { layer_name: "e" input_index: 1 hfmg_quantize { } }
weight_rounding: nearest bias_correction: true target: onnxruntime
update_bn: true bn_update_config { bn_update_iterations: 30 bn_moving_average_fraction: 0.5 bn_dump_dir: "dump" }
"""
# The numbers that the vendor publishes.
SIMPLIFIED_NUMBERS = {
    "AMCTConfig": {
        "batch_num": 1,
        "activation_offset": 2,
        "skip_layers": 10,
        "skip_layer_types": 11,
        "fakequant_precision_mode": 21,
        "common_config": 50,
        "override_layer_types": 51,
        "override_layer_configs": 100,
        "do_fusion": 200,
        "skip_fusion_layers": 201,
    },
    "CalibrationConfig": {
        "arq_quantize": 13,
        "ada_quantize": 15,
        "ifmr_quantize": 100,
        "hfmg_quantize": 101,
        "dmq_balancer": 200,
    },
    "ARQuantize": {"channel_wise": 1, "quant_bits": 10},
    "FMRQuantize": {
        "search_range_start": 1,
        "search_range_end": 2,
        "search_step": 3,
        "max_percentile": 4,
        "min_percentile": 5,
        "asymmetric": 6,
        "dst_type": 10,
    },
    "HFMGQuantize": {"num_of_bins": 1, "asymmetric": 2, "dst_type": 10},
    "DMQBalancer": {"migration_strength": 1},
}


@pytest.fixture
def source_tree(tmp_path, monkeypatch):
    """The .proto files in a folder of their own, where nothing was compiled yet; no message class is cached."""
    for path in proto_compile.FOLDER.glob("*.proto"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(proto_compile, "FOLDER", tmp_path)
    forget_messages()
    yield tmp_path
    forget_messages()


def forget_messages():
    proto._message.cache_clear()
    proto._pool.cache_clear()


def compiled(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".proto"]


@pytest.mark.parametrize("text", [USER_FORM, INNER_FORM], ids=["convert_model_form", "inner_form"])
def test_reads_both_forms(text):
    message = text_format.Parse(text, proto.record_message()())
    assert message.record[0].key == "conv"
    assert text_format.Parse(text_format.MessageToString(message), proto.record_message()()) == message


def test_the_user_form_is_a_subset_of_the_inner_form():
    inner = proto._pool().FindMessageTypeByName("AMCTTensorflow.InnerSingleLayerRecord").fields_by_name
    user = proto._pool().FindMessageTypeByName("AMCTTensorflow.SingleLayerRecord").fields_by_name
    for name, field in user.items():
        assert (field.number, field.type, field.default_value) == (
            inner[name].number,
            inner[name].type,
            inner[name].default_value,
        )


def test_field_numbers_are_those_of_the_vendor():
    inner = proto._pool().FindMessageTypeByName("AMCTTensorflow.InnerSingleLayerRecord").fields_by_name
    assert {name: field.number for name, field in inner.items()} == {
        "scale_d": 1,
        "offset_d": 2,
        "scale_w": 3,
        "offset_w": 4,
        "shift_bit": 5,
        "cluster": 6,
        "skip_fusion": 9,
        "dst_type": 10,
        "prune_producer": 11,
        "prune_consumer": 12,
        "tensor_balance_factor": 13,
        "act_type": 14,
        "wts_type": 15,
    }


def test_the_class_is_made_once():
    assert proto.record_message() is proto.record_message()


def test_nothing_enters_the_default_pool():
    proto.record_message()
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("AMCTTensorflow.InnerScaleOffsetRecord")


def test_simplified_form():
    message = text_format.Parse(SIMPLIFIED, proto.simplified_config_message()())
    assert message.IsInitialized()
    assert text_format.Parse(text_format.MessageToString(message), proto.simplified_config_message()()) == message
    # The sample has every field of every message.
    for kind in ("AMCTConfig", "CalibrationConfig", "ARQuantize", "FMRQuantize", "HFMGQuantize", "DMQBalancer"):
        for field in proto._pool().FindMessageTypeByName(f"AMCTTensorflow.{kind}").fields:
            assert field.name in SIMPLIFIED


@pytest.mark.parametrize("message", SIMPLIFIED_NUMBERS)
def test_field_numbers_of_the_simplified_form(message):
    fields = proto._pool().FindMessageTypeByName(f"AMCTTensorflow.{message}").fields_by_name
    numbers = {name: fields[name].number for name in SIMPLIFIED_NUMBERS[message]}
    assert numbers == SIMPLIFIED_NUMBERS[message]


@pytest.mark.parametrize("message", ["AMCTConfig", "ARQuantize"])
def test_our_own_fields_have_numbers_far_from_those_of_the_vendor(message):
    fields = proto._pool().FindMessageTypeByName(f"AMCTTensorflow.{message}").fields_by_name
    assert {name: fields[name].number for name in ("weight_rounding", "bias_correction")} == {
        "weight_rounding": 1001,
        "bias_correction": 1002,
    }


def test_a_missing_descriptor_set_is_compiled_on_first_use(source_tree):
    pytest.importorskip("grpc_tools")
    proto.record_message()
    assert compiled(source_tree) == [proto_compile.descriptor_set().name]


def test_a_stale_descriptor_set_is_compiled_again(source_tree):
    pytest.importorskip("grpc_tools")
    (source_tree / "amct.desc").write_bytes(b"")  # as it was called before names had a digest
    proto.record_message()
    before = proto_compile.descriptor_set()
    with open(source_tree / "calibration_config_tf.proto", "a") as file:
        file.write("message Added { optional bool here = 1; }\n")
    forget_messages()
    assert proto._message("Added")(here=True).here
    assert compiled(source_tree) == [proto_compile.descriptor_set().name] != [before.name]


def test_a_current_descriptor_set_needs_no_compiler(source_tree, monkeypatch):
    pytest.importorskip("grpc_tools")
    proto_compile.compile_protos()
    monkeypatch.delattr(proto_compile, "compile_protos")
    proto.record_message()


def test_without_compiler_the_error_says_what_to_run(source_tree, monkeypatch):
    def no_compiler(output=None):
        raise RuntimeError("No module named grpc_tools")

    monkeypatch.setattr(proto_compile, "compile_protos", no_compiler)
    message = r"amct-\w+\.desc.*grpc_tools.*pip install --force-reinstall --no-deps \."
    with pytest.raises(AmctRuntimeError, match=message):
        proto.record_message()


def test_compile_works_loaded_by_path_and_agrees_with_the_built_file(tmp_path):
    pytest.importorskip("grpc_tools")
    spec = importlib.util.spec_from_file_location("by_path", proto_compile.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = module.compile_protos(tmp_path / "build" / "amct.desc")
    proto.record_message()
    assert output.read_bytes() == proto_compile.descriptor_set().read_bytes()


def test_compile_reports_what_protoc_says(tmp_path, monkeypatch):
    pytest.importorskip("grpc_tools")
    (tmp_path / "broken.proto").write_text('syntax = "proto2"; message Broken {')
    monkeypatch.setattr(proto_compile, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match=r"(?s)broken\.proto.*Reached end of input"):
        proto_compile.compile_protos(tmp_path / "amct.desc")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.proto"]


@pytest.mark.parametrize("room", ["proto", "record", "config"])
def test_the_room_does_not_import_tensorflow(room):
    # The package itself does, so a bare one with the same folder stands in for it.
    folder = Path(proto.__file__).parents[1]
    code = f"""
import importlib, sys, types
package = types.ModuleType("amct_tensorflow")
package.__path__ = [{str(folder)!r}]
sys.modules["amct_tensorflow"] = package
importlib.import_module("amct_tensorflow.{room}")
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

from __future__ import annotations

import importlib.util
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


@pytest.fixture
def unbuilt(tmp_path, monkeypatch):
    """A source tree where nothing was compiled yet, and no message class is cached."""
    monkeypatch.setattr(proto_compile, "DESCRIPTOR_SET", tmp_path / "amct.desc")
    proto.record_message.cache_clear()
    proto._pool.cache_clear()
    yield tmp_path / "amct.desc"
    proto.record_message.cache_clear()
    proto._pool.cache_clear()


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


def test_a_missing_descriptor_set_is_compiled_on_first_use(unbuilt):
    pytest.importorskip("grpc_tools")
    proto.record_message()
    assert [path.name for path in unbuilt.parent.iterdir()] == ["amct.desc"]


def test_without_compiler_the_error_says_what_to_run(unbuilt, monkeypatch):
    def no_compiler(output=None):
        raise RuntimeError("No module named grpc_tools")

    monkeypatch.setattr(proto_compile, "compile_protos", no_compiler)
    with pytest.raises(AmctRuntimeError, match=r"amct\.desc.*grpc_tools.*pip install --force-reinstall --no-deps \."):
        proto.record_message()


def test_compile_works_loaded_by_path_and_agrees_with_the_built_file(tmp_path):
    pytest.importorskip("grpc_tools")
    spec = importlib.util.spec_from_file_location("by_path", proto_compile.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = module.compile_protos(tmp_path / "build" / "amct.desc")
    proto.record_message()
    stale = "amct.desc is older than the .proto files: run python amct_tensorflow/proto/compile.py"
    assert output.read_bytes() == proto_compile.DESCRIPTOR_SET.read_bytes(), stale


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

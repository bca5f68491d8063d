"""What is typed wrong is told before anything starts, in one line."""

from __future__ import annotations

import pytest

CALIBRATION = ("calibration", "--model", "m.pb", "--save_path", "out/m")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate",), "there is no command 'calibrate'; did you mean 'calibration'?"),
        (
            ("quantify",),
            "there is no command 'quantify'; the commands are calibration, compare, convert, export, inspect",
        ),
        (("--model", "m.pb", "inspect"), "'--model' before a command is unknown"),
        (("inspect", "--modle", "m.pb"), "there is no option --modle; did you mean --model?"),
        (("inspect",), "--model is missing"),
        (("inspect", "--what", "m.pb"), "there is no option --what: inspect --help lists them"),
        (("inspect", "--model"), "--model has no value: write --model PATH"),
        (("convert", "--model", "--save_path", "x"), "--model has no value: write --model PATH"),
        (("convert", "--model", "--save_path=x"), "--model has no value: write --model PATH"),
        (("inspect", "--model", "m.pb", "--verbose=3"), "--verbose '3' is not needed: the option has no value"),
        (("inspect", "--model", "m.pb", "--outputs", "a,b"), "write ';' between the names"),
        (("inspect", "--model", ""), "--model is missing"),
        (("inspect", "--model", "m.pb", "n.pb"), "'n.pb' belongs to no option"),
        (("inspect", "--model", "m.pb", "--outputs", "a;;b"), "--outputs 'a;;b' has an empty name"),
        (("convert", "--model", "m.pb"), "--save_path is missing"),
        (CALIBRATION, "--data_dir is missing"),
        ((*CALIBRATION, "--data_dir", "d", "--batch_num", "0"), "--batch_num '0' is not a whole number above 0"),
        ((*CALIBRATION, "--data_dir", "d", "--batch_num", "1.5"), "--batch_num '1.5' is not a whole number above 0"),
        ((*CALIBRATION, "--data_dir", "d", "--input_shape", "x,1,2"), "Invalid input_shape. Input name and shapes"),
        ((*CALIBRATION, "--data_dir", "d", "--input_shape", "x:1,a"), "The shape of 'x' is '1,a'"),
        ((*CALIBRATION, "--data_dir", "d", "--input_shape", "x:0,1"), "The shape of 'x' is '0,1'"),
        ((*CALIBRATION, "--data_dir", "d", "--input_shape", "x:1;x:2"), "has 'x' twice"),
        (
            (*CALIBRATION, "--data_dir", "d", "--input_shape", "x:1;y:2"),
            "--data_dir needs an entry for each input (x, y), but has 1",
        ),
        (
            (*CALIBRATION, "--data_dir", "d", "--input_shape", "x:1", "--data_types", "int8;int8"),
            "--data_types needs an entry for each input (x), but has 2",
        ),
        ((*CALIBRATION, "--data_dir", "d", "--mean", "a"), "--mean 'a' is not a number"),
        ((*CALIBRATION, "--data_dir", "d", "--std", "1,"), "--std '1,' is not a number"),
        ((*CALIBRATION, "--data_dir", "d", "--mean", "nan"), "--mean 'nan' cannot be meant for pixels"),
        ((*CALIBRATION, "--data_dir", "d", "--std", "1,1,inf"), "--std '1,1,inf' cannot be meant for pixels"),
        ((*CALIBRATION, "--data_dir", "d", "--std", "1e-40"), "--std '1e-40' cannot be meant for pixels"),
        ((*CALIBRATION, "--data_dir", "d", "--image_size", "224"), "--image_size '224' is not height,width"),
        (
            (*CALIBRATION, "--data_dir", "d", "--channel_order", "GBR"),
            "--channel_order 'GBR' is not one of its values: write RGB or BGR",
        ),
        (
            (*CALIBRATION, "--evaluator", "e.py", "--data_dir", "d"),
            "--evaluator and --data_dir cannot be given together",
        ),
        ((*CALIBRATION, "--evaluator", "e.py", "--data_type", "int8"), "--evaluator and --data_types cannot"),
        ((*CALIBRATION, "--evaluator", "e.py", "--channel_order", "RGB"), "--evaluator and --channel_order cannot"),
        (
            (*CALIBRATION, "--compression_optimize_conf", "c", "--input_shape", "x:1"),
            "--compression_optimize_conf and --input_shape cannot be given together",
        ),
        (
            (*CALIBRATION, "--compression_optimize_conf", "c", "--calibration_config", "d"),
            "--compression_optimize_conf and --calibration_config cannot",
        ),
    ],
)
def test_wrong_usage(cli, arguments, words):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    error, hint = err.splitlines()
    assert error.startswith("amct_tensorflow: error: ") and words in error
    assert hint.startswith("Try 'amct_tensorflow ") and hint.endswith("--help'.")


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("help",), ("-v", "-h")])
def test_overview(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    for word in ("calibration", "convert", "inspect", "--version", "start with:"):
        assert word in out


def test_without_arguments(cli):
    code, out, _ = cli()
    assert code == 2 and "usage:" in out


@pytest.mark.parametrize("command", ["calibration", "convert", "inspect"])
@pytest.mark.parametrize("form", ["{} --help", "{} -h", "help {}", "{} --model m.pb -h"])
def test_help_of_a_command(cli, command, form):
    code, out, err = cli(*form.format(command).split())
    assert (code, err) == (0, "")
    assert f"usage: amct_tensorflow {command} --model PATH" in out and "example:" in out
    assert max(map(len, out.splitlines())) <= 120


def test_help_names_the_files_that_are_kept(cli):
    out = cli("calibration", "--help").out
    for name in ("_quantized.pb", "_quant.json", "_config.json", "_record.txt"):
        assert f"<save_path>{name}" in out

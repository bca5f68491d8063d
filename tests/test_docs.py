"""The pages in docs/: their examples run and print what the page shows, and tables and messages are those of the code.

A code block is marked behind its language: ``python example`` and ``bash example`` are run in order, in one folder a
page; the ``text`` block that follows one shows its output, where ``…`` stands for anything; ``file=NAME`` is a file to
save; ``numpy`` is compared with the ops.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2

import amct_tensorflow as amct
from amct_tensorflow.config import fields
from amct_tensorflow.config.schema import REQUIRED, Schema
from amct_tensorflow.ops import tensorflow_ops
from amct_tensorflow.proto import record_message, simplified_config_message

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SAMPLE = ROOT / "samples" / "mobilenetv2"
PAGES = sorted(DOCS.glob("*.md"))
pytestmark = pytest.mark.skipif(not PAGES, reason="there is no docs folder beside the tests")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced code block."""

    language: str
    marks: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w+) ?(.*?)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [Block(*parts) for parts in found]


# Examples


def with_examples() -> list[Path]:
    return [page for page in PAGES if any(block.marks == "example" for block in blocks(page))]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder but for the two files that the index names."""
    for name in ("mobilenet_v2_0.35_32_digits.pb", "digits.py"):
        shutil.copy(SAMPLE / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    amct.set_logging_level()


@pytest.mark.parametrize("page", with_examples(), ids=lambda page: page.stem)
def test_examples_run_and_print_what_the_page_shows(page, folder):
    printed = None
    for block in blocks(page):
        if block.marks.startswith("file="):
            (folder / block.marks.removeprefix("file=")).write_text(block.text)
        elif block.marks == "example":
            printed = run(block)
        elif block.language == "text" and printed is not None:
            check_shown(block, printed)
            printed = None


def run(block: Block) -> str:
    """Runs an example and returns what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        amct.set_logging_level()
        if block.language == "python":
            exec(compile(block.text, "example", "exec"), {"__name__": "__main__"})
        else:
            run_commands(block.text)
    return printed.getvalue()


def run_commands(text: str) -> None:
    from amct_tensorflow_cli.main import main

    for line in text.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line)
        assert program == "amct_tensorflow"
        assert main(arguments) == 0, line


def check_shown(block: Block, printed: str) -> None:
    """Fails unless each line shown is part of a line printed, in the same order unless the block says otherwise."""
    left = [squeeze(line) for line in printed.splitlines()]
    for line in filter(None, map(squeeze, block.text.splitlines())):
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        at = next((at for at, candidate in enumerate(left) if pattern.search(candidate)), None)
        assert at is not None, f"the page shows '{line}', but printed is only\n{printed}"
        left = left if "unordered" in block.marks else left[at + 1 :] if line.strip("… ") else left


def squeeze(line: str) -> str:
    return re.sub(r"\s*…\s*", "…", " ".join(line.split()))


def test_every_command_line_parses():
    from amct_tensorflow_cli.command_table import COMMANDS
    from amct_tensorflow_cli.values import UsageError

    for page in PAGES:
        for block in blocks(page):
            if block.language == "bash" and block.marks != "example":
                _, command, *arguments = shlex.split(block.text)
                with pytest.raises(UsageError):  # those that cannot run are there to show an error
                    COMMANDS[command].parse(arguments)


# Links


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            linked = (page.parent / name).resolve() if name else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_the_index_names_every_page():
    index = (DOCS / "README.md").read_text()
    assert all(f"]({page.name})" in index for page in PAGES if page.name != "README.md")


def test_no_line_is_too_long():
    for page in PAGES:
        long = [line for line in page.read_text().splitlines() if len(line) > 120 and not line.startswith("|")]
        assert not long, page


# Tables of fields


def tables(page: Path) -> dict[str, list[list[str]]]:
    """Returns the rows of the last table under each heading, as cells without backticks."""
    found: dict[str, list[list[str]]] = {}
    for section in re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE)[1:]:
        heading, *lines = section.splitlines()
        rows = [line for line in lines if line.startswith("| ")][1:]
        found[heading] = [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    return found


SCHEMAS = {
    "Global fields": fields.GLOBAL,
    "A layer": fields.LAYER,
    "activation_quant_params": fields.ACTIVATION,
    "weight_quant_params": fields.WEIGHT,
    "bn_update_config": fields.BN_UPDATE,
    "tensor_quantize": fields.TENSOR,
}


@pytest.mark.parametrize("heading", SCHEMAS)
def test_table_of_config_json(heading):
    rows = tables(DOCS / "configuration.md")[heading]
    assert [(row[0], row[1], row[3]) for row in rows] == list(expected_rows(SCHEMAS[heading]))


def expected_rows(schema: Schema) -> Iterator[tuple[str, str, str]]:
    for field in schema.fields:
        words = "none" if field.default is None else "required" if field.default is REQUIRED else None
        yield field.name, field.kind.words, words or json.dumps(field.default)


def test_tables_of_the_simplified_configuration():
    shown = tables(DOCS / "configuration.md")
    messages = simplified_config_message().DESCRIPTOR.file.message_types_by_name
    refused = {"ADAQuantize", "NuqConfig", "NUQuantize"}
    assert set(messages) - refused <= set(shown)
    for name in set(messages) - refused:
        assert [row[:2] for row in shown[name]] == [[field.name, type_name(field)] for field in messages[name].fields]


def type_name(field) -> str:
    scalar = {5: "int32", 13: "uint32", 8: "bool", 9: "string", 2: "float"}
    kind = field.message_type or field.enum_type
    message = descriptor_pb2.DescriptorProto()
    field.containing_type.CopyToProto(message)  # a field itself says it by different names in different releases
    proto = message.field[field.index]
    repeated = "repeated " if proto.label == proto.LABEL_REPEATED else ""
    return repeated + (kind.name if kind else scalar[field.type])


def test_table_of_the_record():
    record = record_message().DESCRIPTOR.file.message_types_by_name["InnerSingleLayerRecord"]
    rows = tables(DOCS / "record_file.md")["Fields"]
    assert [row[:2] for row in rows] == [[field.name, type_name(field)] for field in record.fields]


def test_tables_of_the_options():
    from amct_tensorflow_cli.command_table import COMMANDS

    page = (DOCS / "command_line.md").read_text()
    for command in COMMANDS.values():
        for option in command.options():
            assert f"--{option.name}" in page, (command.name, option.name)
    described = set(re.findall(r"`--(\w+)", page))
    known = {name for command in COMMANDS.values() for each in command.options() for name in (each.name, each.alias)}
    assert described <= known | {"option"}


# The ops


def numpy_ops() -> dict:
    names: dict = {}
    exec(next(block.text for block in blocks(DOCS / "deployment_ops.md") if block.marks == "numpy"), names)
    return names


@pytest.mark.parametrize("offset", [-128, 0, 15])
def test_the_numpy_of_ascend_quant_and_ascend_anti_quant(offset):
    x = np.random.default_rng(0).uniform(-300, 300, 10_000).astype(np.float32)
    x[:8] = [-1.5, -0.5, 0.5, 1.5, 0.49999997, -0.49999997, 1e9, -1e9]
    names = numpy_ops()
    quantized = tensorflow_ops().ascend_quant(x, scale=1.0, offset=offset).numpy()
    np.testing.assert_array_equal(names["ascend_quant"](x, scale=1.0, offset=offset), quantized)
    np.testing.assert_array_equal(
        names["ascend_anti_quant"](quantized, scale=0.1, offset=offset),
        tensorflow_ops().ascend_anti_quant(quantized, scale=0.1, offset=offset).numpy(),
    )


def test_the_numpy_of_ascend_weight_quant():
    random = np.random.default_rng(0)
    x, offset = (random.integers(-128, 128, shape).astype(np.int8) for shape in ((3, 3, 4, 5), (1, 1, 1, 5)))
    expected = tensorflow_ops().ascend_weight_quant(x, offset, T=tf.float32).numpy()
    np.testing.assert_array_equal(numpy_ops()["ascend_weight_quant"](x, offset), expected)


@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shifts", [[0], [3], [0] * 5, [1, 16, 5, 0, 2]], ids=str)
@pytest.mark.parametrize("ksize", [(1, 1), (2, 3)], ids=str)
def test_the_numpy_of_ascend_dequant(data_format, shifts, ksize):
    random = np.random.default_rng(0)
    shape = (2, 5, 4, 3) if data_format == "NCHW" else (2, 4, 3, 5)
    x = random.integers(-(2**20), 2**20, shape).astype(np.float32)
    scales = random.uniform(1e-5, 1e-3, len(shifts)).astype(np.float32)
    words = scales.view(np.uint32).astype(np.uint64) | (np.array(shifts, np.uint64) << np.uint64(32))
    options = {"ksize": ksize, "data_format": data_format}
    expected = tensorflow_ops().ascend_dequant(x, words, **options).numpy()
    np.testing.assert_allclose(numpy_ops()["ascend_dequant"](x, words, **options), expected, rtol=1e-6)


# Messages


@dataclasses.dataclass(frozen=True)
class Site:
    """Where the code makes a message: its text, with … for what varies."""

    where: str
    text: str


ERRORS = re.compile(r"Amct\w*Error|UsageError|BuildError|NotImplementedError|push_warning_message|_warn|Foreign")
KERNEL_ERRORS = re.compile(
    r'(?:\w+Error\(|LogLevel::kWarning,|ErrorOrNull\(|return (?="))((?:"(?:[^"\\]|\\.)*"|[^";])*);'
)

# Messages that no user meets: mistakes of whoever makes ops by hand or changes a .proto.
EXCLUDED = (
    "num_bits must be in 2..16",
    "quant_bits must be in 2..16",
    "channel_ax",
    "the search needs 0 < start",
    "the search has more than 100000 candidates",
    "a percentile must be above 0",
    "num_of_bins must be",
    "weight scales for",
    "weight maxima for",
    "migration_strength must be",
    "fraction must be between 0 and 1",
    "the statistics are not those of batch norm",
    "ksize needs two sizes",
)


def sources(suffixes: tuple[str, ...]) -> list[Path]:
    packages = (ROOT / "amct_tensorflow", ROOT / "amct_tensorflow_cli")
    return [path for package in packages for path in sorted(package.rglob("*")) if path.suffix in suffixes]


def fixed_text(node: ast.AST) -> str:
    """Returns the text of a string expression, with … for what varies."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(fixed_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return fixed_text(node.left) + fixed_text(node.right)
    return "…"


def python_sites() -> Iterator[Site]:
    for path in sources((".py",)):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if ERRORS.fullmatch(name) and node.args:
                yield Site(f"{path.name}:{node.lineno}", fixed_text(node.args[0]))


def kernel_sites() -> Iterator[Site]:
    for path in sources((".cc", ".h")):
        code = path.read_text()
        for call in KERNEL_ERRORS.finditer(code):
            parts = re.split(r'("(?:[^"\\]|\\.)*")', call[1])
            text = "".join(part[1:-1] if part.startswith('"') else "…" if part.strip() else "" for part in parts)
            yield Site(f"{path.name}:{code[: call.start()].count(chr(10)) + 1}", text.replace('\\"', '"'))


def all_strings() -> list[str]:
    """Returns all strings of the sources: those of sites, and the parts that they are made of."""
    strings = [site.text for site in kernel_sites()]
    for path in sources((".py",)):
        strings += [fixed_text(node) for node in ast.walk(ast.parse(path.read_text())) if fixed_text(node) != "…"]
    return strings


def documented() -> list[str]:
    """Returns what stands in code at the start of the rows of tables that are headed `message` or `reason`."""
    messages = []
    for page in PAGES:
        for table in re.findall(r"^\| (?:message|reason) \|.*\n((?:\|.*\n)+)", page.read_text(), flags=re.MULTILINE):
            messages += re.findall(r"^\| `([^`]*)`", table, flags=re.MULTILINE)
    return messages


def occurs(message: str, text: str) -> bool:
    fragments = [" ".join(fragment.split()) for fragment in message.split("…")]
    return re.search(".*".join(map(re.escape, fragments)), " ".join(text.split())) is not None


def test_documented_messages_are_those_of_the_code():
    strings = all_strings()
    for message in documented():
        assert len(re.sub(r"\W", "", message)) >= 8, f"'{message}' says too little to search for"
        assert any(occurs(message, text) for text in strings), f"no code says '{message}'"


def test_every_message_is_documented():
    messages = documented()
    sites = [*python_sites(), *kernel_sites()]
    assert len(sites) > 100
    assert all(any(part in site.text for site in sites) for part in EXCLUDED)
    missing = [
        f"{site.where}: {site.text}"
        for site in sites
        if len(re.sub(r"\W", "", site.text)) >= 8
        and not any(part in site.text for part in EXCLUDED)
        and not any(occurs(message, site.text) for message in messages)
    ]
    assert not missing, "\n".join(missing)

"""The values of options, as typed."""

from __future__ import annotations

from collections.abc import Sequence

from absl.flags import FlagValues

# Far beyond what images are prepared with, and far from where float32 ends.
_LARGEST, _LEAST_STD = 1e6, 1e-6


class UsageError(ValueError):
    """What was typed cannot be understood; one sentence."""


def split_list(text: str) -> list[str]:
    """Returns the items of ``"a;b"``; a last ``;`` may be left."""
    return [item.strip() for item in text.strip().removesuffix(";").split(";")]


def output_list(text: str) -> list[str]:
    """Returns the names of ``"a:0;b:0"``.

    Raises:
        UsageError: a name is empty, or has a comma.
    """
    names = split_list(text)
    if not all(names):
        raise UsageError(f"--outputs '{text}' has an empty name: write \"a:0;b:0\"")
    if any("," in name for name in names):
        raise UsageError(
            f"--outputs '{text}' has a ',', which no name can have: write ';' between the names, and quote them"
        )
    return names


def check_entries(option: str, number: int, names: Sequence[str]) -> None:
    """Raises `UsageError` for more or fewer entries than inputs."""
    if number != len(names):
        raise UsageError(
            f"--{option} needs an entry for each input ({', '.join(names)}), but has {number}: write ';' between them, "
            "and quote them"
        )


def input_shapes(text: str) -> dict[str, list[int]]:
    """Returns name -> shape of ``"name:d0,d1;name2:d0,d1"``; the last colon ends the name.

    Raises:
        UsageError: it is not written like that, or has a name twice.
    """
    shapes: dict[str, list[int]] = {}
    for item in split_list(text):
        name, colon, dimensions = item.rpartition(":")
        if not colon or not name.strip():
            raise UsageError(
                "Invalid input_shape. Input name and shapes of each input node should be ':' split, and nodes ';' "
                f"split, as in \"input:32,224,224,3;other:32,10\", not '{item}'"
            )
        try:
            shape = [int(size) for size in dimensions.split(",")]
        except ValueError:
            raise UsageError(
                f"Invalid input_shape. The shape of '{name}' is '{dimensions}': write whole numbers with ',' between, "
                "the batch size first"
            ) from None
        if min(shape) < 1:
            raise UsageError(
                f"Invalid input_shape. The shape of '{name}' is '{dimensions}': write sizes above 0, the batch too"
            )
        if name.strip() in shapes:
            raise UsageError(f"Invalid input_shape. It has '{name}' twice")
        shapes[name.strip()] = shape
    return shapes


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Returns the numbers of ``"127.5"`` or ``"123.7,116.8,103.9"``.

    Raises:
        UsageError: they are none, or nothing that pixels of 0 to 255 could be prepared with.
    """
    try:
        found = tuple(float(item) for item in text.split(","))
    except ValueError:
        raise UsageError(f"--{option} '{text}' is not a number, or one for each channel with ',' between") from None
    if not all(abs(number) <= _LARGEST for number in found) or (option == "std" and min(map(abs, found)) < _LEAST_STD):
        raise UsageError(
            f"--{option} '{text}' cannot be meant for pixels of 0 to 255: give what the model was trained with"
        )
    return found


def image_size(text: str) -> tuple[int, int]:
    """Returns height and width of ``"224,224"``.

    Raises:
        UsageError: it is not written like that.
    """
    try:
        height, width = (int(item) for item in text.split(","))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise UsageError(f"--image_size '{text}' is not height,width: write for example 224,224")
    return height, width


def check_data_options(values: FlagValues) -> None:
    """Raises `UsageError` for options of data that cannot be parsed, or that do not go together."""
    shapes = None if values.input_shape is None else input_shapes(values.input_shape)
    for name in ("data_dir", "data_types"):
        text = values[name].value
        if text is not None and shapes is not None:
            check_entries(name, len(split_list(str(text))), list(shapes))
    for name in ("mean", "std"):
        text = values[name].value
        if text is not None:
            numbers(str(text), name)
    if values.image_size is not None:
        image_size(values.image_size)

"""The options of data, which several commands have."""

from __future__ import annotations

from absl.flags import FlagValues

from amct_tensorflow.data import DataFiles
from amct_tensorflow_cli.conf_file import CompressionConf
from amct_tensorflow_cli.values import image_size, input_shapes, numbers, split_list


def data_files(options: FlagValues, conf: CompressionConf | None = None) -> DataFiles:
    """Returns what the options say; the chip compiler's file takes precedence where it is given."""
    shape = None if options.input_shape is None else input_shapes(options.input_shape)
    return DataFiles(
        split_list(options.data_dir) if conf is None else conf.data_paths,
        input_shape=shape if conf is None else conf.input_shape,
        data_types=None if options.data_types is None else split_list(options.data_types),
        image_size=None if options.image_size is None else image_size(options.image_size),
        mean=0.0 if options.mean is None else numbers(options.mean, "mean"),
        std=1.0 if options.std is None else numbers(options.std, "std"),
        channel_order=options.channel_order,
    )

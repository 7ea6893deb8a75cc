"""A ``datasets.Dataset`` in memory or on disk, purified into another one: row by row as the table layouts do it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eclipse.compute.device import compute_dtype
from eclipse.data.layouts.columns import encoded_images, find_image_column, with_bytes
from eclipse.data.picture import MAX_BYTES, Picture, encode_png
from eclipse.data.store import Row
from eclipse.diffusion.checkpoint import fingerprint_denoiser
from eclipse.diffusion.denoiser import Denoiser
from eclipse.errors import EclipseError, require
from eclipse.purification.algorithm import check_ids, prepare
from eclipse.purification.stream import Treatment, purified_rows

_ROWS = 64  # read and written at a time, as encoded images


_TABLES = {"arrow_dataset.Dataset", "dataset_dict.DatasetDict", "iterable_dataset.IterableDataset"}


def is_table(data: object) -> bool:
    """Whether it is of a class of ``datasets``, which is not imported for the question."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(data).__mro__}
    return not names.isdisjoint(f"datasets.{name}" for name in _TABLES)


def purify_table(
    data: Any, denoiser: Denoiser, treatment: Treatment, ids: Sequence[str] | None, image_column: str | None
) -> Any:
    """Purify a ``datasets.Dataset`` in bounded memory, by way of its cache on disk.

    Args:
        data: with a column of encoded images, found as in tables on disk; their paths may lead to files.
        denoiser: serves the level of the treatment.
        treatment: decides the bytes.
        ids: one a row; by default the row number.
        image_column: the column with the images; found by its type when not given.

    Returns:
        A dataset of the same features, format and rows, with other images, as PNG.

    Raises:
        EclipseError: no such dataset, no or several image columns, an image that cannot be read or is of a size that
            the denoiser does not take.
    """
    datasets = require("datasets", "hub")
    if not isinstance(data, datasets.Dataset):
        raise EclipseError(
            f"a {type(data).__name__}; expected a datasets.Dataset: name one split of a DatasetDict, and use "
            "eclipse.transforms.Purify in the map of an IterableDataset"
        )
    names = [str(number) for number in range(len(data))] if ids is None else list(ids)
    check_ids(names, len(data))
    schema = data.features.arrow_schema
    column = find_image_column(schema, image_column, Path("the dataset"))
    ready = prepare(denoiser, treatment.device)

    def changed(table: Any, numbers: Sequence[int]) -> Any:
        images = table.column(column).combine_chunks()
        items = purified_rows(_rows(images, numbers, [names[number] for number in numbers]), ready, treatment)
        pngs = [encode_png(item.picture) for item in items if isinstance(item.picture, Picture)]
        return table.set_column(
            table.schema.get_field_index(column), schema.field(column), with_bytes(images, pngs, ".png")
        )

    decides = [
        *(data._fingerprint, fingerprint_denoiser(denoiser), repr(treatment), column, ids and names),
        repr(compute_dtype(treatment.device)[0]),
    ]
    fingerprint = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
    # What is in memory would get more in memory; its results lie where datasets has such files, until the process ends.
    folder = None if data.cache_files else datasets.fingerprint.get_temporary_cache_files_directory()
    new = data.with_format("arrow").map(
        changed,
        with_indices=True,
        batched=True,
        batch_size=_ROWS,
        writer_batch_size=_ROWS,
        features=data.features,
        cache_file_name=folder and f"{folder}/purified-{fingerprint}.arrow",
        new_fingerprint=fingerprint,
        desc="Purifying",
    )
    form = data.format
    return new.with_format(form["type"], form["columns"], form["output_all_columns"], **form["format_kwargs"])


def _rows(images: Any, numbers: Sequence[int], names: Sequence[str]) -> Iterator[Row]:
    for (data, place), number, name in zip(encoded_images(images), numbers, names, strict=True):
        found = data or _read(place)
        absent = f"holds the path {place[:200]!r}, where no file is; expected an image" if place and not found else ""
        yield Row(name, f"row {number}", None, found, absent)


def _read(place: str | None) -> bytes:
    """The file of an image of which a table has the path alone, as ``datasets`` itself reads it."""
    if not place or "\0" in place or not Path(place).is_file():
        return b""
    with open(place, "rb") as file:
        return file.read(MAX_BYTES + 1)

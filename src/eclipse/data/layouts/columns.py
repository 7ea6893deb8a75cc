"""The columns of a table: which hold images and labels, and how a new image takes the place of an old one."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eclipse.errors import EclipseError, is_utf8, unknown
from eclipse.runs.files import parse_json

IMAGE_NAMES = ("image", "img", "picture", "jpg", "png")
_LABEL_NAMES = ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Columns:
    """The columns that hold images and labels, where the user names them."""

    image: str | None = None
    label: str | None = None


def _holds_encoded(kind: Any) -> bool:
    """Whether a type is the struct of bytes and path in which ``datasets`` keeps images."""
    return (
        bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    )


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def may_hold_images(kind: Any) -> bool:
    """Whether a column holds encoded images or other bytes, one or a list of them in each row."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return may_hold_images(kind.value_type)
    return _holds_encoded(kind) or _is_binary(kind)


def is_text(kind: Any) -> bool:
    """Whether a column holds strings, plain or dictionary-encoded."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def is_scalar(kind: Any) -> bool:
    """Whether a column fits a NumPy array of numbers, truth values or strings."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(number or is_text(kind))


def is_json(kind: Any) -> bool:
    """Whether a column fits JSON."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return is_json(kind.value_type)
    if pa.types.is_struct(kind):
        return all(is_json(kind.field(i).type) for i in range(kind.num_fields))
    return is_scalar(kind) or bool(pa.types.is_null(kind))


def plain_schema(schema: Any) -> Any:
    """The schema without view types, of which pyarrow can read and write but not select the rows.

    Raises:
        UnicodeDecodeError: a name is no text.
    """
    for i, field in enumerate(schema):
        if (kind := _plain(field.type)) != field.type:
            schema = schema.set(i, field.with_type(kind))
    return schema


def _plain(kind: Any) -> Any:
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([pa.field(f.name, _plain(f.type), f.nullable, f.metadata) for f in fields])
    for is_list, of in ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list)):
        if is_list(kind):
            return of(kind.value_field.with_type(_plain(kind.value_type)))
    return pa.string() if kind == pa.string_view() else pa.binary() if kind == pa.binary_view() else kind


def joined_schema(first: Any, other: Any, first_path: Path, path: Path) -> Any:
    """One schema for two files of a set: what is empty in one is of the type of the other.

    Raises:
        EclipseError: names the column that differs.
    """
    other = plain_schema(other)
    if first.names != other.names:
        raise EclipseError(f"{path} has other columns than {first_path}; expected one schema in all files")
    for i, (ours, theirs) in enumerate(zip(first, other, strict=True)):
        if (kind := _joined(ours.type, theirs.type)) is None:
            raise EclipseError(
                f"the column {ours.name!r} is {theirs.type} in {path} and {ours.type} in {first_path}; expected one "
                "type in all files: convert one of them"
            )
        first = first.set(i, ours.with_type(kind).with_nullable(ours.nullable or theirs.nullable))
    return first


def _joined(a: Any, b: Any) -> Any:
    """The type that holds the values of both; None where there is none."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    for large, small in ((pa.large_string(), pa.string()), (pa.large_binary(), pa.binary())):
        if {a, b} == {large, small}:
            return large
    if pa.types.is_struct(a) and pa.types.is_struct(b) and [f.name for f in a] == [f.name for f in b]:
        kinds = [_joined(ours.type, theirs.type) for ours, theirs in zip(a, b, strict=True)]
        return None if None in kinds else pa.struct([f.with_type(kind) for f, kind in zip(a, kinds, strict=True)])
    if pa.types.is_list(a) and pa.types.is_list(b) and (kind := _joined(a.value_type, b.value_type)) is not None:
        return pa.list_(a.value_field.with_type(kind))
    return None


def fitted(batch: Any, schema: Any) -> Any:
    """The batch with its columns in the types that they have in a schema."""
    fields = [schema.field(name) for name in batch.schema.names]
    if all(field.type == column.type for field, column in zip(fields, batch.columns, strict=True)):
        return batch
    columns = [column.cast(field.type) for field, column in zip(fields, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def check_selectable(schema: Any, path: Path) -> None:
    """Refuse, by name, a column that cannot be written again."""
    for field in schema:
        if not is_writable(field):
            raise EclipseError(
                f"the column {field.name!r} of {path} is {field.type}, which cannot be written again; expected "
                "numbers, text, bytes or lists of them: convert or remove it"
            )


def is_writable(field: Any) -> bool:
    """Whether single rows of a column can be taken and written to Parquet, tried on one that is empty."""
    one = pa.schema([field.with_nullable(True)])
    try:
        batch = pa.RecordBatch.from_arrays([pa.nulls(1, field.type)], schema=one).filter(pa.array([True]))
        pq.write_table(pa.Table.from_batches([batch]), pa.BufferOutputStream())
    except pa.ArrowException:
        return False
    return True


def find_image_column(schema: Any, wanted: str | None, path: Path) -> str:
    """Name the column with the images: the one asked for, else the one of the right type, else one of a usual name."""
    if len(set(schema.names)) < len(schema.names):
        raise EclipseError(
            f"{path} has two columns of the same name ({', '.join(schema.names)}); expected different names"
        )
    structs = [field.name for field in schema if _holds_encoded(field.type)]
    binaries = [field.name for field in schema if _is_binary(field.type)]
    if wanted is not None:
        _require_column(schema, wanted, structs + binaries, "encoded images", path)
        return wanted
    candidates = structs or binaries
    preferred = [name for name in IMAGE_NAMES if name in candidates]
    if len(candidates) == 1 or preferred:
        return preferred[0] if preferred else candidates[0]
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
    if candidates:
        raise EclipseError(
            f"{path} has the image columns {', '.join(candidates)}; expected one: name it with --image-column"
        )
    raise EclipseError(
        f"{path} has no image column; expected one of binary or struct<bytes, path> type among its columns: {listed}"
    )


def find_label_column(schema: Any, wanted: str | None, path: Path) -> str | None:
    """Name the column with the classes: the one asked for, else one of a usual name, else None."""
    usable = [f.name for f in schema if pa.types.is_integer(f.type) or is_text(f.type)]
    if wanted is not None:
        _require_column(schema, wanted, usable, "integers or strings", path)
        return wanted
    return next((name for name in _LABEL_NAMES if name in usable), None)


def why_unlabelled(schema: Any, path: Path) -> str:
    """Why no column was taken for the classes, and what to do."""
    unfit = [name for name in _LABEL_NAMES if name in schema.names]
    if unfit:
        return (
            f"the column {unfit[0]!r} of {path} is {schema.field(unfit[0]).type}; expected integers or strings: "
            "convert it, or name another one with --label-column"
        )
    usable = [f"{f.name} ({f.type})" for f in schema if pa.types.is_integer(f.type) or is_text(f.type)]
    return (
        f"{path} has no column {', '.join(_LABEL_NAMES[:-1])} or {_LABEL_NAMES[-1]}; expected the classes in one: name "
        f"it with --label-column, or rename it to {_LABEL_NAMES[0]!r}, among "
        f"{', '.join(usable) or 'integers or strings, of which there are none'}"
    )


def _require_column(schema: Any, wanted: str, usable: Sequence[str], content: str, path: Path) -> None:
    if wanted not in schema.names:
        raise unknown(f"column of {path.name}", wanted, schema.names)
    if wanted not in usable:
        raise EclipseError(f"column {wanted!r} of {path} is {schema.field(wanted).type}; expected {content}")


def named_classes(metadata: Mapping[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """Class names as ``datasets`` keeps them in the metadata of a schema; ValueError where these are damaged."""
    try:
        names = parse_json((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError):
        return None
    if not isinstance(names, list):
        return None
    if not all(isinstance(name, str) and is_utf8(name) for name in names):
        raise ValueError(f"the class names of {column} are not text")
    return tuple(names)


def encoded_images(column: Any) -> Iterator[tuple[bytes | None, str | None]]:
    """Yield the bytes and the path of each image of a column; either may be missing."""
    if not pa.types.is_struct(column.type):
        yield from ((data.as_py(), None) for data in column)
        return
    has_path = column.type.get_field_index("path") >= 0
    paths = pc.struct_field(column, "path").to_pylist() if has_path else repeat(None)
    for data, path in zip(pc.struct_field(column, "bytes"), paths, strict=False):
        yield data.as_py(), path


def with_bytes(column: Any, images: Sequence[bytes], suffix: str) -> Any:
    """The same column with other images, and paths with their ending."""
    if not pa.types.is_struct(column.type):
        return pa.array(images, column.type)
    fields = [column.type.field(i) for i in range(column.type.num_fields)]
    parts = {field.name: column.field(field.name) for field in fields}
    parts["bytes"] = pa.array(images, column.type.field("bytes").type)
    if "path" in parts:
        paths = [_new_path(path, suffix) for path in parts["path"].to_pylist()]
        parts["path"] = pa.array(paths, parts["path"].type)
    return pa.StructArray.from_arrays([parts[field.name] for field in fields], fields=fields)


def _new_path(path: str | None, suffix: str) -> str | None:
    """The path in a cell with its new ending; of an absolute one, which is of some machine, the name."""
    if not path:
        return path
    return os.path.splitext(os.path.basename(path) if os.path.isabs(path) else path)[0] + suffix


def image_schema(class_names: Sequence[str] | None, has_labels: bool, others: Mapping[str, Any]) -> Any:
    """The schema of columns ``image`` and ``label``, with the metadata by which ``datasets`` decodes them.

    Args:
        class_names: of the labels, where they have names.
        has_labels: whether there is a column ``label``.
        others: the types of further columns by their names.
    """
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    if has_labels:
        fields.append(pa.field("label", pa.int64()))
        named = {"names": list(class_names), "_type": "ClassLabel"} if class_names else None
        features["label"] = named or {"dtype": "int64", "_type": "Value"}
    fields += [pa.field(name, kind) for name, kind in others.items()]
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def image_batch(schema: Any, rows: Sequence[tuple[bytes, str, Mapping[str, Any]]]) -> Any:
    """Make a batch of that schema from (image, path, values of the other columns)."""
    images = pa.array([{"bytes": image, "path": path} for image, path, _ in rows], schema.field(0).type)
    others = [pa.array([values.get(field.name) for _, _, values in rows], field.type) for field in list(schema)[1:]]
    return pa.RecordBatch.from_arrays([images, *others], schema=schema)

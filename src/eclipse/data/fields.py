"""What rows tell beside image and label: the fields of captions, metadata and other arrays, and what can hold them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from eclipse.data.layouts.columns import is_scalar, is_writable
from eclipse.errors import EclipseError

_ROWS = 64  # looked at together
_MOST = 1000  # of one set; more are no fields but data

_TAKEN: Mapping[str, tuple[str, ...]] = {
    "npz": ("images", "labels", "class_names"),
    "folder": ("file_name",),
    "parquet": ("image",),
}


def is_taken(format: str, name: str, has_labels: bool) -> bool:
    """Whether a format has something of this name itself."""
    return name in _TAKEN.get(format, ()) or (has_labels and name == "label" and format in ("folder", "parquet"))


@dataclass(frozen=True)
class Field:
    """One field of all rows.

    Attributes:
        kind: the Arrow type that holds all of its values; None where there is none.
        is_complete: whether every row has a value.
    """

    kind: Any
    is_complete: bool

    def fits(self, format: str, name: str) -> bool:
        """Whether a format can hold the field under this name, which is free."""
        if format == "npz":
            return self.kind is not None and is_scalar(self.kind) and self.is_complete and name.isidentifier()
        return format != "parquet" or (self.kind is not None and is_writable(pa.field(name, self.kind)))


def scan(rows: Iterable[Mapping[str, Any]], what: str) -> dict[str, Field]:
    """Go through the fields of all rows, and tell of what type each is.

    Raises:
        EclipseError: more fields than rows of a table have.
    """
    found: dict[str, Field] = {}
    before = 0
    for part in _parts(rows):
        names = {name: None for row in part for name in row}
        if len(found.keys() | names) > _MOST:
            raise EclipseError(
                f"the rows of {what} have more than {_MOST} different fields; expected fewer: keep the layout"
            )
        for name in [*found, *(name for name in names if name not in found)]:
            values = [row.get(name) for row in part]
            old = found.get(name, Field(pa.null(), before == 0))
            found[name] = Field(_joined(old.kind, _kind(values)), old.is_complete and None not in values)
        before += len(part)
    return found


def _parts(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    waiting = iter(rows)
    return iter(lambda: list(islice(waiting, _ROWS)), [])


def _kind(values: Sequence[Any]) -> Any:
    try:
        return pa.array(values).type
    except Exception:  # numbers and words, integers of any size, half a surrogate: pyarrow raises almost anything
        return None


def _joined(a: Any, b: Any) -> Any:
    if a is None or b is None or a == b:
        return a if a == b else None
    one, other = (pa.schema([("field", kind)]) for kind in (a, b))
    try:
        return pa.unify_schemas([one, other], promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None

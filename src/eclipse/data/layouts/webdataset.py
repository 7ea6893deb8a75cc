"""WebDataset: tar shards in which the members ``KEY.png``, ``KEY.cls``, ``KEY.txt`` of one key make a sample."""

import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from eclipse.data.layouts.folder import is_image
from eclipse.data.layouts.tree import carry, fault_of, refuse_split_files, top_files, walk
from eclipse.data.picture import HEAD_BYTES, MAX_BYTES, begins_as_image
from eclipse.data.store import Replacements, Row
from eclipse.errors import EclipseError, reading
from eclipse.runs.files import parse_json, read_bounded

NAMES_FILE = "classnames.txt"
_TEXTS = ("txt", "text", "caption", "cls")  # endings of members that are text
_FIELD_BYTES = 2**20  # of a member that is a field of its row
_CLASS_BYTES = 64  # of a .cls member: one integer
_HEADER_BYTES = 2**20  # of one that extends the header of the next member: a long name, say
_EXTENDED = (*tarfile.GNU_TYPES[:2], tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True)
class Sample:
    """The adjacent members of one key.

    Attributes:
        key: the path of the members up to the first dot of the name.
        members: all of them, in order.
        image: the one that is the image, or None.
    """

    key: str
    members: tuple[tarfile.TarInfo, ...]
    image: tarfile.TarInfo | None

    @property
    def label(self) -> tarfile.TarInfo | None:
        """The member with the class."""
        return next((member for member in self.members if _extension(member.name) == "cls"), None)


class ShardStore:
    """Tar shards, one after the other (see `Store`); ids are shard and key."""

    layout = "webdataset"

    def __init__(self, shards: Sequence[Path], root: Path | None, is_folder: bool) -> None:
        self.root = root
        self.is_folder = is_folder
        self._shards = tuple(shards)
        scanned = [_scan(shard) for shard in self._shards]
        self._counts = tuple(images for images, _, _ in scanned)
        images, labelled = sum(self._counts), sum(count for _, count, _ in scanned)
        problem = next((problem for _, _, problem in scanned if problem), "")
        if not problem and 0 < labelled < images:
            problem = f"{images - labelled} of the {images} images of {root or shards[0]} have no KEY.cls; expected all"
        self.unusable_labels = problem
        self.unlabelled = (
            problem or f"{root or shards[0]} has no members KEY.cls; expected the number of a class in each"
        )
        self.has_labels = not problem and labelled == images
        self.class_names = _read_names(root) if root is not None and is_folder and self.has_labels else None

    def __len__(self) -> int:
        return sum(self._counts)

    def _overlaps(self, start: int, stop: int) -> Iterator[tuple[Path, range]]:
        """Yield each shard with rows in start to stop, and which of its own rows they are."""
        first = 0
        for shard, count in zip(self._shards, self._counts, strict=True):
            inside = range(max(start - first, 0), min(stop - first, count))
            if inside:
                yield shard, inside
            first += count

    def read(self, start: int, stop: int) -> Iterator[Row]:
        """Stream the samples that have an image."""
        return self._rows(start, stop, with_data=True)

    def outline(self, start: int, stop: int) -> Iterator[Row]:
        """The rows without their data."""
        return self._rows(start, stop, with_data=False)

    def _rows(self, start: int, stop: int, with_data: bool) -> Iterator[Row]:
        for shard, inside in self._overlaps(start, stop):
            with _opened(shard) as tar:
                with_image = (sample for sample in _samples(tar, shard) if sample.image is not None)
                for sample in islice(with_image, inside.start, inside.stop):
                    yield self._row(tar, shard, sample, with_data)

    def _row(self, tar: tarfile.TarFile, shard: Path, sample: Sample, with_data: bool) -> Row:
        assert sample.image is not None
        label = None
        if self.has_labels and sample.label is not None:
            label = _class_number(tar, shard, sample.label)
        data = _content(tar, sample.image, MAX_BYTES + 1) if with_data else b""
        return Row(f"{shard.name}/{sample.key}", f"{shard.name}/{sample.image.name}", label, data)

    def others(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        """Captions and other text by the endings of their members, and what JSON tells."""
        for shard, inside in self._overlaps(start, stop):
            with _opened(shard) as tar:
                with_image = (sample for sample in _samples(tar, shard) if sample.image is not None)
                for sample in islice(with_image, inside.start, inside.stop):
                    yield _fields(tar, self._further(sample))[0]

    def _further(self, sample: Sample) -> list[tarfile.TarInfo]:
        """The members that are neither image nor class."""
        known = (sample.image, sample.label if self.has_labels else None)
        return [member for member in sample.members if member not in known]

    def _kinds(self, is_left: Callable[[tarfile.TarFile, Sample], list[tarfile.TarInfo]]) -> list[str]:
        """How many members there are of each ending, of those that are chosen; all shards are gone through."""
        counts: Counter[str] = Counter()
        for shard in self._shards:
            with _opened(shard) as tar:
                for sample in _samples(tar, shard):
                    counts.update(_kind(member.name) for member in is_left(tar, sample))
        return [f"{kind} ({count:,})" for kind, count in sorted(counts.items())]

    @cached_property
    def _kinds_left(self) -> list[str]:
        return self._kinds(lambda tar, sample: _fields(tar, self._further(sample))[1])

    @cached_property
    def _kinds_beside(self) -> list[str]:
        return self._kinds(lambda _, sample: [m for m in sample.members if m not in (sample.image, sample.label)])

    def left_behind(self) -> Iterator[str]:
        """The endings of the members that are no field of a row, and the other files of the folder."""
        yield from self._kinds_left
        yield from self._other_files()

    def beside(self) -> Iterator[str]:
        """The endings of the members that are neither image nor class, and the other files of the folder."""
        yield from self._kinds_beside
        yield from self._other_files()

    def _other_files(self) -> Iterator[str]:
        if self.root is not None and self.is_folder:
            known = {shard.name for shard in self._shards} | {NAMES_FILE}
            yield from (path for path in walk(self.root) if path not in known)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Name the shards, and the file with the names of their classes."""
        yield from ((shard.name, shard) for shard in self._shards)
        if self.root is not None and self.is_folder and (self.root / NAMES_FILE).is_file():
            yield NAMES_FILE, self.root / NAMES_FILE

    def write(self, target: Path, span: range, new: Replacements) -> None:
        """Write the same shards; those outside the span are left out, members without an image come along."""
        for shard, inside in self._overlaps(span.start, span.stop):
            _rewrite(shard, target / shard.name if self.is_folder else target, inside, new)
        if self.root is not None and self.is_folder:
            names = {shard.name for shard in self._shards}
            carry(self.root, target, lambda path: path not in names)


def open_webdataset(path: Path) -> ShardStore:
    """Open one tar file, a folder of them, or a range ``shards-{000..004}.tar``."""
    if path.is_dir():
        shards = top_files(path, ".tar")
        refuse_split_files(path, shards)
        return ShardStore(shards, path, is_folder=True)
    if path.is_file():
        return ShardStore([path], path, is_folder=False)
    named = []
    for name in expand_range(str(path)):
        if not Path(name).is_file():
            raise EclipseError(f"no such path: {name!r} (of {str(path)!r}); expected every shard of the range")
        named.append(Path(name))
    return ShardStore(named, None, is_folder=True)


def expand_range(text: str) -> Iterator[str]:
    """Write out the first ``{000..004}`` in a text, with its leading zeros, and the ones after it in turn."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found is None:
        yield text
        return
    low, high = found.groups()
    for number in range(int(low), int(high) + 1):
        yield from expand_range(f"{text[: found.start()]}{number:0{len(low)}d}{text[found.end() :]}")


def add_member(tar: tarfile.TarFile, name: str, data: bytes, like: tarfile.TarInfo | None = None) -> None:
    """Append a file, with the times and owner of another member or none."""
    tar.addfile(_entry(name, len(data), like), io.BytesIO(data))


def _entry(name: str, size: int, like: tarfile.TarInfo | None) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # not a copy: extended headers of the old one would override name and size
    if like is not None:
        member.mtime, member.mode = like.mtime, like.mode
        member.uid, member.gid, member.uname, member.gname = like.uid, like.gid, like.uname, like.gname
    member.size = size
    return member


def _extension(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[2].lower()


def _kind(name: str) -> str:
    """The members of one ending, in words."""
    ending = _extension(name)
    return f"KEY.{ending}" if ending else "KEY"


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


class _Member(tarfile.TarInfo):
    """Reads no header of an unreasonable size into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _EXTENDED and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


@contextmanager
def _opened(shard: Path) -> Iterator[tarfile.TarFile]:
    """Open a shard for reading member by member, and word what is wrong with it."""
    with reading(shard, "a complete, uncompressed tar file"), tarfile.open(shard, "r:", tarinfo=_Member) as tar:
        yield tar


def _scan(shard: Path) -> tuple[int, int, str]:
    """Read all headers of a shard, and the classes.

    Returns:
        How many samples have an image, how many of these a class, and what is wrong with the first class that is no
        number; other tools keep names there, and a purification needs neither.
    """
    images = labelled = 0
    problem = ""
    keys: set[str] = set()
    with _opened(shard) as tar:
        for sample in _samples(tar, shard):
            if sample.key in keys:
                raise EclipseError(
                    f"{shard} has the key {sample.key!r} in two places; expected its members side by side"
                )
            keys.add(sample.key)
            images += sample.image is not None
            if sample.image is not None and sample.label is not None:
                labelled += 1
                problem = problem or _problem_of(tar, shard, sample.label)
        _refuse_rest(tar, shard)
    return images, labelled, problem


def _refuse_rest(tar: tarfile.TarFile, shard: Path) -> None:
    """Raise where reading ended at something else than the zeros that end an archive.

    `tarfile` stops at a damaged header and at the end of a shortened file without a word.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EclipseError(
            f"{shard} is damaged or cut off at byte {tar.offset}; expected a complete tar file: write it again"
        )


def _members(tar: tarfile.TarFile, shard: Path) -> Iterator[tarfile.TarInfo]:
    # Opening has read the first member. Python 3.10 asks for a place before the file where there was none.
    while tar.offset and (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would grow with the shard
        if fault := fault_of(member.name):
            raise EclipseError(f"{shard} has the member {member.name[:200]!r}, which {fault}; expected a path inside")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise EclipseError(
                f"{shard} has the member {member.name!r}, a link or device; expected files and folders alone"
            )
        if member.isreg() and not _is_of_a_mac(member.name):
            yield member


def _is_of_a_mac(name: str) -> bool:
    """Whether a member is what tar on a Mac packs beside each file: its attributes, named ``._`` and the name."""
    return PurePosixPath(name).name.startswith("._")


def _samples(tar: tarfile.TarFile, shard: Path) -> Iterator[Sample]:
    """Group adjacent members by key."""
    waiting: list[tarfile.TarInfo] = []
    for member in _members(tar, shard):
        if waiting and _key(member.name) != _key(waiting[0].name):
            yield _sample(tar, waiting, shard)
            waiting = []
        waiting.append(member)
    if waiting:
        yield _sample(tar, waiting, shard)


def _sample(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo], shard: Path) -> Sample:
    """Find the image, by name or content: KEY.jpg goes before KEY.mask.png."""
    key = _key(members[0].name)
    images = [member for member in members if is_image(member.name) or _begins_as_image(tar, member)]
    candidates = [member for member in images if "." not in _extension(member.name)] or images
    if len(candidates) > 1:
        names = " and ".join(member.name for member in candidates)
        raise EclipseError(f"{shard} has two images of one key, {names}; expected one: give them different keys")
    return Sample(key, tuple(members), candidates[0] if candidates else None)


def _begins_as_image(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bool:
    return begins_as_image(_content(tar, member, HEAD_BYTES))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # _members yields regular files only
    return file.read(min(member.size, limit))  # read() sets aside as much as it is asked for


def _fields(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> tuple[dict[str, Any], list[tarfile.TarInfo]]:
    """What members tell of their image, by the names of fields, and the members that tell nothing that is read."""
    fields, left = dict[str, Any](), []
    for member in members:
        found = _told(tar, member)
        if found is None or found.keys() & fields.keys():
            left.append(member)
        else:
            fields |= found
    return fields, left


def _told(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Mapping[str, Any] | None:
    """What one member tells: text by its ending, the entries of KEY.json by their names, other JSON by its ending."""
    ending = _extension(member.name)
    kind = ending.rpartition(".")[2]
    if kind not in ("json", *_TEXTS) or member.size > _FIELD_BYTES:
        return None
    content = _content(tar, member, _FIELD_BYTES)
    try:
        value = parse_json(content) if kind == "json" else content.decode()
    except ValueError:
        return None
    return value if ending == "json" and isinstance(value, dict) else {ending: value}


def _read_names(folder: Path) -> tuple[str, ...] | None:
    """Class names, one a line, in the file that zero-shot benchmarks keep beside the shards."""
    path = folder / NAMES_FILE
    if not path.is_file():
        return None
    with reading(path, "class names in UTF-8, one a line"):
        text = read_bounded(path).decode().replace("\r\n", "\n").replace("\r", "\n")
    return tuple(text.removesuffix("\n").split("\n")) if text else ()


def _problem_of(tar: tarfile.TarFile, shard: Path, member: tarfile.TarInfo) -> str:
    try:
        _class_number(tar, shard, member)
    except EclipseError as error:
        return str(error)
    return ""


def _class_number(tar: tarfile.TarFile, shard: Path, member: tarfile.TarInfo) -> int:
    text = _content(tar, member, _CLASS_BYTES)
    if member.size > _CLASS_BYTES or not re.fullmatch(rb"\s*[+-]?[0-9]+\s*", text):  # int() takes b"1_0" for 10
        raise EclipseError(f"{shard.name}/{member.name} holds {text!r}; expected the number of a class")
    return int(text)


def _rewrite(shard: Path, target: Path, inside: range, new: Replacements) -> None:
    """Copy a shard with other images, without the samples outside the range or left out."""
    row = 0
    with _opened(shard) as tar, tarfile.open(target, "w") as out:
        for sample in _samples(tar, shard):
            image = None
            if sample.image is not None:
                image = new.take(f"{shard.name}/{sample.key}") if row in inside else None
                row += 1
                if image is None:
                    continue
            for member in sample.members:
                if member is sample.image and image is not None:
                    # Not by without_ending, which drops the "./" that the other members of the key keep.
                    stem = member.name.rpartition(".")[0] if is_image(member.name) else sample.key
                    add_member(out, stem + new.suffix, image, member)
                else:
                    out.addfile(_entry(member.name, member.size, member), tar.extractfile(member))

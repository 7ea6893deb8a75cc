"""A reader for the few pickles that image data sets come in, which can run no code, and the writer for them.

A pickle is a program. Python's own reader executes it; this one knows some thirty of its instructions, of which the
only ones that name Python objects are compared with five known spellings of "a NumPy array of bytes" and never looked
up. Long strings (the pixels) are not read but remembered as a place in the file, so a data set costs little memory.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from eclipse.errors import EclipseError

Kind = Literal["old", "bytes", "text", "latin"]

INSTRUCTIONS = 1_000_000  # of a file of any size
_SHORT = 512  # bytes; longer strings are remembered by place
_LONG_BYTES = 9  # a signed number of 64 bits and its sign
_MAX_PROTOCOL = 5
_NAME_BYTES = 256

_RECONSTRUCT = frozenset(f"numpy{inner}.multiarray _reconstruct" for inner in (".core", "._core"))
_FROM_BUFFER = frozenset(f"numpy{inner}.numeric _frombuffer" for inner in (".core", "._core"))
_KNOWN_NAMES = _RECONSTRUCT | _FROM_BUFFER | {"numpy ndarray", "numpy dtype", "_codecs encode"}


@dataclass(frozen=True, slots=True)
class String:
    """A string in a pickle.

    Attributes:
        kind: ``old`` (of Python 2: text or bytes), ``bytes``, ``text``, or ``latin`` (bytes spelled as text).
        size: bytes in the file.
        offset: where in the file.
        value: what it stands for, when that is short: bytes, or UTF-8 for ``text``.
    """

    kind: Kind
    size: int
    offset: int
    value: bytes | None

    @property
    def text(self) -> str:
        """The characters of a short string; empty for a long one."""
        return (self.value or b"").decode("utf-8" if self.kind == "text" else "latin-1", "replace")

    def load(self, file: IO[bytes]) -> bytes:
        """Read the bytes that the string stands for."""
        file.seek(self.offset)
        data = file.read(self.size)
        return _from_latin(data) if self.kind == "latin" else data


@dataclass(frozen=True)
class Name:
    """A Python object that the pickle names; it is never looked up."""

    name: str


@dataclass(frozen=True)
class ByteType:
    """The data type uint8."""


@dataclass(eq=False)
class ByteArray:
    """A uint8 array; a pickle creates it empty and fills it later."""

    shape: tuple[int, ...] = ()
    is_fortran: bool = False
    data: String | None = None


class _Refused(Exception):
    """The pickle has something that the known layouts do not have."""


def read_pickle(path: Path) -> Any:
    """Read a pickle made of dicts, lists, tuples, numbers, strings and uint8 arrays.

    Strings come back as `String`, arrays as `ByteArray`. Nothing in the file is executed, whatever it says.

    Raises:
        EclipseError: when the file needs any other object or is damaged.
    """
    with open(path, "rb") as file:
        try:
            return _Reader(file, path.stat().st_size).run()
        except _Refused as error:
            raise unreadable(path, str(error)) from error
        except OSError:
            raise
        except Exception as error:  # whatever instructions in a wrong order lead to
            raise unreadable(path, "it is damaged or holds unknown objects") from error


def unreadable(path: Path, reason: str) -> EclipseError:
    """Word the refusal of a pickle."""
    return EclipseError(
        f"{path} is not a pickle that can be read safely ({reason}); expected a CIFAR python batch or the ECLIPSE list "
        "of (3072 bytes, int): convert other data to .npz or a folder of images"
    )


class _Reader:
    """The stack machine of the pickle format, reduced to plain data."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        # Real files need an instruction for every few hundred bytes beyond their labels and names.
        for _ in range(INSTRUCTIONS + self._size // 100):
            code = self._file.read(1)
            if code == b".":
                return self.stack.pop()
            if code not in _INSTRUCTIONS:
                raise _Refused(f"instruction {code!r} is not allowed" if code else "it is truncated")
            _INSTRUCTIONS[code](self)
        raise _Refused("it has too many instructions for its size")

    def integer(self, layout: str) -> int:
        value: int = struct.unpack(layout, self._file.read(struct.calcsize(layout)))[0]
        return value

    def protocol(self) -> None:
        if self.integer("<B") > _MAX_PROTOCOL:
            raise _Refused("its protocol is unknown")

    def frame(self) -> None:
        self.integer("<Q")  # its length; the instructions in it follow as if it were not there

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def long(self) -> None:
        size = self.integer("<B")
        if size > _LONG_BYTES:
            raise _Refused("it has a number of more than 64 bits")
        self.push(int.from_bytes(self._file.read(size), "little", signed=True))

    def string(self, kind: Kind, layout: str) -> None:
        size = self.integer(layout)
        offset = self._file.tell()
        if not 0 <= size <= self._size - offset:
            raise _Refused("it is truncated")
        value = self._file.read(size) if size <= _SHORT else None
        self._file.seek(offset + size)
        self.push(String(kind, size, offset, value))

    def mark(self) -> None:
        self._marks.append(len(self.stack))

    def since_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise _Refused("it is damaged")
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(values)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _Refused("it appends to something else than a list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise _Refused("it sets items of something else than a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, String):
                raise _Refused("a key is not a string")
            target[key] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, module: str, attribute: str) -> None:
        name = f"{module} {attribute}"
        if name not in _KNOWN_NAMES:
            raise _Refused(f"it asks for {(module + '.' + attribute)[:60]!r}")
        self.push(Name(name))

    def name_of_lines(self) -> None:
        module, attribute = (
            self._file.readline(_NAME_BYTES).rstrip(b"\n").decode("utf-8", "replace") for _ in range(2)
        )
        self.name(module, attribute)

    def name_of_stack(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.name(module.text, attribute.text) if isinstance(module, String) else self.name("?", "?")

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise _Refused("it calls something else than a known name")
        self.push(_call(function.name, arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, ByteArray) and target.data is None:
            _, shape, kind, is_fortran, data = state
            _fill(target, shape, kind, bool(is_fortran), data)
        elif not isinstance(target, ByteType):  # the state of a data type: byte order, which one byte does not have
            raise _Refused("it sets the state of an unknown object")


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What the five known calls amount to."""
    if name in _RECONSTRUCT and arguments[0] == Name("numpy ndarray"):
        return ByteArray()
    if name in _FROM_BUFFER:
        data, kind, shape, order = arguments
        return _fill(ByteArray(), shape, kind, order.text == "F", data)
    if name == "numpy dtype" and arguments[0].text in ("u1", "uint8", "B"):
        return ByteType()
    if name == "_codecs encode" and arguments[1].text in ("latin1", "latin-1"):
        string = arguments[0]
        value = None if string.value is None else _from_latin(string.value)
        return String("latin", string.size, string.offset, value)
    raise _Refused(f"it calls {name.replace(' ', '.')} with other arguments than for an array of bytes")


def _from_latin(data: bytes) -> bytes:
    """The bytes that were spelled as text, one character for each."""
    return data.decode("utf-8").encode("latin-1")


def _fill(array: ByteArray, shape: Any, kind: Any, is_fortran: bool, data: Any) -> ByteArray:
    is_shape = isinstance(shape, tuple) and all(isinstance(length, int) and length >= 0 for length in shape)
    if not is_shape or not isinstance(kind, ByteType) or not isinstance(data, String):
        raise _Refused("it has an array of something else than bytes")
    array.shape, array.is_fortran, array.data = shape, is_fortran, data
    return array


_INSTRUCTIONS: dict[bytes, Callable[[_Reader], None]] = {
    b"\x80": _Reader.protocol,
    b"\x95": _Reader.frame,
    b"N": lambda r: r.push(None),
    b"\x88": lambda r: r.push(True),
    b"\x89": lambda r: r.push(False),
    b"J": lambda r: r.push(r.integer("<i")),
    b"K": lambda r: r.push(r.integer("<B")),
    b"M": lambda r: r.push(r.integer("<H")),
    b"\x8a": _Reader.long,
    b"U": lambda r: r.string("old", "<B"),
    b"T": lambda r: r.string("old", "<i"),
    b"C": lambda r: r.string("bytes", "<B"),
    b"B": lambda r: r.string("bytes", "<I"),
    b"\x8e": lambda r: r.string("bytes", "<Q"),
    b"\x96": lambda r: r.string("bytes", "<Q"),
    b"\x8c": lambda r: r.string("text", "<B"),
    b"X": lambda r: r.string("text", "<I"),
    b"\x8d": lambda r: r.string("text", "<Q"),
    b"(": _Reader.mark,
    b"]": lambda r: r.push([]),
    b"}": lambda r: r.push({}),
    b")": lambda r: r.push(()),
    b"t": lambda r: r.push(tuple(r.since_mark())),
    b"\x85": lambda r: r.tuple_of(1),
    b"\x86": lambda r: r.tuple_of(2),
    b"\x87": lambda r: r.tuple_of(3),
    b"a": lambda r: r.append([r.stack.pop()]),
    b"e": lambda r: r.append(r.since_mark()),
    b"s": lambda r: r.set_items([r.stack.pop(-2), r.stack.pop()]),
    b"u": lambda r: r.set_items(r.since_mark()),
    b"q": lambda r: r.put(r.integer("<B")),
    b"r": lambda r: r.put(r.integer("<I")),
    b"\x94": lambda r: r.put(len(r.memo)),
    b"h": lambda r: r.push(r.memo[r.integer("<B")]),
    b"j": lambda r: r.push(r.memo[r.integer("<I")]),
    b"c": _Reader.name_of_lines,
    b"\x93": _Reader.name_of_stack,
    b"R": _Reader.reduce,
    b"b": _Reader.build,
}


# ---- writing

# Instructions that writers put between the values.
EMPTY_LIST, APPEND, EMPTY_DICT, SET_ITEM, PAIR, STOP = b"]", b"a", b"}", b"s", b"\x86", b"."

_BYTE_TYPE = (  # numpy.dtype("u1", False, True) and its state (3, "|", None, None, None, -1, -1, 0)
    b"cnumpy\ndtype\nX\x02\0\0\0u1\x89\x88\x87R(K\x03X\x01\0\0\0|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
)


def write_start(file: IO[bytes], protocol: int) -> None:
    """Begin a pickle: protocol 2 for Python 2 as well, 4 otherwise."""
    file.write(bytes((0x80, protocol)))


def write_value(file: IO[bytes], value: Any) -> None:
    """Write a number, truth value, None, string, or a list of these."""
    if value is None or isinstance(value, bool):
        file.write({None: b"N", True: b"\x88", False: b"\x89"}[value])
    elif isinstance(value, int):
        data = value.to_bytes(9, "little", signed=True)
        file.write(b"J" + data[:4] if -(2**31) <= value < 2**31 else b"\x8a\x09" + data)
    elif isinstance(value, String):
        write_string(file, value.kind, value.value or b"")
    else:
        file.write(EMPTY_LIST)
        for item in value:
            write_value(file, item)
            file.write(APPEND)


def write_string(file: IO[bytes], kind: Kind, value: bytes) -> None:
    """Write a short string as the same kind of string that it was."""
    write_string_start(file, kind, len(value))
    file.write(value)


def write_string_start(file: IO[bytes], kind: Kind, size: int) -> None:
    """Write what stands before the bytes of a string; bytes spelled as text become bytes."""
    code = {"old": b"T", "bytes": b"B", "latin": b"B", "text": b"X"}[kind]
    if size >= 2**31:
        code = {b"T": b"\x8e", b"B": b"\x8e", b"X": b"\x8d"}[code]
    file.write(code + struct.pack("<Q" if size >= 2**31 else "<I", size))


def write_array_start(file: IO[bytes], kind: Kind, shape: tuple[int, int]) -> None:
    """Write what stands before the bytes of a uint8 array in C order."""
    file.write(b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85")
    write_string(file, kind, b"b")
    file.write(b"\x87R(K\x01")
    write_value(file, shape[0])
    write_value(file, shape[1])
    file.write(b"\x86" + _BYTE_TYPE + b"\x89")
    write_string_start(file, kind, shape[0] * shape[1])


def write_array_end(file: IO[bytes]) -> None:
    """Write what stands after the bytes of an array."""
    file.write(b"tb")

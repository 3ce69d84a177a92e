"""A `.pt` of torch read as data, by torch's own reader, once its bytes have been looked through.

torch writes a zip whose `data.pkl` is a program for a pickle machine. torch.load(weights_only=True)
follows only the steps and names that weights need; what it lets through all the same is refused
here before it begins (see `look_through`).
"""

import io
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import printable

MAX_PROGRAM = 2 * 2**20  # bytes of data.pkl; a v5.5 file's has some 100 kB
MAX_STEPS = 2**19  # of that program: a second or two to follow
MAX_WEIGHT = 8 * MAX_PROGRAM  # bytes and objects that its steps may handle, counted each time
CHANGES = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}  # steps that make nothing new
NUMPY_SCALARS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
STORAGES = "Float Double Half BFloat16 Long Int Short Char Byte Bool".split()  # noqa: SIM905


class Refused(ValueError):
    """Why a file is refused, as the end of a sentence."""


class Dtype:
    """Stands for numpy.dtype, which would make types of any size."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in NUMPY_SCALARS:
            raise Refused("it holds a numpy value that is no plain number")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", "|"):
            raise Refused("its numbers are not little-endian")


def scalar(dtype: Dtype, raw: bytes) -> float | int | bool:
    """Stands for numpy's function of that name: the number itself, as Python's."""
    [number] = np.frombuffer(raw, "<" + dtype.code).tolist()
    return number


NUMPY: list[tuple[Callable[..., object], str]] = [
    (Dtype, "numpy.dtype"),
    (scalar, "numpy._core.multiarray.scalar"),
    (scalar, "numpy.core.multiarray.scalar"),
]
NAMES = {
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "_codecs.encode", *(name for _, name in NUMPY), *(f"torch.{kind}Storage" for kind in STORAGES),
}  # fmt: skip


def read(data: bytes) -> Any:
    """The object a `.pt` holds: tensors on the CPU, dicts, lists, tuples, text, bytes, numbers.

    numpy scalars come as Python's. A tensor may be any view of its storage: one of stride 0
    declares more numbers than the file has, so ask for its shape before its values.

    Raises:
        Refused: damaged, compressed, not written by torch, or asking for anything else.
    """
    try:
        records = _records(data)
        look_through(records["data.pkl"])
        with torch.serialization.safe_globals([*NUMPY]):
            return torch.load(_packed(records), map_location="cpu", weights_only=True, mmap=False)
    except Refused:
        raise
    except Exception:  # a hostile archive or program can fail in any way, and none matters
        raise Refused("the archive is damaged or was not written by torch") from None


def _records(data: bytes) -> dict[str, bytes]:
    """Contents by name without the leading folder; what they unpack to is at most the file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(data):
            raise Refused("it unpacks to more than its size")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Refused("it is compressed, and torch compresses nothing")
        if any(entry.file_size != entry.compress_size for entry in entries):
            raise Refused("its directory contradicts itself")
        names = [entry.filename.partition("/")[2] for entry in entries]
        if len(set(names)) < len(names):
            raise Refused("two of its entries have the same name")
        records = dict(zip(names, map(archive.read, entries), strict=True))
    if records.get("byteorder", b"little") != b"little":
        raise Refused("its numbers are not little-endian")
    if len(records["data.pkl"]) > MAX_PROGRAM:
        raise Refused("its data.pkl is larger than 2 MiB")
    return records


def _packed(records: dict[str, bytes]) -> io.BytesIO:
    """Program and storages in a zip of ours, so that torch reads what was looked through."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/version", "3\n")
        for name, content in records.items():
            if name == "data.pkl" or name.startswith("data/"):
                archive.writestr(f"archive/{name}", content)
    packed.seek(0)
    return packed


@dataclass(slots=True)
class Thing:
    """What is known of an object before it is made.

    `value`: the text or number itself; of a tuple its values; of a dict the set of its keys; of a
    name that `Name`, and of what calling it makes a list of that.
    """

    weight: int  # bytes of its text, and 1 for each object, wherever they stand in it
    value: Any
    used: bool = False  # stands elsewhere too


class Name(str):
    """A name that a pickle asks for."""

    __slots__ = ()


def look_through(program: bytes) -> None:
    """Follow the steps of a pickle program with things for objects, and refuse by the first reason.

    torch's reader would let through, and torch.save never writes: calls of its own list that are
    not in NAMES; a name that stands twice in a dict, or is neither text nor a whole number; any
    codec; a dict whose methods are replaced; what contains itself; and what is used over and over
    (ten lists of ten lists of ten …), copied, hashed or printed without end. Bounds that: the steps
    handle at most MAX_WEIGHT.

    Raises:
        Refused: with the reason. Any other exception: not a program.
    """
    stacks: list[list[Thing]] = [[]]
    memo: dict[int, Thing] = {}
    spent = 0
    for number, (step, argument, _) in enumerate(pickletools.genops(program)):
        name, stack = step.name, stacks[-1]
        if number > MAX_STEPS:
            raise Refused(f"its pickle has more than {MAX_STEPS:,} steps")
        if name == "PROTO" and argument != 2:
            raise Refused(f"it is written in pickle protocol {argument}, and torch uses 2")
        if name == "MARK":
            stacks.append([])
        elif "PUT" in name:
            memo[argument] = stack[-1]
        elif "GET" in name:
            memo[argument].used = True
            stack.append(memo[argument])
        elif step.stack_after:
            marked = pickletools.markobject in step.stack_before
            items = stacks.pop() if marked else [stack.pop() for _ in step.stack_before][::-1]
            if name in CHANGES:
                thing = stacks[-1].pop() if marked else items.pop(0)
            else:
                thing = Thing(1 + (len(argument) if isinstance(argument, str) else 0), argument)
            weight = sum(item.weight for item in items)
            spent += weight + thing.weight * (name not in CHANGES)
            if spent > MAX_WEIGHT:
                raise Refused("its pickle would make far more than it holds")
            if thing.used:
                raise Refused("its pickle changes what it has used before")
            thing.weight += weight
            _check(name, thing, [item.value for item in items])
            stacks[-1].append(thing)


def _check(name: str, thing: Thing, values: list[Any]) -> None:
    """Set the value of `thing` after step `name` with `values`, or refuse the step."""
    match name:
        case "GLOBAL":
            thing.value = Name(thing.value.replace(" ", "."))
            if thing.value not in NAMES:
                asked = printable(thing.value)
                raise Refused(f"it asks to run {asked}, and no code in a checkpoint is ever run")
        case "BINUNICODE":
            thing.value.encode()  # lone surrogates cannot be written anywhere
        case "LONG1" if not -(2**63) <= thing.value < 2**63:
            raise Refused("it holds a whole number of more than 64 bits")
        case "EMPTY_DICT":
            thing.value = set()
        case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
            thing.value = tuple(values)
        case "SETITEM" | "SETITEMS":
            if {*map(type, values[::2])} - {str, int}:
                raise Refused("it has a key that is neither text nor a number")
            keys = {*values[::2]}
            if len(keys) < len(values[::2]) or thing.value & keys:
                raise Refused("two of its values have the same name")
            thing.value |= keys
        case "BUILD" if thing.value != ["numpy.dtype"] and values != [{"_metadata"}]:
            raise Refused("its pickle changes an object's state, and torch does not")
        case "REDUCE":
            called, arguments = values
            plain = {"collections.OrderedDict": (), "_codecs.encode": ("latin1",)}
            if called in plain and arguments[called == "_codecs.encode" :] != plain[called]:
                raise Refused(f"it calls {called} as torch does not")
            thing.value = set() if called == "collections.OrderedDict" else [called]

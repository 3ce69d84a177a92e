"""A `.pt` of torch read as data: nothing in it is run, and nothing it names is called.

torch writes a zip whose `data.pkl` is a program for Python's pickle machine, which would run
whatever the program names. Here the program is read by a machine of our own. It knows the
instructions and the few names that a v5.5 file holds, refuses every other by name, checks what a
tensor declares against the bytes that are there, and needs memory in proportion to the file.
"""

import io
import math
import pickletools
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_PROGRAM = 2 * 2**20  # bytes of data.pkl; a v5.5 file's has some 100 kB
MARK = object()
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": MARK}
NUMPY_SCALARS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
        "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32,
        "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    }.items()
}  # fmt: skip
# Known, and part of no network of ours: stands in its place, so that the place can be named.
SPARSE = {
    "torch._utils._rebuild_sparse_tensor",
    "torch.serialization._get_layout",
    "torch.Size",
}
NAMES = {
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "numpy.dtype", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar",
    "_codecs.encode", *STORAGES, *SPARSE,
}  # fmt: skip


class Refused(ValueError):
    """Why a file is refused, as the end of a sentence."""


class Name(str):
    """A name that a pickle asks for, instead of what it names."""

    __slots__ = ()


@dataclass
class _Dtype:
    code: str  # one of NUMPY_SCALARS


def read(data: bytes) -> Any:
    """The object a `.pt` holds: tensors, dicts, lists, tuples, text, bytes, numbers, None.

    numpy scalars come as Python's. Tensors of one storage share its memory.

    Raises:
        Refused: damaged, compressed, not written by torch, or asking for anything else.
    """
    try:
        records = _records(data)
        program = records["data.pkl"]
        if len(program) > MAX_PROGRAM:
            raise Refused("its data.pkl is larger than 2 MiB")
        return _Machine(records).run(program)
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
        return dict(zip(names, map(archive.read, entries), strict=True))


class _Machine:
    """A stack, a memo, and one step for each pickle instruction that torch writes."""

    def __init__(self, records: dict[str, bytes]) -> None:
        self.records, self.stack, self.memo = records, [], {}
        self.storages: dict[tuple[str, str], Tensor] = {}
        if records.get("byteorder", b"little") != b"little":
            raise Refused("its numbers are not little-endian")

    def run(self, program: bytes) -> Any:
        for instruction, argument, _ in pickletools.genops(program):
            if instruction.name == "STOP":
                return self.stack.pop()
            self._step(instruction.name, argument)

    def _step(self, name: str, argument: Any) -> None:
        push, pop, top = self.stack.append, self.stack.pop, self.stack[-1:]
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE" | "MARK":
                push(CONSTANTS[name])
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "BININT" | "BININT1" | "BININT2" | "BINFLOAT" | "BINBYTES" | "SHORT_BINBYTES":
                push(argument)
            case "LONG1":
                push(_whole(argument))
            case "BINUNICODE" | "SHORT_BINUNICODE":
                push(_text(argument))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(reversed([pop() for _ in range(int(name[-1]))])))
            case "TUPLE":
                push(tuple(self._to_mark()))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = top[0]
            case "MEMOIZE":
                self.memo[len(self.memo)] = top[0]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "APPEND":
                self._extend([pop()])
            case "APPENDS":
                self._extend(self._to_mark())
            case "SETITEM":
                self._update(list(reversed([pop(), pop()])))
            case "SETITEMS":
                self._update(self._to_mark())
            case "GLOBAL" | "INST":
                push(_known(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                push(_known(".".join(reversed([pop(), pop()]))))
            case "BINPERSID":
                push(self._storage(*pop()))
            case "REDUCE":
                arguments = pop()
                push(_value(pop(), arguments))
            case "BUILD":
                self._state(pop())
            case _:
                raise Refused(f"its pickle uses {name}, and torch does not")

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("its pickle appends to what is no list")
        self.stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if type(self.stack[-1]) is not dict or {type(key) for key in keys} - {str, int}:
            raise Refused("it has a key that is neither text nor a number")
        if len({*keys}) < len(keys) or self.stack[-1].keys() & set(keys):
            raise Refused("two of its values have the same name")
        self.stack[-1].update(zip(keys, values, strict=True))

    def _state(self, state: Any) -> None:
        """An OrderedDict's state says nothing of the weights; a dtype's says its byte order."""
        target = self.stack[-1]
        if type(target) is _Dtype and state[1] not in ("<", "|"):
            raise Refused("its numbers are not little-endian")
        if type(target) not in (_Dtype, dict):
            raise Refused("its pickle changes an object's state, and torch does not")

    def _storage(self, kind: str, name: Name, key: str, _place: str, numel: int) -> Tensor:
        """The flat tensor of a storage; it must be exactly as long as its bytes."""
        dtype, record = STORAGES[name], self.records[f"data/{key}"]
        if kind != "storage" or numel * dtype.itemsize != len(record):
            raise Refused(f"tensor storage {key[:20]} declares {numel} numbers and holds others")
        if (name, key) not in self.storages:
            flat = torch.frombuffer(bytearray(record), dtype=dtype) if record else torch.empty(0)
            self.storages[name, key] = flat.to(dtype)
        return self.storages[name, key]


def _known(name: str) -> Name:
    if name not in NAMES:
        shown = "".join(c if c.isprintable() else "?" for c in name[:80])
        raise Refused(f"it asks to run {shown}, and no code in a checkpoint is ever run")
    return Name(name)


def _value(name: Any, arguments: tuple) -> Any:
    """What the call that a pickle asks for would make, for the names that v5.5 files use."""
    if type(name) is not Name:
        raise Refused("its pickle calls what is no name")
    match name:
        case "torch._utils._rebuild_tensor_v2":
            return _tensor(*arguments[:4])
        case "torch._utils._rebuild_parameter":
            return arguments[0]
        case "collections.OrderedDict" if arguments == ():
            return {}
        case "_codecs.encode" if arguments[1:] == ("latin1",):
            return arguments[0].encode("latin1")
        case "numpy.dtype" if arguments[0] in NUMPY_SCALARS:
            return _Dtype(arguments[0])
        case "numpy._core.multiarray.scalar" | "numpy.core.multiarray.scalar":
            dtype, raw = arguments
            [number] = np.frombuffer(raw, "<" + dtype.code).tolist()
            return number
    if name in SPARSE:
        return name
    raise Refused(f"it calls {name} as torch does not")


def _tensor(flat: Tensor, offset: int, size: tuple, stride: tuple) -> Tensor:
    """A view of `flat` that reads no number outside it and none more often than it is there."""
    numbers = [offset, *size, *stride]
    if any(type(n) is not int or n < 0 for n in numbers) or len(size) != len(stride):
        raise Refused("a tensor declares a size that cannot be")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if len(size) > 8 or numel > len(flat) or (numel and last >= len(flat)):
        raise Refused(f"a tensor declares {numel} numbers, and its storage has {len(flat)}")
    return flat.as_strided(size, stride, offset) if numel else flat.new_empty(size)


def _whole(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise Refused("it holds a whole number of more than 64 bits")
    return number


def _text(text: str) -> str:
    text.encode()  # lone surrogates cannot be written anywhere
    return text

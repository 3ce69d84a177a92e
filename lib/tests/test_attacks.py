"""Attacks on a certified checkpoint and on what loads one, counted: none may succeed.

Verification is tried with `quick`: whatever it accepts is what was signed, byte for byte. Hostile
files are loaded by a process of their own, so that a crash, and the memory it took, would show.
"""

import io
import itertools
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fluxttice_core.checkpoints import archive
from fluxttice_core.certification import certificate
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core import files
from fluxttice_core import params
from fluxttice_core.certification import signing
from fluxttice_core.certification import verify
from fluxttice_core.errors import InputError
from fluxttice_core.model.network import DualVAE
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint import Attack, pt, v5_5

ROOT = Path(__file__).parents[2]
MUTATIONS, HOSTILE, MEMORY = 2_000, 300, 10**9


# --- Mutations of a signed folder ---


def certified(folder, seed, key, value=0.9, bound=0.5):
    """A signed checkpoint of fresh weights, whose certificate claims to pass."""
    values = {
        **params.read_yaml(ROOT / "params" / "certify.yaml"),
        "run_dir": "",
        "checkpoint": "x",
    }
    p = params.check("certify", values, "test")
    row = {"gate": "g", "vae": "A", "bound": bound, "value": value, "ci95": [value, value]}
    saved = checkpoint.save(folder.parent / f"{folder.name}-saved", DualVAE.fresh(seed), seed, {})
    loaded = checkpoint.load(saved)
    stated = certificate.document(loaded, p, [{**row, "verdict": "PASS"}], [])
    certificate.issue(folder, loaded, stated, key)
    return folder


class Target:
    """A signed folder, ways to put other contents into it, and a count of what was tried."""

    def __init__(self, place):
        self.place, self.tried = place, 0
        self.key, self.other_key = place / "key.pem", place / "other.pem"
        self.trusted = signing.keygen(self.key)
        signing.keygen(self.other_key)
        self.folder = certified(place / "target", 1, self.key)
        self.original = self.contents(self.folder)

    @staticmethod
    def contents(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuses(self, changed=None):
        """Is the folder refused, in one sentence, with `changed` files in it? It is put back."""
        for name, data in (changed or {}).items():
            (self.folder / name).write_bytes(data)
        sentence = verify.refusal(self.folder, self.trusted)
        for name in changed or {}:
            (self.folder / name).write_bytes(self.original[name])
        self.tried += 1
        assert "\n" not in sentence and (not sentence or sentence.endswith("."))
        return bool(sentence)

    def refuses_folder(self, folder):
        self.tried += 1
        sentence = verify.refusal(folder, self.trusted)
        assert "\n" not in sentence
        return bool(sentence)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    target = Target(tmp_path_factory.mktemp("attack"))
    assert not target.refuses(), "the genuine folder must be accepted, or nothing below counts"
    target.tried = 0
    yield target
    assert not target.refuses(), "the genuine folder must still be there"


FLIPS = {
    checkpoint.WEIGHTS: 400,
    checkpoint.MANIFEST: 400,
    certificate.CERTIFICATE: 400,
    signing.SIGNATURE: 600,
    signing.PUBLIC_KEY: 400,
}


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("name", FLIPS)
def test_a_single_flipped_bit_anywhere_is_refused(target, name):
    data, rng = target.original[name], random.Random(name)
    bits = rng.sample(range(8 * len(data)), FLIPS[name])
    assert [b for b in bits if not target.refuses({name: flipped(data, b)})] == []


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS])
def test_loading_refuses_flipped_weights_too(target, tmp_path, name):
    """Without any signature: the manifest's hash."""
    folder = shutil.copytree(target.folder, tmp_path / "copy")
    for bit in random.Random(1).sample(range(8 * len(target.original[name])), 50):
        (folder / name).write_bytes(flipped(target.original[name], bit))
        with pytest.raises(InputError):
            checkpoint.load(folder)
        target.tried += 1


@pytest.mark.parametrize("name", FLIPS)
def test_a_file_cut_short_or_continued_is_refused(target, name):
    data, rng = target.original[name], random.Random(name)
    cuts = [0, 1, len(data) - 1, *rng.sample(range(len(data)), 25)]
    tails = [b"\0", b" ", b"\n", b"{}", data]
    assert [cut for cut in cuts if not target.refuses({name: data[:cut]})] == []
    assert [tail for tail in tails if not target.refuses({name: data + tail})] == []


def test_swapped_files_are_refused(target):
    for one, two in itertools.combinations(FLIPS, 2):
        assert target.refuses({one: target.original[two], two: target.original[one]})
        assert target.refuses({one: target.original[two]})
        assert target.refuses({two: target.original[one]})


ADDED = (".gitignore", ".gitattributes", ".hidden", "extra.txt", "model.safetensors.bak", "x.pt",
         "certificate.sig.old", "Certificate.json", "manifest.json ", "a\nb", "é")  # fmt: skip


@pytest.mark.parametrize("name", [*ADDED, ".git/", ".github/", "empty/"])
def test_an_added_file_or_folder_is_refused(target, name):
    path = target.folder / name
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_bytes(target.original[checkpoint.WEIGHTS])
    try:
        assert target.refuses()
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name", FLIPS)
def test_a_missing_renamed_moved_or_linked_file_is_refused(target, tmp_path, name):
    for attack in ("missing", "renamed", "moved", "linked inside", "linked outside", "folder"):
        folder = shutil.copytree(target.folder, tmp_path / attack)
        path = folder / name
        if attack == "renamed":
            path.rename(folder / f"x{name}")
        elif attack == "moved":
            (folder / "sub").mkdir()
            path.rename(folder / "sub" / name)
        elif attack == "linked inside":
            path.rename(folder / "real")
            path.symlink_to("real")
        elif attack == "linked outside":
            path.unlink()
            path.symlink_to(target.folder / name)  # the very bytes that were signed
        else:
            path.unlink()
            path.mkdir() if attack == "folder" else None
        assert target.refuses_folder(folder), attack


def test_parts_of_another_certified_checkpoint_are_refused(target):
    """Both signed by the trusted key. Only all of the other's files together are its checkpoint."""
    other = target.contents(certified(target.place / "another", 2, target.key))
    del other[signing.PUBLIC_KEY]  # it is the same
    for size in range(1, len(other)):
        for names in itertools.combinations(other, size):
            assert target.refuses({name: other[name] for name in names}), names


def test_an_old_certificate_replayed_over_new_weights_is_refused(target):
    """It was right, of weaker weights or of a lower bound; alone and with its signature."""
    old = target.contents(certified(target.place / "old", 3, target.key, value=0.1, bound=0.0))
    names = (certificate.CERTIFICATE, signing.SIGNATURE)
    assert target.refuses({name: old[name] for name in names})
    assert target.refuses({names[0]: old[names[0]]})
    assert target.refuses({names[1]: old[names[1]]})


def test_an_edited_certificate_is_refused(target):
    stated = json.loads(target.original[certificate.CERTIFICATE])
    for key in stated:
        for value in (None, "PASS", 1, [], {}):
            text = json.dumps({**stated, key: value}).encode()
            assert target.refuses({certificate.CERTIFICATE: text})


def test_another_key_is_refused_whatever_is_replaced_with_it(target):
    """Weights, certificate, signature and key, all consistent, all another's."""
    other = target.contents(certified(target.place / "forged", 4, target.other_key))
    assert (
        verify.refusal(target.place / "forged", signing.fingerprint(other[signing.PUBLIC_KEY]))
        == ""
    )
    for size in range(1, len(other) + 1):
        for names in itertools.combinations(other, size):
            assert target.refuses({name: other[name] for name in names}), names


def test_a_bundle_spelled_another_way_is_refused(target):
    """Each of these is the same JSON, or the same signature, to a lenient reader."""
    bundle = json.loads(target.original[signing.SIGNATURE])
    envelope = bundle["dsseEnvelope"]
    [signature] = envelope["signatures"]
    spellings = [
        json.dumps(bundle), json.dumps(bundle, indent=1), json.dumps({**bundle, "note": 1}),
        json.dumps(bundle, separators=(",", ":"))[:-1] + ',"note":1}',
    ]  # fmt: skip
    for change in (
        {"signatures": [signature, signature]}, {"signatures": []},
        {"signatures": [{**signature, "keyid": "x"}]},
        {"signatures": [{**signature, "sig": signature["sig"] + "\n"}]},
        {"signatures": [{**signature, "sig": ""}]}, {"payloadType": "text/plain"},
        {"payload": ""}, {"payload": "e30="}, {"payload": envelope["payload"] + "===="},
    ):  # fmt: skip
        changed = {**bundle, "dsseEnvelope": {**envelope, **change}}
        spellings.append(json.dumps(changed, separators=(",", ":")))
    for hint in (None, "", "0" * 64):
        material = {"publicKey": {"hint": hint}, "tlogEntries": []}
        changed = {**bundle, "verificationMaterial": material}
        spellings.append(json.dumps(changed, separators=(",", ":")))
    assert [s for s in spellings if not target.refuses({signing.SIGNATURE: s.encode()})] == []


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(sorted(FLIPS)), st.floats(0, 1), st.integers(0, 40), st.binary(max_size=40))
def test_any_splice_that_changes_a_file_is_refused(target, name, where, cut, inserted):
    data = target.original[name]
    at = int(where * len(data))
    changed = data[:at] + inserted + data[at + cut :]
    assert changed == data or target.refuses({name: changed})


def test_a_renamed_folder_is_no_attack(target):
    """What is signed is its contents; runs last, and says what the tests above came to."""
    assert sum(FLIPS.values()) >= MUTATIONS
    print(f"\n{target.tried:,} changes to a certified checkpoint tried, none accepted")
    renamed = target.folder.rename(target.place / "renamed")
    try:
        assert verify.refusal(renamed, target.trusted) == ""
    finally:
        renamed.rename(target.folder)


# --- Hostile files ---


CALLS = """
os.system posix.system nt.system subprocess.Popen subprocess.call subprocess.check_output
builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__ builtins.getattr
builtins.setattr builtins.globals builtins.print builtins.bytearray builtins.input io.open os.remove
os.popen os.execv os.fork shutil.rmtree pty.spawn socket.socket runpy.run_path runpy._run_code
importlib.import_module code.interact timeit.timeit cProfile.run pdb.run webbrowser.open
pickle.loads marshal.loads torch.load torch.hub.load torch.jit.load torch.storage.UntypedStorage
torch.Tensor torch._utils._rebuild_sparse_csr_tensor torch._utils._rebuild_qtensor
torch._utils._rebuild_wrapper_subclass torch._utils._rebuild_meta_tensor_no_storage
torch._tensor._rebuild_from_type_v2 numpy.load numpy.fromfile numpy.ndarray
numpy._core.multiarray._reconstruct functools.partial operator.attrgetter types.CodeType
types.FunctionType ctypes.CDLL sys.exit signal.alarm tempfile.mkdtemp collections.Counter
collections.defaultdict collections.deque pathlib.Path copyreg._reconstructor copyreg.__newobj__
""".split()  # noqa: SIM905


def zipped(program, *, compression=zipfile.ZIP_STORED, records=(), head="archive/"):
    """An archive as torch writes it, with any `program` for its data.pkl."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as target:
        warnings.simplefilter("ignore")  # of a name that stands there twice
        for name, data in (("data.pkl", program), *records):
            target.writestr(head + name, data)
    return buffer.getvalue()


def hostile_calls(mark):
    """Programs that call each of CALLS, in each way a pickle can ask for it."""
    argument = pickle.dumps(f"touch {mark}", 2)[2:-1]
    for name in CALLS:
        module, _, attribute = name.rpartition(".")
        names = f"{module}\n{attribute}\n".encode()
        short = b"".join(b"\x8c" + bytes([len(x)]) + x.encode() for x in (module, attribute))
        yield f"reduce {name}", zipped(b"\x80\x02c" + names + argument + b"\x85R.")
        yield f"stack {name}", zipped(b"\x80\x04" + short + b"\x93" + argument + b"\x85R.")
        yield f"inst {name}", zipped(b"\x80\x02(" + argument + b"i" + names + b".")
        yield f"obj {name}", zipped(b"\x80\x02(c" + names + argument + b"o.")
        yield f"newobj {name}", zipped(b"\x80\x02c" + names + argument + b"\x85\x81.")


def hostile_places(mark, model):
    good = {**v5_5(model), "optimizer": {}}
    for function, place in itertools.product((os.system, eval, exec), good):
        attack = Attack(function, f"open({str(mark)!r}, 'w')")
        yield f"{function.__name__} in {place}", pt({**good, place: attack})


def put(index):
    return b"r" + struct.pack("<I", index)


def hostile_programs():
    """Programs that are too big, too deep, endless, or not programs."""
    text = b"X" + struct.pack("<I", 5) + b"model"
    phase = b"\x80\x02}(" + text + b"}X\x05\0\0\0phase"
    laughs = b"]" + b"".join(b"q%c](" % i + b"h%c" % i * 10 + b"e" for i in range(30))
    tuples = b")" + b"".join(b"q%ch%ch%c\x86" % (i, i, i) for i in range(60))
    raw = {
        "nothing": b"", "no stop": b"\x80\x02}", "stop": b".", "pop of nothing": b"\x80\x020.",
        "memo of nothing": b"\x80\x02h\x05.", "huge memo": b"\x80\x02}" + put(2**32 - 1) + b".",
        "mark alone": b"\x80\x02(.", "tuple without mark": b"\x80\x02t.", "append": b"\x80\x02}Na.",
        "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
        "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
        "huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b".",
        "huge long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        "negative long": b"\x80\x02\x8b" + struct.pack("<i", -1) + b".",
        "long number": b"\x80\x02}" + text + b"\x8a\x20" + b"\x7f" * 32 + b"s.",
        "decimal": b"I" + b"9" * 100_000 + b"\n.", "decimal long": b"L" + b"9" * 10**6 + b"L\n.",
        "lone surrogate": b"\x80\x02}" + text + b"X\x03\0\0\0\xed\xa0\x80s.",
        "extension": b"\x80\x02\x82\x01.", "persistent text": b"Parchive\n.",
        "persistent number": b"\x80\x02K\x01Q.", "buffer": b"\x80\x05\x97.",
        "set": b"\x80\x04\x8f.", "frozen set": b"\x80\x04(\x91.", "build": b"\x80\x02N}b.",
        "call of text": text + b")R.",
        "build a name": b"\x80\x02ccollections\nOrderedDict\n}b.",
        "duplicate key": b"\x80\x02}(" + text + b"N" + text + b"Nu.",
        "tuple as key": b"\x80\x02}" + tuples + b"Ns.", "list as key": b"\x80\x02}]Ns.",
        "laughs": phase + laughs + b"u.", "itself": phase + b"]q\0h\0au.",
        "deep": phase + b"]" * 9_000 + b"a" * 8_999 + b"u.",
        "many lists": b"\x80\x02(" + b"]" * (archive.MAX_PROGRAM - 9) + b"t.",
        "too long": b"\x80\x02(" + b"]" * (archive.MAX_PROGRAM + 9) + b"t.",
        "huge dtype": b"\x80\x02cnumpy\ndtype\nX\x0b\0\0\0V2000000000\x89\x88\x87R.",
    }  # fmt: skip
    yield from ((name, zipped(program)) for name, program in raw.items())


class Forged:
    """A tensor that declares what it likes."""

    def __init__(self, size, stride, offset=0, numel=4, kind=torch.FloatStorage, key="0"):
        self.declared = size, stride, offset, numel, kind, key

    def __reduce__(self):
        size, stride, offset, *storage = self.declared
        arguments = (Storage(*storage), offset, size, stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class Storage:
    def __init__(self, numel, kind, key):
        self.persistent = ("storage", kind, key, "cpu", numel)


class Forger(pickle.Pickler):
    def persistent_id(self, value):
        return getattr(value, "persistent", None)


def hostile_tensors():
    declared = [
        Forged((2**40,), (1,)), Forged((2**40,), (0,)), Forged((5,), (1,)), Forged((2, 2), (4, 1)),
        Forged((4,), (1,), 1), Forged((1,), (1,), 4), Forged((1,), (1,), 2**62),
        Forged((1,), (1,), -1), Forged((-1,), (1,)), Forged((4,), (-1,), 3),
        Forged((-2, -2), (1, 1)),
        Forged((2**32, 2**32), (0, 0)), Forged((2**63,), (1,)), Forged((2**200,), (1,)),
        Forged((1,) * 9, (1,) * 9), Forged((1,) * 5_000, (0,) * 5_000), Forged((4,), ()),
        Forged((), (1,)), Forged((4.0,), (1,)), Forged(("4",), (1,)), Forged((True,), (1,)),
        Forged(4, 1), Forged(None, None), Forged((4,), (1,), None), Forged((1,), (2**62,), 2**62),
        Forged((4,), (1,), 0, 2**40), Forged((4,), (1,), 0, -4), Forged((4,), (1,), 0, 0),
        Forged((4,), (1,), 0, 5), Forged((4,), (1,), 0, 3), Forged((4,), (1,), 0, 4.0),
        Forged((4,), (1,), 0, 2**70), Forged((4,), (1,), 0, "4"), Forged((4,), (1,), 0, None),
        Forged((4,), (1,), 0, 4, torch.DoubleStorage), Forged((4,), (1,), 0, 4, torch.HalfStorage),
        Forged((4,), (1,), 0, 4, torch.ComplexFloatStorage), Forged((4,), (1,), 0, 4, "text"),
        Forged((4,), (1,), 0, 4, OrderedDict), Forged((4,), (1,), key="1"),
        Forged((4,), (1,), key="../../../etc/passwd"), Forged((4,), (1,), key=None),
    ]  # fmt: skip
    for number, tensor in enumerate(declared):
        for where in ("model", "phase"):
            content = {"model": {}, where: {"grad_norm_A_ema": tensor}}
            buffer = io.BytesIO()
            Forger(buffer, 2).dump(content)
            yield (
                f"tensor {number} in {where}",
                zipped(buffer.getvalue(), records=[("data/0", bytes(16))]),
            )


def hostile_archives(good):
    """Archives that say other than they hold."""
    empty = pickle.dumps({"model": {}}, 2)
    bomb = zipped(empty, compression=zipfile.ZIP_DEFLATED, records=[("data/0", bytes(10**8))])
    stored = zipped(empty, records=[("data/0", bytes(10**6))])
    directory = stored.rindex(b"PK\x01\x02")
    lying = bytearray(stored)
    lying[directory + 20 : directory + 28] = struct.pack("<II", 2**31, 2**31)
    end = good.rindex(b"PK\x05\x06")
    yield "bomb", bomb
    yield "small bomb", zipped(empty, compression=zipfile.ZIP_DEFLATED)
    yield "bzip2", zipped(empty, compression=zipfile.ZIP_BZIP2)
    yield "lzma", zipped(empty, compression=zipfile.ZIP_LZMA)
    yield "lying sizes", bytes(lying)
    yield "bomb inside", zipped(bomb)
    yield "two programs", zipped(empty, records=[("data.pkl", empty)])
    yield "two folders", zipped(empty, records=[("../other/data.pkl", empty)], head="a/")
    yield "no folder", zipped(empty, head="")
    yield "big endian", zipped(empty, records=[("byteorder", b"big")])
    yield "same entry often", bytes(good[:end] + good[end:] * 50)
    yield "torchscript", zipped(empty, records=[("constants.pkl", empty), ("code/a.py", b"1/0")])
    for flag in (1, 8, 64, 2048, 0xFFFF):
        marked = bytearray(stored)
        marked[directory + 8 : directory + 10] = struct.pack("<H", flag)
        yield f"flag {flag}", bytes(marked)
    for field in range(10, 46, 2):
        marked = bytearray(good)
        place = good.index(b"PK\x01\x02") + field
        marked[place : place + 2] = b"\xff\xff"
        if field not in (10, 12, 14, 32, 34, 36, 38, 40):  # time, comment and attributes are free
            yield f"directory field {field}", bytes(marked)
    for cut in range(1, 40):
        yield f"cut at {cut}/40", good[: len(good) * cut // 40]


def safetensors_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def hostile_safetensors(model):
    """Headers that lie, and networks that are none."""
    good = safetensors.torch.save(dict(model.state_dict()))
    length = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
    name, fits = "encoder_A.fc_mu.bias", header["encoder_A.fc_mu.bias"]
    begin, end = fits["data_offsets"]
    lies = {
        "shape": [
            [2**40], [2**63], [2**64], [-16], [-1, -16], [2**32, 2**32], [16.0], ["16"], [], 16,
            None, [0], [1] * 10_000, [2**200], [4, 4], [17], [15],
        ],
        "data_offsets": [
            [begin, end + 4], [begin - 4, end], [end, begin], [-64, 0], [0, 64], [0, 2**63],
            [0, 2**64], [begin], [begin, end, end], None, ["0", "64"], [begin + 0.5, end], [0, 0],
        ],
        "dtype": ["F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X", "", None, 1],
    }  # fmt: skip
    for field, values in lies.items():
        for value in values:
            changed = {**header, name: {**fits, field: value}}
            yield f"{field} {str(value)[:30]}", safetensors_file(changed, data)
    text = json.dumps(header)
    entry = f'"{name}": {json.dumps(fits)}'
    for twice in (f"{{{entry}, {text[1:]}", f"{text[:-1]}, {entry}}}", f"{{{entry}, {entry}}}"):
        yield f"name twice {len(twice)}", safetensors_file(twice.encode(), data)
    for size in (0, 1, 7, length - 1, length + 1, len(good), 2**31, 2**40, 2**63, 2**64 - 1):
        yield f"header length {size}", struct.pack("<Q", size) + good[8:]
    broken = (
        b"", b"{", b"[]", b"null", b'"a"', b"1", b"\xff" * 9, b"{}" * 9, b"[" * 10**6,
        b'{"a":' * 10**5, b'{"a": NaN}', b" " * 10**6,
    )  # fmt: skip
    for number, text in enumerate(broken):
        yield f"header {number}", safetensors_file(text, data)
    yield "tail", good + b"\0"
    yield "extra name", safetensors.torch.save({**model.state_dict(), "x": torch.ones(1)})
    for key, tensor in model.state_dict().items():
        for bad in (torch.nan, torch.inf):
            state = {**model.state_dict(), key: torch.full_like(tensor, bad)}
            yield f"{bad} in {key}", safetensors.torch.save(state)
        rest = {k: v for k, v in model.state_dict().items() if k != key}
        yield f"without {key}", safetensors.torch.save(rest)


def write_links(place, saved):
    """Folders whose files lie elsewhere, or are no files."""
    for number, name in enumerate((checkpoint.WEIGHTS, checkpoint.MANIFEST)):
        outside = ("/etc/passwd", "/dev/zero", "/dev/random", "/proc/self/mem", saved / name, name)
        for other, goal in enumerate(outside):
            folder = shutil.copytree(saved, place / f"link-{number}-{other}")
            (folder / name).unlink()
            (folder / name).symlink_to(goal)
        for kind in ("fifo", "folder", "huge"):
            folder = shutil.copytree(saved, place / f"{kind}-{number}")
            (folder / name).unlink()
            if kind == "fifo":
                os.mkfifo(folder / name)
            elif kind == "folder":
                (folder / name).mkdir()
            else:
                with (folder / name).open("wb") as file:
                    file.truncate(2**36)  # takes no room on the disk


LOADER = """
import json, resource, sys
from pathlib import Path
from fluxttice_core.checkpoints import folder as checkpoint
from fluxttice_core.errors import InputError
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        checkpoint.load(path)
        found[path.name] = ["accepted", ""]
    except InputError as error:
        found[path.name] = ["refused", str(error)]
    except BaseException as error:
        found[path.name] = ["crashed", repr(error)[:300]]
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"found": found, "peak": peak}))
"""


def write_hostile(place, mark, saved):
    """All of them, each under a name of its own; what it is → the name."""
    model, names = DualVAE.fresh(1), {}
    files_ = itertools.chain(
        hostile_calls(mark), hostile_places(mark, model), hostile_programs(), hostile_tensors(),
        hostile_archives(pt(v5_5(model))),
    )  # fmt: skip
    for number, (what, data) in enumerate(files_):
        names[f"{number:04d}.pt"] = what
        (place / f"{number:04d}.pt").write_bytes(data)
    for number, (what, data) in enumerate(hostile_safetensors(model)):
        folder = place / f"{number:04d}-folder"
        folder.mkdir()
        names[folder.name] = what
        (folder / checkpoint.WEIGHTS).write_bytes(data)
        manifest = {"weights": {"sha256": files.sha256(data)}, "epoch": 0}
        (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    write_links(place, saved)
    return names


def test_hostile_files_are_refused_in_a_sentence_and_nothing_runs(tmp_path, saved):
    place, mark = tmp_path / "hostile", tmp_path / "it-ran"
    place.mkdir()
    names = write_hostile(place, mark, saved)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, place], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    result = json.loads(done.stdout)
    found = result["found"]
    bad = {names.get(name, name): f for name, f in found.items() if f[0] != "refused"}
    assert bad == {}
    sentences = {names.get(name, name): text for name, (_, text) in found.items()}
    assert [s for s in sentences.values() if "\n" in s or not s.endswith(".") or len(s) > 700] == []
    asked = [name.split()[1] for name in names.values() if name.split()[0] in ("reduce", "stack")]
    assert all(name in sentences[f"reduce {name}"] for name in asked)
    assert not mark.exists() and result["peak"] < MEMORY
    print(f"\n{len(found):,} hostile files refused, peak {result['peak'] / 2**20:.0f} MiB")
    assert len(found) >= HOSTILE


def test_the_calls_would_have_run(tmp_path):
    """Or the test above proves nothing."""
    mark = tmp_path / "it-ran"
    programs = dict(hostile_calls(mark))
    with zipfile.ZipFile(io.BytesIO(programs["reduce posix.system"])) as opened:
        pickle.loads(opened.read("archive/data.pkl"))
    assert mark.exists()


def read_or_refused(program):
    try:
        archive.read(zipped(program, records=[("data/0", bytes(16))]))
    except archive.Refused as error:
        assert "\n" not in str(error)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_program_is_read_or_refused(program):
    read_or_refused(b"\x80\x02" + program + b".")


with zipfile.ZipFile(io.BytesIO(pt({"model": {"x": torch.ones(4)}, "phase": [1.5, "a"]}))) as _file:
    PROGRAM = _file.read("archive/data.pkl")


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.integers(0, len(PROGRAM)), st.integers(0, 9), st.binary(max_size=9))
def test_any_change_of_a_program_is_read_or_refused(at, cut, inserted):
    read_or_refused(PROGRAM[:at] + inserted + PROGRAM[at + cut :])

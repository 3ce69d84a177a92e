"""The `fluxttice` command. A user's mistake is one sentence on standard error and exit code 1."""

import argparse
import gc
import io
import os
import signal
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import files, params
from .errors import InputError


def main(argv: list[str] | None = None) -> int:
    if sys.stdout is None:  # closed, as by `>&-`
        print("fluxttice: standard output is closed.", file=sys.stderr)
        return 1
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows a question mark instead.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = vars(_parser().parse_args(argv))
    run, extra = options.pop("run"), options.pop("extra")
    # SIGTERM is Ctrl-C, so that everything is tidied up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(**options)
        sys.stdout.flush()
        return 0
    except InputError as error:
        said = str(error)
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "interrupted."
    except BrokenPipeError:
        said = ""  # the reader has seen enough, as in `make report | head`
    except OSError as error:
        where = error.filename or "its output"
        said = f"{where} cannot be read or written ({error.strerror or error})."
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if not extra or missing == "fluxttice_core":
            raise
        said = f"{missing} is not installed: pip install 'fluxttice[{extra}]'."
    finally:
        gc.freeze()  # or Python looks through all of torch once more when it exits: half a second
    if said:
        print(f"fluxttice: {said}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # Python would report it once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _report(**options: str) -> None:
    """train, benchmark and certify into a dated folder"""
    from .report import index, run  # papermill takes a second to import

    folder = run.run(**options)
    print("\nDone: every run, and the .html files of this one, are in")
    print(files.display_path(index.path()), files.display_path(folder), sep="\n")


def _open() -> None:
    """show all runs in the browser"""
    from .report import index

    index.write()
    print(files.display_path(index.path()))
    webbrowser.open(index.path().resolve().as_uri())


def _verify(path: str, quick: bool = False, public_key: str = "", attest: str = "") -> None:
    """check a certified checkpoint and measure it again"""
    from .certification import attest as attestation
    from .certification import signing, verify

    trusted = signing.trusted_fingerprint(public_key) if public_key else signing.FINGERPRINT
    if attest:  # a key that cannot sign is reported before anything is measured
        signing.private_key(attest)
    found = verify.verify(path, trusted, quick)
    print(found.gates.to_string(index=False, float_format="{:.6g}".format, na_rep="–"))
    if found.problem:
        raise InputError(f"{path} is refused: {found.problem}.")
    if not quick:
        for row in found.gates[found.gates.fresh_verdict == "ABSTAIN"].itertuples():
            print(f"with fresh draws, {row.gate} of VAE-{row.vae} ABSTAINs: it is near its bound")
    measured = "nothing measured again" if quick else "every gate measured again, twice"
    vaes = " and ".join(f"VAE-{vae}" for vae in found.checkpoint.model.vaes)
    print(f"PASS ({found.profile}): {path}, {vaes}, signed by the trusted key, {measured}")
    if attest:
        folder = files.resolve(path).resolve()
        place = folder.with_name(f"{folder.name}.verification.sigstore.json")
        attestation.write(place, attestation.verification_result(found), attest)
        print(f"attested in {place}")


def _compare(first: str, second: str, benchmark: str) -> None:
    """tell which of two checkpoints to keep"""
    from . import benchmark as measuring
    from . import comparison
    from .report import tables

    p = _checked(measuring.Benchmark, benchmark)
    both = [comparison.load(path) for path in (first, second)]
    rows, answers = comparison.compare(both[0].model, both[1].model, p.k, p.seed, (first, second))
    print("", *answers, "", tables.paired(rows).to_string(index=False), sep="\n")


def _import(old: str, folder: str) -> None:
    """turn a .pt of torch into a checkpoint folder"""
    from .checkpoints import folder as checkpoints  # torch, too, takes a second

    loaded = checkpoints.load(old)
    files.new_folder(Path(folder), loaded.contents)
    print(f"{folder}: epoch {loaded.epoch}, sha256 {loaded.sha256}")


def _batch(**options: str) -> None:
    """run every job of a plan, side by side"""
    from .report import batch

    print(f"\nDone: a folder a job in\n{files.display_path(batch.run(**options))}")


def _evidence(**options: str) -> None:
    """train and measure params/evidence.yaml"""
    from .report import evidence

    print(f"\nDone: open the .html file in\n{files.display_path(evidence.run(**options))}")


def _reproduce(folder: str, quick: bool = False) -> None:
    """repeat a recorded run, and compare every number that is measured again"""
    from .report import reproduce

    print(f"\nReproduced: {files.display_path(reproduce.run(folder, quick))}")


def _controls(benchmark: str) -> None:
    """measure the controls that every model is compared with"""
    from . import benchmark as measuring

    measuring.store_controls(_checked(measuring.Benchmark, benchmark))


def _power(certify: str) -> None:
    """which defects the gates of certification find"""
    from .certification import power
    from .metrics.gates import Certify

    p = _checked(Certify, certify)
    print(power.minimum_detectable_defects(power.run(p), p).to_string(index=False))


def _checked(kind: type[params.P], path: str) -> params.P:
    blank = {"run_dir": "", "checkpoint": ""}
    return params.check(kind, {**blank, **params.read_yaml(path)}, path)


def _option(text: str, metavar: str, **options: str) -> dict[str, Any]:
    return {"help": text, "metavar": metavar, **options}


ARGUMENTS = {
    "path": {"help": "its folder"},
    "old": {"help": "the .pt"},
    "folder": {"help": "the folder of a run, or a new one"},
    "first": {"help": "its folder, a .pt, or the folder of a run that trained it"},
    "second": {"help": "as the first"},
    "plan": {"help": "name: {parameter: value or list} a line"},
    "--train": _option("how to train", "FILE", default="params/train.yaml"),
    "--benchmark": _option("what to measure", "FILE", default="params/benchmark.yaml"),
    "--certify": _option("the bounds to meet", "FILE", default="params/certify.yaml"),
    "--checkpoint": _option("measure this one and train none", "PATH"),
    "--name": _option("last part of the folder's name", "NAME", default="report"),
    "--resume": _option("go on with this run, by its own parameters", "FOLDER"),
    "--scheduler": _option(
        "a Dask scheduler, tcp://host:port, in place of this machine", "ADDRESS"
    ),
    "--quick": {
        "help": "verify: measure nothing again; reproduce: take the controls from their file",
        "action": "store_true",
    },
    "--public-key": _option("the key to trust, in place of the project's", "FILE"),
    "--attest": _option("sign a Summary Verification Result of it with this private key", "KEY"),
}
# Command → the extra that it needs, and its arguments. Its help is the docstring.
COMMANDS: dict[Callable[..., None], tuple[str, str]] = {
    _report: ("report", "--train --benchmark --certify --checkpoint --name --resume"),
    _open: ("report", ""),
    _verify: ("sign", "path --quick --public-key --attest"),
    _compare: ("report", "first second --benchmark"),
    _import: ("", "old folder"),
    _batch: ("cluster", "plan --scheduler"),
    _evidence: ("cluster", "--scheduler"),
    _reproduce: ("report", "folder --quick"),
    _controls: ("", "--benchmark"),
    _power: ("", "--certify"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fluxttice", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, (extra, arguments) in COMMANDS.items():
        command = commands.add_parser(
            run.__name__.strip("_"),
            help=run.__doc__,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            argument_default=argparse.SUPPRESS,  # a function's own defaults hold
        )
        command.set_defaults(run=run, extra=extra)
        for name in arguments.split():
            command.add_argument(name, **ARGUMENTS[name])
    return parser

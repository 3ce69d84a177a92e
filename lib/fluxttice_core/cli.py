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


def _verify(path: str, quick: bool, public_key: str | None, attest: str | None) -> None:
    """check a certified checkpoint and measure it again"""
    from .certification import attest as attestation
    from .certification import signing, verify

    trusted = signing.trusted_fingerprint(public_key) if public_key else signing.FINGERPRINT
    if attest:
        signing.private_key(
            attest
        )  # a key that cannot sign is reported before anything is measured
    found = verify.verify(path, trusted, quick)
    print(verify.table(found))
    if found.problem:
        raise InputError(f"{path} is refused: {found.problem}.")
    for row in found.fresh:
        if row.verdict == "ABSTAIN":
            print(f"with fresh draws, {row.gate} of VAE-{row.vae} ABSTAINs: it is near its bound")
    measured = "nothing measured again" if quick else "every gate measured again, twice"
    vaes = " and ".join(f"VAE-{vae}" for vae in found.checkpoint.model.vaes)
    print(f"PASS ({found.profile}): {path}, {vaes}, signed by the trusted key, {measured}")
    if attest:
        place = attestation.write_verification_result(found, files.resolve(path), attest)
        print(f"attested in {place}")


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


def _evidence(scheduler: str) -> None:
    """train and measure params/evidence.yaml"""
    from .report import evidence

    print(f"\nDone: open the .html file in\n{files.display_path(evidence.run(scheduler))}")


def _reproduce(folder: str, quick: bool) -> None:
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


def _argument(name: str, text: str, **options: Any) -> dict[str, dict[str, Any]]:
    return {name: {"help": text, **options}}


def _file(step: str, what: str) -> dict[str, dict[str, Any]]:
    text = f"{what}: a parameter file (default: %(default)s)"
    return _argument(f"--{step}", text, default=f"params/{step}.yaml", metavar="FILE")


TRAIN, BENCHMARK = _file("train", "how to train"), _file("benchmark", "what to measure")
CERTIFY = _file("certify", "the bounds to meet")
ONE = "measure this one and train none (default: the one that is trained)"
CHECKPOINT = _argument("--checkpoint", ONE, default="", metavar="PATH")
LAST = "last part of the folder's name (default: %(default)s)"
NAME = _argument("--name", LAST, default="report")
GO_ON = "go on with this run, by its own parameters (default: a new run)"
RESUME = _argument("--resume", GO_ON, default="", metavar="FOLDER")
WHERE = "a Dask scheduler, tcp://host:port (default: the cores of this machine)"
SCHEDULER = _argument("--scheduler", WHERE, default="", metavar="ADDRESS")
LESS = "check what was signed and measure nothing (default: measure every gate again)"
SIGN = "sign a Summary Verification Result of it with this private key (default: none)"
ATTEST = _argument("--attest", SIGN, metavar="KEY")
QUICK = _argument("--quick", LESS, action="store_true")
READ = "read the controls from their file (default: measure them again, too)"
STORED = _argument("--quick", READ, action="store_true")
KEY = _argument("--public-key", "the key to trust (default: the project's)", metavar="FILE")

# Command → the extra that it needs, and its arguments. Its help is the docstring.
COMMANDS: dict[Callable[..., None], tuple[str, dict[str, dict[str, Any]]]] = {
    _report: ("report", TRAIN | BENCHMARK | CERTIFY | CHECKPOINT | NAME | RESUME),
    _open: ("report", {}),
    _verify: ("sign", _argument("path", "its folder") | QUICK | KEY | ATTEST),
    _import: ("", _argument("old", "the .pt") | _argument("folder", "a new folder")),
    _batch: ("cluster", _argument("plan", "name: {parameter: value or list} a line") | SCHEDULER),
    _evidence: ("cluster", SCHEDULER),
    _reproduce: ("report", _argument("folder", "the run's folder") | STORED),
    _controls: ("", BENCHMARK),
    _power: ("", CERTIFY),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fluxttice", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, (extra, arguments) in COMMANDS.items():
        command = commands.add_parser(run.__name__.strip("_"), help=run.__doc__)
        command.set_defaults(run=run, extra=extra)
        for name, options in arguments.items():
            command.add_argument(name, **options)
    return parser

"""The `fluxttice` command. A user's mistake is one sentence on standard error and exit code 1."""

import argparse
import sys
from pathlib import Path

from .errors import InputError


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except InputError as error:
        print(f"fluxttice: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if not options.extra or str(error.name).startswith("fluxttice_core"):
            raise
        install = f"pip install 'fluxttice[{options.extra}]'"
        missing = str(error.name).partition(".")[0]
        print(f"fluxttice: {missing} is not installed: {install}.", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fluxttice", description=__doc__)
    parser.set_defaults(extra="")  # what else a command needs installed
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="train, benchmark and certify into a dated folder")
    for step, what in (
        ("train", "how to train"),
        ("benchmark", "what to measure"),
        ("certify", "the bounds to meet"),
    ):
        text = f"{what}: a parameter file (default: %(default)s)"
        report.add_argument(f"--{step}", default=f"params/{step}.yaml", metavar="FILE", help=text)
    report.add_argument(
        "--checkpoint", default="", metavar="PATH",
        help="measure this one and train none (default: the one that is trained)",
    )  # fmt: skip
    report.add_argument(
        "--name", default="report", help="last part of the folder's name (default: %(default)s)"
    )
    report.set_defaults(run=_report, extra="report")
    verify = commands.add_parser("verify", help="check a certified checkpoint and measure it again")
    verify.add_argument("path", help="its folder")
    verify.add_argument(
        "--quick", action="store_true",
        help="check what was signed and measure nothing (default: measure every gate again)",
    )  # fmt: skip
    verify.add_argument(
        "--public-key", metavar="FILE", help="the key to trust (default: the project's)"
    )
    verify.set_defaults(run=_verify, extra="sign")
    import_ = commands.add_parser("import", help="turn a .pt of the original's into one of ours")
    import_.add_argument("old", help="the .pt")
    import_.add_argument("folder", help="a new folder")
    import_.set_defaults(run=_import)
    evidence = commands.add_parser("evidence", help="train and measure params/evidence.yaml")
    evidence.set_defaults(run=_evidence, extra="report")
    controls = commands.add_parser("controls", help="measure what stands beside every model")
    controls.add_argument(
        "--benchmark", default="params/benchmark.yaml", metavar="FILE",
        help="what to measure: a parameter file (default: %(default)s)",
    )  # fmt: skip
    controls.set_defaults(run=_controls)
    power = commands.add_parser("power", help="which defects the gates of certification find")
    power.add_argument(
        "--certify", default="params/certify.yaml", metavar="FILE",
        help="the bounds to meet: a parameter file (default: %(default)s)",
    )  # fmt: skip
    power.set_defaults(run=_power)
    keygen = commands.add_parser("keygen", help="make a signing key, outside the repository")
    keygen.add_argument("path", nargs="?", help="where to (default: in ~/.config/fluxttice)")
    keygen.set_defaults(run=_keygen, extra="sign")
    return parser


def _report(options: argparse.Namespace) -> int:
    from . import files
    from .report import job  # papermill takes a second to import

    wanted = job.Job(
        options.train, options.benchmark, options.certify, options.checkpoint, options.name
    )
    try:
        folder = job.run(wanted)
    except job.StepFailed as error:
        print(f"fluxttice: {error}", file=sys.stderr)
        return 1
    print(f"\nDone: open the .html files in\n{files.shown(folder)}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from . import files
    from .certification import signing, verify

    trusted = signing.FINGERPRINT
    if options.public_key:
        try:
            key = files.read_file(files.existing(options.public_key), links=True)
        except InputError:
            raise InputError(f"No public key at {options.public_key}.") from None
        trusted = signing.fingerprint(key)
    found = verify.verify(options.path, trusted, options.quick)
    print(verify.table(found.rows))
    if found.problem:
        raise InputError(f"{options.path} is refused: {found.problem}.")
    measured = "nothing measured again" if options.quick else "every gate measured again"
    print(f"PASS: {options.path}, signed by the trusted key, {measured}")
    return 0


def _import(options: argparse.Namespace) -> int:
    from .checkpoints import folder as checkpoint

    folder = checkpoint.import_original(options.old, Path(options.folder))
    loaded = checkpoint.load(folder)
    print(f"{folder}: epoch {loaded.epoch}, sha256 {loaded.sha256}")
    print(f"from {options.old}, sha256 {loaded.manifest['imported']['sha256']}")
    return 0


def _evidence(_options: argparse.Namespace) -> int:
    from .report import batch

    batch.run()
    return 0


def _controls(options: argparse.Namespace) -> int:
    from . import files, params
    from .metrics import measurement

    values = params.read_yaml(files.find(options.benchmark))
    blank = {"run_dir": "", "checkpoint": ""}
    p = params.check(measurement.Benchmark, {**blank, **values}, options.benchmark)
    measurement.beside_path().unlink(missing_ok=True)
    files.write_bytes(measurement.beside_path(), measurement.beside(p).to_json())
    return 0


def _power(options: argparse.Namespace) -> int:
    from . import files, params
    from .certification import power
    from .metrics.gates import Certify

    values = params.read_yaml(files.find(options.certify))
    p = params.check(Certify, {"run_dir": "", "checkpoint": "", **values}, options.certify)
    print(power.detected(power.write(p), p).to_string(index=False))
    return 0


def _keygen(options: argparse.Namespace) -> int:
    from .certification import signing

    path = options.path or signing.DEFAULT_KEY
    print(f"fingerprint {signing.keygen(path)}")
    print(f"private key {path}: keep it to yourself; to sign with it, certify with")
    print(f"    export {signing.KEY_VARIABLE}={path}")
    return 0

"""The `fluxttice` command. A user's mistake is one sentence on standard error and exit code 1."""

import argparse
import sys

from .errors import InputError


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except InputError as error:
        print(f"fluxttice: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fluxttice", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="train, benchmark and certify into a dated folder")
    report.add_argument("--train", default="params/train.yaml")
    report.add_argument("--benchmark", default="params/benchmark.yaml")
    report.add_argument("--certify", default="params/certify.yaml")
    report.add_argument("--checkpoint", default="", help="measure this one instead of training")
    report.add_argument("--name", default="report", help="last part of the folder's name")
    report.set_defaults(run=_report)
    return parser


def _report(options: argparse.Namespace) -> int:
    from . import files, report  # papermill takes a second to import

    job = report.Job(
        options.train, options.benchmark, options.certify, options.checkpoint, options.name
    )
    try:
        folder = report.run(job)
    except report.StepFailed as error:
        print(f"fluxttice: {error}", file=sys.stderr)
        return 1
    print(f"\nDone: open the .html files in\n{files.shown(folder)}")
    return 0

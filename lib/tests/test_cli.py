"""The command line: every option has help, and what is not installed is one sentence."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from fluxttice_core import cli

EXTRAS = {
    "verify x": ("cryptography", "sign"),
    "keygen x": ("cryptography", "sign"),
    "report": ("papermill", "report"),
}
LIGHT = f"""
import sys
sys.modules |= dict.fromkeys(["cryptography", "model_signing", "papermill"])
from fluxttice_core import cli
from fluxttice_core.report import plots, tables  # the pages need no key
sys.exit(any(cli.main(words.split()) != 1 for words in {list(EXTRAS)}))
"""


def commands() -> dict[str, argparse.ArgumentParser]:
    [found] = [action.choices for action in cli._parser()._actions if action.choices]
    return found


@pytest.mark.parametrize("name", commands())
def test_every_option_has_help_and_says_its_default(name):
    for action in commands()[name]._actions:
        assert action.help, f"{name} {action.dest} has no help"
        if action.option_strings and action.dest != "help":
            assert "default: " in action.help, f"{name} --{action.dest} says no default"


def test_what_is_not_installed_is_one_sentence():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.splitlines() == [
        f"fluxttice: {missing} is not installed: pip install 'fluxttice[{extra}]'."
        for missing, extra in EXTRAS.values()
    ]


def test_a_module_of_our_own_that_is_missing_is_no_extra(monkeypatch):
    def lost(*arguments):
        raise ModuleNotFoundError(name="fluxttice_core.lost")

    monkeypatch.setattr("fluxttice_core.certification.verify.verify", lost)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["verify", "x"])


def test_the_command_is_installed_and_exits_non_zero_for_a_mistake():
    command = [Path(sys.executable).with_name("fluxttice"), "verify", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr

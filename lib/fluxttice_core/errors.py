"""The exceptions that a user sees: one sentence each, no traceback."""


class InputError(ValueError):
    """Bad input. The message is one sentence: what was wrong, where, and what would be right.

    Notebooks show the sentence alone, because IPython calls `_render_traceback_` where an exception
    has one. The command line prints it and exits with 1.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class ThresholdMissed(InputError):
    """A measured value misses its bound: the only exception by which a notebook fails its verdict.

    The notebook has run to its end, so its page is complete and shows the verdict.
    """


def printable(text: object, most: int = 80) -> str:
    """A foreign file's words, fit for a sentence: at most `most` characters, all printable."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:most])

"""The one exception a user's mistake raises."""


class InputError(ValueError):
    """Bad input: its message is one sentence that says what, where, and what would be right.

    Notebooks show the sentence alone (`_render_traceback_` is IPython's hook for that) and the
    command line prints it and exits with 1, so that no one has to read a traceback to learn of
    a typing mistake.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def printable(text: object, most: int = 80) -> str:
    """A foreign file's words, fit for a sentence: at most `most` characters, all printable."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:most])

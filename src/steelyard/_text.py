"""Text that others wrote, made fit to be shown."""


def printable(text: str) -> str:
    r"""The text on one line, with an escape for whatever is not a visible character.

    Names of files, columns and classes may hold line breaks, commands to a terminal, marks that
    turn the direction of writing, and halves of characters that no encoding can write.

    Example:
        >>> print(printable("a\nb"), printable("é ×"))
        a\nb é ×
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

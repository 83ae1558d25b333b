"""Text from outside, made safe for a terminal, a log line or a column."""


def printable(text: str) -> str:
    """Return a text with what can't be seen, or stored, written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode()
        for sign in text
    )

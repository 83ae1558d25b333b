"""Text from outside, made safe to log and to store."""

LONGEST_SHOWN = 300
LONGEST_STORED = 500


def shown(said: object) -> str:
    """Return what comes from outside as one line that is safe to log and to store."""
    text = str(said)
    cut = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    if cut.isprintable():
        return cut
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in cut
    )[:LONGEST_STORED]

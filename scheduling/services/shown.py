"""Text from outside, made safe to log and to store."""

from scheduling.domain.texts import printable

LONGEST_SHOWN = 300
LONGEST_STORED = 500


def shown(said: object) -> str:
    """Return what comes from outside as one line that is safe to log and to store."""
    text = str(said)
    cut = text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"
    return printable(cut)[:LONGEST_STORED]

"""The texts that jobs are searched by, as the clusters keep them."""

from scheduling.adapters.job_texts import follow_one_seal
from scheduling.services.seals import Sealer


def follow(*_):
    """Follow the seals there are."""
    while follow_one_seal():
        pass


def follow_all(now):
    """Seal all there is and follow the seals."""
    sealer = Sealer()
    while sealer.seal_next(now=now):
        pass
    follow()

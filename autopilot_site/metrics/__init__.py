"""The metrics (contract, section 7), read from the database at each scrape.

All of them come from durable rows, so that every process on every host answers the same,
a host without a web process is counted too, and a process that is killed takes nothing
with it. prometheus_client's multiprocess files would be none of that: they are one host's,
and die with its disk. Counters are counted from the audit, which is append-only, and kept
in running totals, so that clean-up never lets one go back.
"""

"""The table, out of the raw results.

Of several runs the one counts that others disturbed least: the smallest share of the CPUs
that went to them, whatever the peer's own figure. Of lateness all runs are shown, in that
order; kills are counted over all runs.
"""

import json

from tests.peers.catalogue import PEERS

HEAD = (
    "| peer | lateness p50 / p99, ms | burst of 5,000: records/s (all after) |"
    " CPU per record, ms | one call each, jobs/s | in bulk, jobs/s | idle, CPU s/min |"
    " killed, 10 jobs/s: lost / twice | killed in a burst: lost / twice |"
)
CONTROL_HEAD = (
    "| peer | lateness | burst | one call each | in bulk | idle |"
    " killed, 10 jobs/s | killed in a burst |"
)
NOTHING = "-"


def read(path):
    """Return the rows of a file of results."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def tables(rows):
    """Return both tables, of figures and of what the machine added, as Markdown."""
    results = [row for row in rows if "measure" in row]
    names = [name for name in PEERS if any(row["peer"] == name for row in results)]
    figures = [HEAD, _rule(HEAD)]
    control = [CONTROL_HEAD, _rule(CONTROL_HEAD)]
    for name in names:
        mine = [row for row in results if row["peer"] == name]
        title = PEERS[name].title
        figures.append(_line(title, [show(mine) for show in SHOWN]))
        control.append(_line(title, [_control(_of(mine, measure)) for measure in MEASURED]))
    return "\n".join(figures), "\n".join(control)


def faults(rows):
    """Return the runs that don't count, and why."""
    return [
        f"{row['measure']} of {row['peer']}, run {row['run']}: "
        f"{row.get('error') or 'not all were scheduled before the first was due'}"
        for row in rows
        if "measure" in row and not _is_good(row)
    ]


def _rule(head):
    return "| --- " + "| ---: " * (head.count("|") - 2) + "|"


def _line(title, cells):
    return f"| {title} | " + " | ".join(cells) + " |"


def _is_good(row):
    return "error" not in row and row.get("wereScheduledInTime", True)


def _of(rows, measure):
    return [row for row in rows if row["measure"] == measure and _is_good(row)]


def _quietest(rows, measure):
    good = _of(rows, measure)
    return min(good, key=_disturbed, default=None)


def _disturbed(row):
    return row["control"]["othersPercent"]


def _lateness(rows):
    """Return the lateness of all runs, in the order of what others took."""
    shown = [
        f"{_number(row['latenessMs']['p50'])} / {_number(row['latenessMs']['p99'])}"
        + _missing(row)
        for row in sorted(_of(rows, "lateness"), key=_disturbed)
    ]
    return "; ".join(shown) or NOTHING


def _burst(rows):
    best = _quietest(rows, "burst")
    if best is None:
        return NOTHING
    if not best["came"]:
        return f"none of {best['jobs']:,} yet"
    shown = f"{_number(best['perSecond'])} ({_number(best['secondsFromDue'])} s)"
    return shown + _missing(best)


def _cost(rows):
    """Return what a record of the burst cost; a busy machine changes it least of all."""
    best = _quietest(rows, "burst")
    if best is None or not best["came"] or "firingCpuMsPerRecord" not in best:
        return NOTHING
    fires, store = best["firingCpuMsPerRecord"], best["storeCpuMsPerRecord"]
    return f"{fires + store:.2f}"


def _missing(row):
    missing = row["jobs"] - row["came"]
    return f", {missing:,} not yet" if missing else ""


def _rate(measure):
    def show(rows):
        best = _quietest(rows, measure)
        return NOTHING if best is None else _number(best["perSecond"])

    return show


def _idle(rows):
    best = _quietest(rows, "idle")
    return NOTHING if best is None else f"{best['cpuSecondsPerMinute']:.2f}"


def _kills(measure):
    def show(rows):
        good = _of(rows, measure)
        if not good:
            return NOTHING
        lost, twice, jobs = (
            sum(row[name] for row in good) for name in ("lost", "twice", "jobs")
        )
        return f"{lost:,} / {twice:,} of {jobs:,}"

    return show


def _control(rows):
    """Return what others took, the timer's p99 and the steal of each run."""
    shown = [
        f"{row['control']['othersPercent']:.0f} %,"
        f" {_number(row['control']['timerMs']['p99'])} ms,"
        f" {row['control']['stealPercent']:.0f} %"
        for row in sorted(rows, key=_disturbed)
    ]
    return "; ".join(shown) or NOTHING


def _number(value):
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


SHOWN = (
    _lateness,
    _burst,
    _cost,
    _rate("schedule"),
    _rate("bulk"),
    _idle,
    _kills("kill"),
    _kills("kill-burst"),
)
MEASURED = ("lateness", "burst", "schedule", "bulk", "idle", "kill", "kill-burst")

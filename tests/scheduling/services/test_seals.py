"""Seals cover every audit entry, also those that commit late, and prove each of them."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.db.models import F

from scheduling.models import AuditEntry, AuditSeal, Housekeeping
from scheduling.sealer import TURN, Round
from scheduling.services.seal_proof import prove_chain, seals_of_entries, seals_since
from scheduling.services.seals import GENESIS, Sealer, newest_seal
from tests.support.tampering import tampering
from tests.support.threads import run_together

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(60)]
concurrent = pytest.mark.django_db(transaction=True)
SEQUENCE = "scheduling_auditentry_id_seq"


def write(now, count=1, **fields):
    """Write entries as the product does, in the caller's transaction if there is one."""
    made = [
        AuditEntry(
            at=now,
            action="access.logged_in",
            actor=f"user:{number}",
            role="viewer",
            **{"changes": {"door": "api", "address": 'a "quoted" one,\n{}'}, **fields},
        )
        for number in range(count)
    ]
    return AuditEntry.objects.bulk_create(made)


def seal_all(now, sealer=None):
    """Seal until nothing is left; return the new seals."""
    sealer = sealer or Sealer()
    return list(iter(lambda: sealer.seal_next(now=now), None))


@pytest.fixture
def elsewhere():
    """Return what runs a function in a thread of its own, step by step."""
    pool = ThreadPoolExecutor(4)
    yield pool.submit
    pool.shutdown()


class Late:
    """A transaction in another session that writes at once and commits when told."""

    def __init__(self, now, submit, *, draws_only=False):
        self._now = now
        self._draws_only = draws_only
        self._drawn, self._may_end = threading.Event(), threading.Event()
        self._commits = True
        self._done = submit(self._run)
        assert self._drawn.wait(10)

    def _run(self):
        try:
            with transaction.atomic():
                if self._draws_only:
                    key = self._draw()
                else:
                    (entry,) = write(self._now, reason="late")
                    key = entry.pk
                self._drawn.set()
                assert self._may_end.wait(20)
                if self._draws_only:
                    write(self._now, reason="late", id=key)
                transaction.set_rollback(not self._commits)
            return key
        finally:
            connections.close_all()

    def _draw(self):
        """Stand where an insert has drawn its id and has no transaction id yet."""
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE scheduling_auditentry IN ROW EXCLUSIVE MODE")
            cursor.execute(f"SELECT nextval('{SEQUENCE}')")
            return cursor.fetchone()[0]

    def end(self, *, commits=True):
        self._commits = commits
        self._may_end.set()
        return self._done.result(20)


@concurrent
class TestSealNext:
    def test_seals_what_is_new_and_chains_it(self, now):
        write(now, 3)
        (first,) = seal_all(now)
        write(now, 2)
        (second,) = seal_all(now)

        assert (first.number, first.entries, first.previous) == (1, 3, GENESIS)
        assert (second.number, second.entries) == (2, 2)
        assert second.previous == first.digest
        assert second.first_id == first.last_id + 1
        assert second.gaps == second.late == second.waiting == []

    def test_makes_no_seal_where_nothing_is_new(self, now):
        sealer = Sealer()
        write(now)
        seal_all(now, sealer)

        assert seal_all(now, sealer) == []
        assert not sealer.has_work()

    def test_seals_a_burst_in_batches(self, now, monkeypatch):
        monkeypatch.setattr("scheduling.services.seals.BATCH", 4)
        write(now, 10)

        assert [seal.entries for seal in seal_all(now)] == [4, 4, 2]
        assert prove_chain().holds

    def test_of_two_sealers_at_once_one_wins(self, now):
        write(now, 50)

        made = run_together(4, lambda _: Sealer().seal_next(now=now))

        assert len([seal for seal in made if isinstance(seal, AuditSeal)]) == 1
        assert [seal for seal in made if not isinstance(seal, AuditSeal)] == [None] * 3
        assert prove_chain().holds


@concurrent
@pytest.mark.postgres
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer")
class TestLateCommit:
    @pytest.mark.parametrize("draws_only", [False, True])
    def test_is_sealed_though_its_id_was_passed_over(self, now, elsewhere, draws_only):
        write(now)
        seal_all(now)
        late = Late(now, elsewhere, draws_only=draws_only)
        write(now, 2)
        sealer = Sealer()
        (first,) = seal_all(now, sealer)
        assert seal_all(now, sealer) == []
        write(now)
        (second,) = seal_all(now, sealer)

        key = late.end()
        (third,) = seal_all(now, sealer)

        assert first.gaps == [[key, key]]
        assert [span[:2] for span in second.waiting] == [[key, key]]
        assert third.late == [[key, key]]
        assert third.waiting == []
        assert prove_chain().entries == AuditEntry.objects.count() == 5

    def test_is_sealed_by_another_sealer_as_well(self, now, elsewhere):
        late = Late(now, elsewhere)
        write(now, 2)
        seal_all(now, Sealer())

        key = late.end()

        assert [seal.late for seal in seal_all(now, Sealer())] == [[[key, key]]]
        assert prove_chain().holds

    def test_that_is_rolled_back_is_waited_for_no_longer(self, now, elsewhere):
        late = Late(now, elsewhere)
        write(now, 2)
        sealer = Sealer()
        seal_all(now, sealer)
        assert sealer.has_work()

        late.end(commits=False)

        assert seal_all(now, sealer) == []
        assert not sealer.has_work()
        write(now)
        (seal,) = seal_all(now, sealer)
        assert seal.waiting == []
        assert prove_chain().holds


@concurrent
class TestRealConcurrency:
    def test_every_entry_of_many_writers_is_sealed_exactly_once(self, now):
        """Writers commit, wait, and roll back at random while two sealers work."""
        ends_at = time.monotonic() + 3

        def work(index):
            chance = random.Random(index)
            if index < 2:
                sealer = Sealer()
                while time.monotonic() < ends_at:
                    sealer.seal_next(now=now)
                    time.sleep(chance.random() / 50)
                return 0
            written = 0
            while time.monotonic() < ends_at:
                size = chance.randint(1, 30)
                is_kept = chance.random() < 0.8
                with transaction.atomic():
                    write(now, size)
                    time.sleep(chance.random() / 20)
                    write(now, size)
                    transaction.set_rollback(not is_kept)
                written += 2 * size if is_kept else 0
                time.sleep(chance.random() / 20)
            return written

        written = sum(run_together(8, work))
        seal_all(now)

        proof = prove_chain()
        assert proof.faults == []
        assert written == AuditEntry.objects.count() == proof.entries > 100
        if connection.vendor == "postgresql":
            assert AuditSeal.objects.exclude(late=[]).exists()


class TestSealsAreAppendOnly:
    @pytest.mark.parametrize(
        "change",
        [
            lambda seals: seals.update(entries=7),
            lambda seals: seals.delete(),
            lambda seals: seals._raw_delete("default"),
        ],
        ids=["update", "delete", "raw delete"],
    )
    def test_the_database_refuses_a_queryset(self, now, change):
        write(now)
        seal_all(now)

        with (
            pytest.raises(DatabaseError, match="the audit is append-only"),
            transaction.atomic(),
        ):
            change(AuditSeal.objects.all())

    def test_a_seal_refuses_to_be_saved_again_or_deleted(self, now):
        write(now)
        (seal,) = seal_all(now)

        with pytest.raises(TypeError):
            seal.save()
        with pytest.raises(TypeError):
            seal.delete()


def _edit(chance):
    """Change one entry, add one in a gap's place, or take one away; return what."""
    entries = AuditEntry.objects.order_by("id")
    entry = entries[chance.randrange(entries.count())]
    one = AuditEntry.objects.filter(pk=entry.pk)
    texts = ["action", "job_id", "project_id", "phase_id", "actor", "reason", "request_id"]
    kind = chance.choice(
        [*texts, "role", "state", "old_status", "changes", "at", "id", "delete", "swap"]
    )
    if kind in texts:
        one.update(**{kind: getattr(entry, kind) + chance.choice("x ~é")})
    elif kind in {"role", "state", "old_status"}:
        one.update(**{kind: "other"[: chance.randint(1, 5)]})
    elif kind == "changes":
        one.update(changes={**entry.changes, chance.choice("abc"): chance.random()})
    elif kind == "at":
        one.update(at=entry.at + timedelta(microseconds=1))
    elif kind == "id":
        # The last one would become one that is not sealed yet, which is found too.
        one.update(id=F("id") + 1_000_000)
    elif kind == "delete":
        one._raw_delete("default")
    else:
        other = entries.exclude(pk=entry.pk)[chance.randrange(entries.count() - 1)]
        AuditEntry.objects.filter(pk=other.pk).update(actor=entry.actor, reason="swapped")
    return kind, entry.pk


class TestProveChain:
    def test_holds_without_any_seal(self, now):
        write(now, 2)

        proof = prove_chain()

        assert proof.holds
        assert proof.unsealed == 2

    def test_finds_100_of_100_random_edits(self, now, monkeypatch):
        monkeypatch.setattr("scheduling.services.seals.BATCH", 17)
        write(now, 100)
        seal_all(now)
        assert prove_chain().holds
        chance = random.Random(8)

        missed = []
        for _ in range(100):
            with tampering():
                edit = _edit(chance)
                if prove_chain().holds:
                    missed.append(edit)

        assert missed == []
        assert prove_chain().holds

    @pytest.mark.parametrize(
        "change",
        [
            {"digest": "f" * 64},
            {"previous": "f" * 64},
            {"entries": F("entries") + 1},
            {"first_id": F("first_id") + 1},
            {"last_id": F("last_id") - 1},
            {"gaps": [[1, 2]]},
            {"late": [[1, 1]]},
            {"number": 9},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_finds_a_changed_seal(self, now, change):
        for _ in range(3):
            write(now, 4)
            seal_all(now)

        with tampering():
            AuditSeal.objects.filter(number=2).update(**change)
            assert not prove_chain().holds

    @pytest.mark.parametrize("number", [1, 2])
    def test_finds_a_missing_seal(self, now, number):
        for _ in range(3):
            write(now, 4)
            seal_all(now)

        with tampering():
            AuditSeal.objects.filter(number=number)._raw_delete("default")
            assert prove_chain().faults[0] == f"seal {number} is missing"

    @concurrent
    def test_finds_an_entry_slipped_into_a_gap(self, now):
        (first,) = write(now)
        gap = first.pk + 1
        write(now, id=first.pk + 2)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT setval(%s, %s)", [SEQUENCE, first.pk + 2])
        seal_all(now)
        write(now)
        seal_all(now)

        with tampering():
            write(now, id=gap)
            proof = prove_chain()

        assert proof.faults == [f"entry {gap} was added after its span had been sealed"]

    def test_looks_at_a_part_where_it_is_told_to(self, now):
        for _ in range(4):
            write(now, 3)
            seal_all(now)

        with tampering():
            AuditEntry.objects.filter(pk=AuditEntry.objects.first().pk).update(actor="x")
            assert prove_chain(first=2).holds
            assert prove_chain(first=2, last=3).entries == 6
            assert not prove_chain(first=1, last=1).holds


class TestSealsSince:
    def test_finds_the_first_seal_of_an_instant(self, now):
        for minute in range(9):
            write(now)
            seal_all(now + timedelta(minutes=minute))

        assert seals_since(now) == 1
        assert seals_since(now + timedelta(minutes=4)) == 5
        assert seals_since(now + timedelta(minutes=4, seconds=1)) == 6
        assert seals_since(now + timedelta(hours=1)) == 10

    def test_finds_those_of_entries(self, now):
        keys = []
        for _ in range(4):
            keys += [entry.pk for entry in write(now, 3)]
            seal_all(now)

        assert seals_of_entries(keys[4], keys[7]) == (2, 3)
        assert seals_of_entries(keys[-1], keys[-1] + 5) == (4, 4)
        assert seals_of_entries(keys[-1] + 1, keys[-1] + 5) is None


class TestRound:
    def test_seals_all_there_is_and_anchors_it_in_the_log(self, now, caplog):
        caplog.set_level("INFO", "autopilot.audit")
        write(now, 3)

        Round(threading.Event()).look()

        newest = newest_seal()
        assert newest.entries == 3
        assert newest.digest in caplog.text

    def test_leaves_it_to_whoever_has_the_turn(self, now):
        write(now)
        round_ = Round(threading.Event())
        round_.look()
        write(now)

        round_.look()

        assert AuditSeal.objects.count() == 1
        Housekeeping.objects.filter(name=TURN).update(last_run_at=now.replace(year=2020))
        round_.look()
        assert AuditSeal.objects.count() == 2

    def test_writes_nothing_while_nothing_happens(self, now):
        Round(threading.Event()).look()

        assert not Housekeeping.objects.exists()

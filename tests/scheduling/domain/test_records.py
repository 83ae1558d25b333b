import pytest

from scheduling.domain.records import Record, text_header


def record(*headers):
    return Record(
        cluster_id="cluster",
        topic="a.topic",
        partition=3,
        offset=70,
        value=b"{}",
        headers=headers,
    )


class TestRecord:
    def test_tells_where_it_stands(self):
        assert record().position == ("a.topic", 3, 70)
        assert record().place == "a.topic[3]@70"

    def test_reads_the_headers_that_tell_whose_it_is(self):
        one = record(("job-id", b"job-1"), ("event-id", b"e"), ("correlation-id", b"c"))

        assert (one.event_id, one.job_id, one.correlation_id) == ("e", "job-1", "c")

    def test_has_none_of_them_by_itself(self):
        one = record(("Event-Id", b"e"), ("event_id", b"e"))

        assert (one.event_id, one.job_id, one.correlation_id) == ("", "", "")

    @pytest.mark.parametrize(
        ("name", "attribute", "longest"),
        [
            ("event-id", "event_id", 128),
            ("job-id", "job_id", 128),
            ("correlation-id", "correlation_id", 255),
        ],
    )
    def test_takes_no_more_than_can_be_kept(self, name, attribute, longest):
        fits, too_long = (
            record((name, b"x" * longest)),
            record((name, b"x" * (longest + 1))),
        )

        assert getattr(fits, attribute) == "x" * longest
        assert getattr(too_long, attribute) == ""


class TestTextHeader:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (b"abc", "abc"),
            ("ä".encode(), "ä"),
            (b"  abc\t", "abc"),
            (b"", ""),
            (b"   ", ""),
            (b"a\nb", ""),
            (b"a\x00b", ""),
            (b"\xff", ""),
            (b"\xed\xa0\x80", ""),
            (None, ""),
        ],
    )
    def test_returns_text_or_nothing(self, value, text):
        assert text_header([("other", b"x"), ("name", value)], "name", longest=5) == text

    def test_takes_the_first_that_has_a_value(self):
        headers = [("name", None), ("name", b"first"), ("name", b"second")]

        assert text_header(headers, "name", longest=10) == "first"

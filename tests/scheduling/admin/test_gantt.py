"""The picture of phases over time: always well-formed, inert, and as wide as the page."""

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduling.admin.gantt import MOST_GRID_LINES, ROW_HEIGHT, Row, Tick, draw_gantt
from scheduling.domain.lifecycle import TransitionKind, TransitionStatus

NOW = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


def parse(text):
    return ET.fromstring(text)  # noqa: S314 -- a picture of ours


def hours(number):
    return NOW + timedelta(hours=number)


def elements(svg, tag, name):
    return [one for one in svg.iter(f"{SVG}{tag}") if name in one.get("class", "").split()]


def percent(element, attribute):
    return float(element.get(attribute).removesuffix("%"))


def words(svg):
    return " ".join(svg.itertext())


instants = st.none() | st.datetimes(timezones=st.just(UTC))
ticks = st.builds(
    Tick,
    kind=st.sampled_from(TransitionKind),
    at=st.datetimes(timezones=st.just(UTC)),
    status=st.sampled_from(TransitionStatus),
)
phase_ids = st.sampled_from(["1", "2", "3", ""])
phases = st.builds(
    Row,
    phase_id=phase_ids,
    name=st.text(),
    planned_start_at=instants,
    planned_end_at=instants,
    actual_start_at=instants,
    actual_end_at=instants,
    moved_start_at=instants,
    moved_end_at=instants,
    predecessor=phase_ids,
    ticks=st.lists(ticks, max_size=3),
)


class TestDrawGantt:
    @given(rows=st.lists(phases, max_size=6), now=st.datetimes(timezones=st.just(UTC)))
    def test_is_well_formed_and_within_its_borders_for_any_phases(self, rows, now):
        svg = parse(draw_gantt(rows, now=now))

        for element in svg.iter():
            places = [element.get(name, "0") for name in ("x", "x1", "x2", "width")]
            assert all(0 <= float(one[:-1]) <= 100.5 for one in places if one.endswith("%"))
        assert len(elements(svg, "g", "gantt-row")) == len(rows)
        assert len(elements(svg, "svg", "gantt-tick")) == sum(len(r.ticks) for r in rows)
        assert len(elements(svg, "line", "gantt-grid")) <= MOST_GRID_LINES + 1

    @pytest.mark.parametrize(
        "name", ["<script>alert(1)</script>", "\"onload='x'", "]]>&amp;", "\x00\x1b\ud800"]
    )
    def test_shows_hostile_texts_as_texts(self, name):
        row = Row(phase_id='"><script>', name=name, predecessor='"><script>')

        text = draw_gantt([row], now=NOW, label_id='"><script>')

        svg = parse(text)
        assert "<script" not in text
        assert not [
            one for one in svg.iter() if any(a.startswith("on") for a in one.attrib)
        ]

    def test_puts_the_actual_time_within_the_planned_one(self):
        row = Row(
            phase_id="1",
            name="Review",
            planned_start_at=hours(-2),
            planned_end_at=hours(2),
            actual_start_at=hours(-1),
            actual_end_at=hours(1),
        )

        svg = parse(draw_gantt([row], now=NOW))

        (planned,) = elements(svg, "rect", "gantt-planned")
        (actual,) = elements(svg, "rect", "gantt-actual")
        (line,) = elements(svg, "line", "gantt-now")
        assert percent(actual, "width") == pytest.approx(
            percent(planned, "width") / 2, 0.01
        )
        assert percent(planned, "x") < percent(actual, "x") < percent(line, "x1")
        assert int(actual.get("height")) < int(planned.get("height"))

    def test_marks_each_job_by_its_end_and_status_also_in_words(self):
        row = Row(
            phase_id="1",
            name="Review",
            ticks=[
                Tick(kind=TransitionKind.START, at=NOW, status=TransitionStatus.COMPLETED),
                Tick(kind=TransitionKind.END, at=hours(1), status=TransitionStatus.FAILED),
            ],
        )

        svg = parse(draw_gantt([row], now=NOW))

        (completed,) = elements(svg, "g", "gantt-completed")
        (failed,) = elements(svg, "g", "gantt-failed")
        assert words(completed) == "START completed, due Mon 23 Nov 2026 14:00:00 UTC"
        assert words(failed).split()[:2] == ["END", "failed,"]
        assert words(failed).endswith("!")

    def test_points_from_each_predecessor_to_what_follows_it(self):
        rows = [
            Row(phase_id="1", name="A", planned_end_at=hours(1)),
            Row(phase_id="2", name="B", predecessor="1", planned_start_at=hours(2)),
            Row(phase_id="3", name="C", predecessor="elsewhere", planned_start_at=hours(3)),
            Row(phase_id="4", name="D", predecessor="4", planned_start_at=hours(3)),
            Row(phase_id="5", name="E", predecessor="1"),
        ]

        svg = parse(draw_gantt(rows, now=NOW))

        (arrow,) = elements(svg, "g", "gantt-arrow")
        across, down = arrow.findall(f"{SVG}line")
        assert percent(across, "x1") < percent(across, "x2") == percent(down, "x2")
        assert int(down.get("y1")) < int(down.get("y2"))

    def test_shows_where_a_phase_would_be_moved_to(self):
        row = Row(
            phase_id="1",
            name="A",
            planned_start_at=NOW,
            planned_end_at=hours(1),
            moved_start_at=hours(1),
            moved_end_at=hours(2),
        )

        svg = parse(draw_gantt([row], now=NOW))

        (planned,) = elements(svg, "rect", "gantt-planned")
        (moved,) = elements(svg, "rect", "gantt-moved")
        assert percent(moved, "x") == pytest.approx(
            percent(planned, "x") + percent(planned, "width"), abs=0.05
        )

    def test_says_what_is_odd(self):
        rows = [
            Row(phase_id="1", name="A", planned_start_at=hours(1), planned_end_at=NOW),
            Row(phase_id="2", name="B"),
        ]

        svg = parse(draw_gantt(rows, now=NOW))

        told = svg.findtext(f"{SVG}desc")
        assert "1 said to end before the start" in told
        assert "1 without any instant" in told
        assert elements(svg, "rect", "gantt-contradictory")
        assert "no instants known" in words(svg)

    def test_leaves_the_present_out_where_it_is_far_off(self):
        row = Row(phase_id="1", name="A", planned_start_at=hours(-99), planned_end_at=NOW)

        svg = parse(draw_gantt([row], now=NOW + timedelta(days=900)))

        assert not elements(svg, "line", "gantt-now")
        assert "The present lies outside" in svg.findtext(f"{SVG}desc")

    def test_grows_by_a_row_a_phase(self):
        def height(number):
            rows = [
                Row(phase_id=str(n), name=f"Phase {n}", planned_start_at=hours(n))
                for n in range(number)
            ]
            return int(parse(draw_gantt(rows, now=NOW)).get("height"))

        assert height(200) - height(100) == 100 * ROW_HEIGHT

    @settings(max_examples=30)
    @given(span=st.integers(min_value=1, max_value=10**9))
    def test_has_a_few_round_instants_on_its_axis(self, span):
        row = Row(
            phase_id="1",
            name="A",
            planned_start_at=NOW,
            planned_end_at=NOW + timedelta(seconds=span),
        )

        svg = parse(draw_gantt([row], now=NOW))

        labels = [one.text for one in elements(svg, "text", "gantt-axis")]
        assert labels
        assert all(
            re.fullmatch(r"\d\d:\d\d|\d{1,2} \w{3}|\w{3} \d{4}|\d{4}", label)
            for label in labels
        )

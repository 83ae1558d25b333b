"""Bytes from outside as text and digits, with the place at which a reader stopped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduling import strict_json
from scheduling.domain.dumps import LARGEST_HEX, LARGEST_TEXT, dump


class TestDump:
    @given(content=st.binary(max_size=300), complaint=st.text(max_size=30))
    def test_shows_any_bytes_whole_and_visible(self, content, complaint):
        shown = dump(content, complaints=[complaint, "(line 1, column 3)"])

        text = f"{shown.before}{shown.marked}{shown.after}"
        assert all(sign in "\n\t" or sign.isprintable() for sign in text)
        digits = "".join(row[1] for row in shown.rows).replace(" ", "")
        assert bytes.fromhex(digits) == content

    @pytest.mark.parametrize(
        ("content", "marked"),
        [
            (b'{"a": tru}', "t"),
            (b'\xef\xbb\xbf{"a": tru}', "t"),
            (b'{\n "\xc3\xa9": 1,\n "b": x}', "x"),
            (b'["\xc3\xa9" \xc3\xa4]', "\u00e4"),
            (b'["ab\xff"]', "\\xff"),
            (b'\xef\xbb\xbf["ab\xff"]', "\\xff"),
        ],
    )
    def test_marks_where_the_reader_stopped(self, content, marked):
        with pytest.raises(ValueError, match="is not") as error:
            strict_json.loads(content)

        shown = dump(content, complaints=[f"value: {error.value}"])

        assert shown.marked == marked
        assert sum(is_marked for *_, is_marked in shown.rows) == 1

    @pytest.mark.parametrize(
        "complaint", ["", "at byte 999", "(line 9, column 1)", "(line 1, column 99)"]
    )
    def test_marks_nothing_where_no_place_is_told(self, complaint):
        shown = dump(b"abc", complaints=[complaint])

        assert (shown.before, shown.marked, shown.marked_at) == ("abc", "", None)

    def test_shows_so_much_of_what_is_large(self):
        content = b"a" * (LARGEST_TEXT + 5)

        shown = dump(content, complaints=["at byte 20000"])

        assert (shown.size, shown.hidden) == (len(content), 5)
        assert len(shown.rows) == LARGEST_HEX // 16
        assert any(is_marked for *_, is_marked in shown.rows)

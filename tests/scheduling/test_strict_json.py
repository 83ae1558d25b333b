"""Strict JSON: what is read, and everything that is refused."""

import pytest

from scheduling.strict_json import _object, loads


class TestLoads:
    @pytest.mark.parametrize(
        ("data", "value"),
        [
            (b'{"a": [1, 2.5, "\\u00e9", true, null]}', {"a": [1, 2.5, "é", True, None]}),
            (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
            ('"\U0001f600"'.encode(), "\U0001f600"),
            (b'"\\ud83d\\ude00"', "\U0001f600"),
            (b" \t\r\n[] ", []),
            (b"9007199254740993", 9007199254740993),
            (b"[" * 64 + b"]" * 64, pytest.approx),
        ],
    )
    def test_reads_what_json_is(self, data, value):
        read = loads(data)

        assert value is pytest.approx or read == value

    @pytest.mark.parametrize(
        ("data", "cause"),
        [
            (b"", "is not JSON"),
            (b"{", "is not JSON"),
            (b'{"a": NaN}', "contains NaN"),
            (b"-Infinity", "contains -Infinity"),
            (b"1e999", "beyond the range"),
            (b"9" * 5_000, "too many digits"),
            (b'{"a": 1, "a": 1}', "key 'a' twice"),
            (b'{"a": 1, "b": 1, "b": 2, "a": 2}', "key 'b' twice"),
            (b'[{"b": {"c": 1, "\\u0063": 2}}]', "key 'c' twice"),
            (b'{"a": 1} x', "Extra data"),
            (b'{"a": 1}{"b": 2}', "Extra data"),
            (b'{"a": 1, }', "is not JSON"),
            (b'{"a": 1} // why', "Extra data"),
            (b"{'a': 1}", "is not JSON"),
            (b"01", "Extra data"),
            (b"+1", "is not JSON"),
            (b'"a\tb"', "is not JSON"),
            (b'"a\x00b"', "is not JSON"),
            (b'["\\u0000"]', "NUL"),
            (b'{"\\u0000": 1}', "NUL"),
            (b'"\\ud800"', "lone surrogate"),
            (b'{"\\udc00": 1}', "lone surrogate"),
            (b'{"\\ud800": 1, "\\ud800": 2}', "lone surrogate"),
            (b'"\xed\xa0\x80"', "is not UTF-8"),
            (b'"\xff"', "is not UTF-8"),
            ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
            (b"\xef\xbb\xbf\xef\xbb\xbf{}", "is not JSON"),
            (b"[" * 65 + b"]" * 65, "nests deeper than 64"),
            (b'{"a":' * 65 + b"1" + b"}" * 65, "nests deeper than 64"),
            (b"[" * 200_000, "nests deeper than 64"),
        ],
    )
    def test_refuses_what_json_is_not(self, data, cause):
        with pytest.raises(ValueError, match=cause):
            loads(data)


class CountedName(str):
    """A name that counts how often one is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        CountedName.compared += 1
        return str.__eq__(self, other)


class TestManyMembers:
    def test_are_not_compared_each_with_each_to_find_one_that_comes_twice(self):
        names = [*(f"name {number}" for number in range(3_000)), "last", "last"]
        pairs = [(CountedName(name), 0) for name in names]

        with pytest.raises(ValueError, match="'last' twice"):
            _object(pairs)

        assert CountedName.compared < 3_000

"""Which address asks, whatever the caller writes into headers."""

import pytest
from django.test import RequestFactory

from scheduling.api.client_address import client_address, counted_address


def request_from(peer, forwarded=None):
    headers = {} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded}
    return RequestFactory().get("/", REMOTE_ADDR=peer, **headers)


class TestClientAddress:
    @pytest.mark.parametrize("forwarded", [None, "9.9.9.9", "9.9.9.9, 8.8.8.8", "x", ""])
    def test_is_the_peer_whatever_a_header_says(self, settings, forwarded):
        settings.TRUST_PROXY = False

        assert client_address(request_from("10.0.0.1", forwarded)) == "10.0.0.1"

    @pytest.mark.parametrize(
        ("forwarded", "address"),
        [
            ("9.9.9.9", "9.9.9.9"),
            ("1.1.1.1, 2.2.2.2,9.9.9.9", "9.9.9.9"),
            ("9.9.9.9:4711", "9.9.9.9"),
            ("2001:db8::1", "2001:db8::1"),
            ("x, [2001:DB8::1]:4711", "2001:db8::1"),
            ("::ffff:9.9.9.9", "9.9.9.9"),
            ("fe80::1%eth0", "fe80::1"),
            # What can't be read leaves the proxy itself.
            ("9.9.9.9, unknown", "10.0.0.1"),
            ("9.9.9.9,", "10.0.0.1"),
            ("9.9.9.999", "10.0.0.1"),
            ("", "10.0.0.1"),
            (None, "10.0.0.1"),
            ("٩.٩.٩.٩".encode().decode("latin-1"), "10.0.0.1"),
        ],
    )
    def test_behind_a_proxy_of_ours_is_the_last_hop(self, settings, forwarded, address):
        settings.TRUST_PROXY = True

        assert client_address(request_from("10.0.0.1", forwarded)) == address

    @pytest.mark.parametrize("peer", ["", "/run/web.sock"])
    def test_is_empty_where_the_server_knows_none(self, settings, peer):
        settings.TRUST_PROXY = False

        assert client_address(request_from(peer)) == ""


class TestCountedAddress:
    @pytest.mark.parametrize(
        ("peer", "counted"),
        [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::ffff", "2001:db8:1:2::"),
            ("", None),
        ],
    )
    def test_is_the_network_for_ipv6(self, peer, counted):
        assert counted_address(request_from(peer)) == counted

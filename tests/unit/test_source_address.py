"""Where a call comes from, for whoever counts."""

import pytest
from mosaic_common.source_address import source_key


@pytest.mark.parametrize(
    ("address", "key"),
    [
        pytest.param("192.0.2.7", "192.0.2.7", id="IPv4"),
        pytest.param("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="IPv6: one party commands a whole /64"),
        pytest.param("2001:DB8:1:2::", "2001:db8:1:2::/64", id="in another spelling"),
        pytest.param("::ffff:192.0.2.7", "192.0.2.7", id="IPv4 behind a dual-stack socket"),
        pytest.param("fe80::1%eth0", "fe80::/64", id="with a zone"),
        pytest.param("", "", id="a socket without an address"),
    ],
)
def test_a_source_is_what_one_party_commands(address: str, key: str) -> None:
    """Changing the address within one's own network does not give a new budget."""
    assert source_key(address) == key

from __future__ import annotations

import json

from ppx_server.address import Address, AddressTable

MU = Address("detector/mu", "mu", "Normal", ())


def test_ids_count_up_and_stay() -> None:
    table = AddressTable()
    assert table.intern(MU) == 0
    assert table.intern(MU._replace(address="x")) == 1
    assert table.intern(MU) == 0
    assert len(table) == 2
    assert table[0] == MU


def test_another_family_or_shape_is_another_entry() -> None:
    table = AddressTable([MU, MU._replace(family="Uniform"), MU._replace(shape=(2,)), MU._replace(name="")])
    assert len(table) == 4


def test_names_are_found_before_addresses() -> None:
    table = AddressTable(
        [
            MU,
            Address("b/mu", "mu", "Normal", ()),
            Address("sim.py:3:f", "", "Normal", ()),
            Address("mu", "", "", ()),
        ]
    )
    assert table.find("mu") == (0, 1)
    assert table.find("b/mu") == (1,)
    assert table.find("sim.py:3:f") == (2,)
    assert table.find("nu") == ()


def test_json_keeps_everything() -> None:
    table = AddressTable([MU, Address("a.b/values[0] é\x00", "", "", (2, 3))])
    again = AddressTable.from_json(json.loads(json.dumps(table.to_json())))
    assert list(again) == list(table)
    assert again.intern(Address("new", "", "", ())) == 2

"""After a restart of the machine."""

from __future__ import annotations

import pytest

from tests.vm.service import UNITS, Service, doctor, is_active

pytestmark = [pytest.mark.requires("trial"), pytest.mark.shares_host]


def test_the_service_starts_with_the_machine_and_has_its_functions() -> None:
    hearth = Service()
    try:
        hearth.ready()
        assert [unit for unit in UNITS if not is_active(unit)] == []
        answer = hearth.call("hello", {})  # an earlier boot's
        assert (answer.start, answer.ok()["calls"]) == ("cold", 1)
        assert doctor()["leaked"] == 0
    finally:
        hearth.close()

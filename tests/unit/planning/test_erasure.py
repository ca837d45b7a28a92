"""Which way to erase a controller knows, and what is against every one."""

from __future__ import annotations

from typing import Any

import pytest

from passthrough.planning import erasure
from passthrough.planning.erasure import Method, Objection
from passthrough.system.nvme_admin import Controller, Namespace

ONE = Namespace(1, 8, 512, is_shared=False, settings=0)
SHARED = ONE._replace(is_shared=True)


def choose(
    *namespaces: Namespace,
    controllers: tuple[int, ...] | None = (0,),
    allocated: tuple[int, ...] | None = None,
    **controller: Any,
) -> Method | Objection:
    told = erasure.Told(Controller("S", "M", **controller), controllers, namespaces, allocated)
    return erasure.choose(told)


@pytest.mark.parametrize(
    ("knows", "method"),
    [
        (("formats",), Method.FORMAT),
        (("formats", "sanitizes_by_key"), Method.SANITIZE_CRYPTO),
        (("formats", "sanitizes_by_key", "sanitizes_by_block"), Method.SANITIZE_BLOCK),
    ],
)
def test_the_best_that_it_knows(knows: tuple[str, ...], method: Method):
    known: dict[str, Any] = dict.fromkeys(knows, True)
    assert choose(ONE, **known) is method
    assert method.is_sanitize == (method is not Method.FORMAT)


def fact(found: Method | Objection) -> str:
    assert isinstance(found, Objection)
    assert found.way_out
    return found.fact


def test_none_that_it_knows():
    assert fact(choose(ONE)) == "the controller knows neither Sanitize nor Format NVM"


class TestOtherControllers:
    def test_it_has_some(self):
        found = choose(ONE, controllers=(0, 3), formats=True, may_have_others=True)
        assert fact(found) == (
            "its NVM subsystem has other controllers, which see its namespaces: 3"
        )

    def test_it_is_a_vfs(self):
        assert "that of its PF" in fact(choose(ONE, is_vf=True, formats=True))

    @pytest.mark.parametrize("controllers", [None, (), (7, 8)])
    def test_it_may_have_some_and_does_not_tell(self, controllers: tuple[int, ...] | None):
        found = choose(ONE, controllers=controllers, formats=True, may_have_others=True)
        assert isinstance(found, Objection)

    def test_a_shared_namespace_and_no_list(self):
        assert fact(choose(SHARED, controllers=None, formats=True)) == (
            "its namespaces 1 are shared with other controllers, and it does not tell which there"
            " are"
        )

    def test_alone_in_a_subsystem_that_could_have_more(self):
        assert choose(SHARED, formats=True, may_have_others=True) is Method.FORMAT

    def test_an_old_one_that_knows_no_list_and_no_others(self):
        assert choose(ONE, controllers=None, formats=True) is Method.FORMAT


class TestWhatAFormatDoesNotReach:
    def test_no_namespace_at_all(self):
        assert fact(choose(formats=True)) == "it has no active namespace, and knows no Sanitize"

    def test_namespaces_that_are_not_attached(self):
        found = choose(ONE, formats=True, manages_namespaces=True, allocated=(1, 2, 4))
        assert fact(found).startswith("namespaces 2, 4 are not attached")

    def test_what_a_deleted_one_has_held(self):
        found = choose(
            ONE, formats=True, manages_namespaces=True, allocated=(1,), unallocated=1 << 30
        )
        assert fact(found).startswith("1073741824 bytes are in no namespace")

    def test_it_does_not_tell(self):
        found = choose(ONE, formats=True, manages_namespaces=True)
        assert fact(found) == "it does not tell which namespaces it has"

    def test_all_is_in_the_active_ones(self):
        found = choose(ONE, formats=True, manages_namespaces=True, allocated=(1,))
        assert found is Method.FORMAT

    def test_a_sanitize_reaches_all_that(self):
        found = choose(
            sanitizes_by_block=True, manages_namespaces=True, allocated=(2,), unallocated=5
        )
        assert found is Method.SANITIZE_BLOCK

"""Heavy imports: no search for garbage meanwhile nor among what came, and none of it kept otherwise."""

import gc
import sys
import types
import weakref

from touchneedle.benchmark.imports import heavy_imports


class Node:
    """Part of a cycle, which only a search finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_an_import_brings_is_searched_no_more() -> None:
    frozen = gc.get_freeze_count()
    try:
        with heavy_imports():
            assert not gc.isenabled()
            sys.modules["brought_by_an_import"] = types.ModuleType("brought_by_an_import")
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        del sys.modules["brought_by_an_import"]
        gc.unfreeze()


def test_without_an_import_garbage_is_found_as_ever() -> None:
    node = Node()
    gone, frozen = weakref.ref(node), gc.get_freeze_count()
    with heavy_imports():
        del node
    assert gc.get_freeze_count() == frozen
    gc.collect()
    assert gone() is None


def test_a_search_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with heavy_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()

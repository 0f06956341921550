"""Anchors of the page: ids made of names, so that a link into a report keeps its aim when records come and go."""

from __future__ import annotations

import re

_LONGEST = 60


class Anchors:
    """Gives every thing an id of its own, such as ``toy-mass_bump``; the first of two equal ones keeps the plain name."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, ...], str] = {}
        self._taken: set[str] = set()

    def of(self, kind: str, name: str, *rest: str) -> str:
        """The id of a thing of one kind; ``rest`` tells it from others of its name (a version, options)."""
        key = (kind, name, *rest)
        if key not in self._given:
            self._given[key] = self._free(slug(f"{kind}-{name}"))
        return self._given[key]

    def _free(self, wanted: str) -> str:
        found, number = wanted, 1
        while found in self._taken:
            number += 1
            found = f"{wanted}-{number}"
        self._taken.add(found)
        return found


def slug(text: str) -> str:
    """Text as an id that needs no escaping: letters, digits, points, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:_LONGEST].rstrip("-")

"""What is asked of event files: whose they are, and which columns make features, weights and processes of their events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from touchneedle.conf.errors import InputError
from touchneedle.toys.feature_recipe import FeatureRecipe
from touchneedle.toys.table_files import TableFile, is_number, require_same_columns

__all__ = ["ROW", "EventQuery", "ProcessFiles"]

# In place of a column of event numbers: the number of the row in the files of its process.
ROW = "#row"


@dataclass(frozen=True)
class ProcessFiles:
    """Files of one process, or of all.

    Attributes:
        process: whose events these are; None where a column says so.
        weights: weight columns, the nominal one first; None stands for weights of 1.
        sample: 0, or the number of a systematic variation whose events these are.
    """

    process: str | None
    files: tuple[TableFile, ...]
    weights: tuple[str | None, ...]
    sample: int = 0

    @property
    def weight_columns(self) -> list[str]:
        """The weight columns that there are."""
        return [name for name in self.weights if name is not None]


@dataclass(frozen=True)
class EventQuery:
    """What is read of every event.

    Attributes:
        sources: files by process, with one number of weights; or all of them together, with None for the process.
        features: columns of x, stored or derived; None for every stored number that has no other role, and all derived ones.
        recipe: derived features and selection.
        process: column that names each event's process, where the files do not.
        exclude: columns that ``features=None`` leaves out.
        keep_all: keeps the events that are not selected, and the inputs, for those who move events.
        further: stored columns that count as inputs as well.
        event_id: column of event numbers, or `ROW`; "" for none.
    """

    sources: tuple[ProcessFiles, ...]
    features: tuple[str, ...] | None
    recipe: FeatureRecipe
    process: str
    exclude: tuple[str, ...] = ()
    keep_all: bool = False
    further: tuple[str, ...] = ()
    event_id: str = ""

    @property
    def first(self) -> TableFile:
        """The file that the others are held against."""
        return self.sources[0].files[0]

    @cached_property
    def chosen(self) -> tuple[str, ...]:
        """The features by name; raises `InputError` where there is none, or one twice."""
        names = self.features if self.features is not None else (*self._stored_numbers(), *self.recipe.derived)
        if not names:
            raise InputError(
                f"event file {self.first.path}: expected at least one numeric feature; its columns are {', '.join(self.first.schema.names)}"
            )
        if len(set(names)) != len(names):
            raise InputError(f"event file {self.first.path}: expected each feature once; got {', '.join(names)}")
        return names

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The stored columns that features and selection are computed from, and further ones."""
        return tuple(dict.fromkeys([*self.recipe.inputs(self.chosen), *self.further]))

    @property
    def id_columns(self) -> tuple[str, ...]:
        """The column of event numbers, if there is one."""
        return (self.event_id,) if self.event_id not in ("", ROW) else ()

    def _stored_numbers(self) -> list[str]:
        roles = {self.process, *self.exclude, *self.id_columns, *(name for source in self.sources for name in source.weights)}
        return [field.name for field in self.first.schema if field.name not in roles and is_number(field.type)]

    def is_discrete(self, name: str) -> bool:
        """Whether a feature is stored as an integer, or is true or false."""
        if name in self.recipe.derived:
            return self.recipe.derived[name].is_condition
        return not pa.types.is_floating(self.first.schema.field(name).type)

    def check(self) -> None:
        """Raise `InputError` unless every column is there, holds numbers, and is the same in all files."""
        self.recipe.check(self.first.schema.names)
        self.first.require(self.inputs)
        for source in self.sources:
            leading = source.files[0]
            require_same_columns(self.first, leading, self.inputs)
            leading.require([*source.weight_columns, *self.id_columns, *([self.process] if source.process is None else [])])
            for file in source.files[1:]:
                require_same_columns(leading, file, dict.fromkeys([*leading.schema.names, *file.schema.names]))
            self._check_numbers(leading, source)
        if self.event_id == ROW:
            self._check_rows()

    def _check_rows(self) -> None:
        rows = {(source.process, source.sample): sum(map(len, source.files)) for source in self.sources}
        for source in self.sources:
            nominal, varied = (rows[source.process, sample] for sample in (0, source.sample))
            if varied != nominal:
                raise InputError(
                    f"event file {source.files[0].path}: expected {nominal} rows, those of the nominal files of process {source.process!r} "
                    f"(event_id={ROW}); it has {varied}: give a column of event numbers"
                )

    def _check_numbers(self, file: TableFile, source: ProcessFiles) -> None:
        for name in (*self.inputs, *source.weight_columns):
            kind = file.schema.field(name).type
            if not (is_number(kind) or (pa.types.is_boolean(kind) and name in self.inputs)):
                raise InputError(f"event file {file.path}: column {name!r}: expected numbers; it holds {kind}")
        for name in self.id_columns:
            kind = file.schema.field(name).type
            if not pa.types.is_integer(kind):
                raise InputError(f"event file {file.path}: column {name!r}: expected event numbers, which are integers; it holds {kind}")

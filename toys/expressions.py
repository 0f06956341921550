"""Formulas of columns, such as ``pt1 * cos(phi1) + met`` and ``(m_vis > 40) & (n_jets >= 2)``: arithmetic and nothing else.

A formula is parsed by Python's grammar and checked against a list of what is allowed; it is never compiled or run as Python. All
numbers are floating point, so that no power takes long, and length and depth are limited.
"""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from touchneedle.conf.errors import InputError

__all__ = ["FUNCTIONS", "Expression", "parse"]

MAX_LENGTH, MAX_DEPTH = 2_000, 100
_SHOWN = 60

# Each function with its number of arguments.
FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "abs": (np.abs, 1),
    "arcsinh": (np.arcsinh, 1),
    "arctan2": (np.arctan2, 2),
    "cos": (np.cos, 1),
    "cosh": (np.cosh, 1),
    "exp": (np.exp, 1),
    "hypot": (np.hypot, 2),
    "isfinite": (np.isfinite, 1),
    "log": (np.log, 1),
    "maximum": (np.maximum, 2),
    "minimum": (np.minimum, 2),
    "sin": (np.sin, 1),
    "sinh": (np.sinh, 1),
    "sqrt": (np.sqrt, 1),
    "tan": (np.tan, 1),
    "where": (np.where, 3),
}
_ARITHMETIC: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
    ast.Mod: np.mod,
}
_LOGIC: dict[type[ast.operator], Callable[..., Any]] = {ast.BitAnd: np.logical_and, ast.BitOr: np.logical_or}
_COMPARISONS: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_ALLOWED = "numbers, columns, + - * / ** %, comparisons, & | ~ and the functions " + ", ".join(FUNCTIONS)

Columns = Mapping[str, NDArray[Any]]
_Step = Callable[[Columns], Any]


@dataclass(frozen=True)
class Expression:
    """A checked formula; made by `parse`.

    Attributes:
        names: the columns that it needs, in order of appearance.
        is_condition: true or false for every event; a number otherwise.
    """

    text: str
    names: tuple[str, ...]
    is_condition: bool
    _step: _Step = field(repr=False, compare=False)

    def evaluate(self, columns: Columns) -> NDArray[Any]:
        """Its value (n,) for columns (n,) of numbers: float64, or bool for a condition. What is undefined is NaN or infinite.

        Raises `InputError` for a column that is not there.
        """
        self.check_names(columns)
        numbers = {name: np.asarray(columns[name], dtype=np.float64) for name in self.names}
        with np.errstate(all="ignore"):
            return self._step(numbers)

    def check_names(self, known: Collection[str]) -> None:
        """Raise `InputError` for the first column that is not among the known ones."""
        for name in self.names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise InputError(f"formula {_shown(self.text)}: no column {name!r}{hint}; known: {', '.join(known)}")


def parse(text: str) -> Expression:
    """The formula in ``text``; raises `InputError` for anything that is not arithmetic, saying what was found and where."""
    if len(text) > MAX_LENGTH:
        raise InputError(f"formula {_shown(text)}: expected at most {MAX_LENGTH} characters; got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply or holds what is no text"
        raise InputError(f"formula {_shown(text)}: expected arithmetic of columns; it cannot be read ({reason})") from error
    builder = _Builder(text)
    step, is_condition = builder.build(tree, 0)
    if not builder.names:
        raise InputError(f"formula {_shown(text)}: expected a formula of columns; it names none")
    return Expression(text, tuple(builder.names), is_condition, step)


class _Builder:
    """Turns a syntax tree into nested functions of columns; each comes with whether it is a condition.

    Attributes:
        names: the columns found so far, as keys in order of appearance.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: dict[str, None] = {}

    def build(self, node: ast.expr, depth: int) -> tuple[_Step, bool]:
        if depth > MAX_DEPTH:
            raise self._refused(node, f"more than {MAX_DEPTH} levels of nesting")
        if isinstance(node, ast.Name):
            return self._column(node.id)
        if isinstance(node, ast.Constant):
            return self._number(node)
        if isinstance(node, ast.BinOp):
            return self._binary(node, depth + 1)
        if isinstance(node, ast.UnaryOp):
            return self._unary(node, depth + 1)
        if isinstance(node, ast.Compare):
            return self._comparison(node, depth + 1)
        if isinstance(node, ast.Call):
            return self._call(node, depth + 1)
        raise self._refused(node, _described(node))

    def _column(self, name: str) -> tuple[_Step, bool]:
        self.names[name] = None
        return lambda columns: columns[name], False

    def _number(self, node: ast.Constant) -> tuple[_Step, bool]:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise self._refused(node, f"the constant {node.value!r}"[:_SHOWN])
        try:
            value = np.float64(node.value)
        except OverflowError:
            value = np.float64(math.inf)
        if not np.isfinite(value):
            raise self._refused(node, "a number beyond floating point")
        return lambda columns: value, False

    def _binary(self, node: ast.BinOp, depth: int) -> tuple[_Step, bool]:
        kind = type(node.op)
        if kind not in _ARITHMETIC and kind not in _LOGIC:
            raise self._refused(node, f"the operator {kind.__name__}")
        (left, first), (right, second) = self.build(node.left, depth), self.build(node.right, depth)
        if kind in _LOGIC and not (first and second):
            raise self._refused(node, "& or | between numbers: put the comparisons in parentheses")
        operation = _LOGIC[kind] if kind in _LOGIC else _numeric(_ARITHMETIC[kind])
        return lambda columns: operation(left(columns), right(columns)), kind in _LOGIC

    def _unary(self, node: ast.UnaryOp, depth: int) -> tuple[_Step, bool]:
        operand, is_condition = self.build(node.operand, depth)
        if isinstance(node.op, ast.USub):
            return lambda columns: -np.float64(1) * operand(columns), False
        if isinstance(node.op, ast.Invert) and is_condition:
            return lambda columns: np.logical_not(operand(columns)), True
        found = "~ of a number" if isinstance(node.op, ast.Invert) else f"the operator {type(node.op).__name__}"
        raise self._refused(node, found)

    def _comparison(self, node: ast.Compare, depth: int) -> tuple[_Step, bool]:
        """``a < b <= c`` is a chain, as in mathematics."""
        for operator in node.ops:
            if type(operator) not in _COMPARISONS:
                raise self._refused(node, f"the comparison {type(operator).__name__}")
        steps = [self.build(value, depth)[0] for value in (node.left, *node.comparators)]
        compare = [_COMPARISONS[type(operator)] for operator in node.ops]

        def chain(columns: Columns) -> Any:
            # Each value once: twice would double with every level of nesting.
            values = [step(columns) for step in steps]
            return reduce(np.logical_and, [link(a, b) for link, a, b in zip(compare, values, values[1:], strict=False)])

        return chain, True

    def _call(self, node: ast.Call, depth: int) -> tuple[_Step, bool]:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            raise self._refused(node, f"a call of {name!r}" if name else "a call of what is no name")
        function, count = FUNCTIONS[name]
        if node.keywords or len(node.args) != count:
            raise self._refused(node, f"{name} of {len(node.args) + len(node.keywords)} arguments instead of {count}")
        built = [self.build(value, depth) for value in node.args]
        if name == "where" and not built[0][1]:
            raise self._refused(node, "where of a number: its first argument must be a condition")
        steps = [step for step, _ in built]
        operation = function if name in ("where", "isfinite") else _numeric(function)
        return lambda columns: operation(*(step(columns) for step in steps)), name == "isfinite"

    def _refused(self, node: ast.expr, found: str) -> InputError:
        return InputError(
            f"formula {_shown(self.text)}: found {found} at character {node.col_offset + 1}; expected arithmetic of columns: {_ALLOWED}"
        )


def _numeric(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of numbers: conditions count as 0 and 1."""
    return lambda *values: function(*(value * np.float64(1) for value in values))


def _described(node: ast.expr) -> str:
    """What a piece of syntax is, in words for the common ones."""
    words = {
        ast.Attribute: "an attribute (a dot)",
        ast.BoolOp: "and or or: use & and | with parentheses",
        ast.Subscript: "an index (square brackets)",
        ast.Lambda: "a lambda",
        ast.IfExp: "an if: use where(condition, a, b)",
        ast.NamedExpr: "an assignment",
        ast.JoinedStr: "a text",
    }
    return words.get(type(node), f"syntax of the kind {type(node).__name__}")


def _shown(text: str) -> str:
    """The formula in quotes, in one line, shortened."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")

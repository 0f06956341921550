"""The one error that a user can cause: shown as a single line, without a traceback."""


class InputError(ValueError):
    """Bad input from outside: says what was expected, what came, and what to do."""


class SkipCell(InputError):
    """A combination that cannot work (toy, estimator, design, budget): recorded as skipped."""

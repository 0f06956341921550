"""What an audit found: one verdict per estimator whose fault is known, kept beside the records of a results folder.

``<results>/audit/verdicts.json`` is all that a report needs to show how good the judges are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from scipy.stats import beta

from touchneedle.benchmark.records import write_atomically
from touchneedle.conf.errors import InputError

AUDIT = Path("audit") / "verdicts.json"
# A metric flags where its corrected significance is above this, as its gate does.
FLAGGED = 2.0


class Verdict(BaseModel):
    """What the gates said of one case.

    Attributes:
        case: name of the defect.
        about: what is wrong, in a few words.
        sound: nothing is wrong; whatever fails is a false alarm.
        states: gate -> pass, fail, undecided, or n/a.
        decided_by: gate -> the row behind it.
        significance: metric -> how far its worst row lies beyond its threshold, in sigma, corrected for the
            number of rows of its gate; a metric without any number is left out.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings", frozen=True)

    case: str
    about: str
    toy: str
    seed: int
    sound: bool
    states: dict[str, str]
    decided_by: dict[str, str]
    significance: dict[str, float] = {}

    @property
    def flagged(self) -> list[str]:
        """The gates that fail."""
        return [gate for gate, state in self.states.items() if state == "fail"]


_VERDICTS = TypeAdapter(list[Verdict])


def write_verdicts(folder: Path, verdicts: Sequence[Verdict]) -> Path:
    """Keep the verdicts in a results folder."""
    path = Path(folder) / AUDIT
    write_atomically(path, json.dumps(_VERDICTS.dump_python(list(verdicts), mode="json"), indent=1) + "\n")
    return path


def read_verdicts(folder: Path) -> list[Verdict]:
    """The verdicts of a results folder, none if it holds no audit; raises `InputError` for a corrupt file."""
    path = Path(folder) / AUDIT
    if not path.is_file():
        return []
    try:
        return _VERDICTS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"audit {path}: expected verdicts of this version; got something else (run touchneedle audit again)") from error


def missed(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Defects that no gate flags."""
    return [verdict for verdict in verdicts if not verdict.sound and not verdict.flagged]


def false_alarms(verdicts: Iterable[Verdict]) -> tuple[int, int, float]:
    """Failed gates of sound cases, gates judged, and the upper 95 % limit on the rate (Clopper and Pearson 1934)."""
    states = [state for verdict in verdicts if verdict.sound for state in verdict.states.values() if state != "n/a"]
    alarms = states.count("fail")
    limit = 1.0 if alarms == len(states) else float(beta.ppf(0.95, alarms + 1, len(states) - alarms))
    return alarms, len(states), limit


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """Alarms on sound estimators and missed defects, in two lines."""
    alarms, gates, limit = false_alarms(verdicts)
    names = ", ".join(f"{verdict.case} (seed {verdict.seed})" for verdict in missed(verdicts)) or "none"
    return [f"false alarms: {alarms} of {gates} gates on sound estimators (rate below {limit:.1%} at 95 %)", f"missed: {names}"]

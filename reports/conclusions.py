"""What the numbers allow one to conclude, in a few sentences made from the records; each names where its evidence stands.

A question that the records cannot answer is answered by why not. Nothing here knows the name of a method or a toy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from touchneedle.benchmark.export_rows import Export
from touchneedle.reports.averages import Average, averages
from touchneedle.reports.board_overview import BoardOverview
from touchneedle.reports.boards import Board
from touchneedle.reports.family_ranks import MIN_TOYS, FamilyRanking
from touchneedle.reports.leaders import Leader, leader_of_ranking, leader_of_table, listed
from touchneedle.reports.numbers import format_number
from touchneedle.reports.sections import Section, Table

MANY_NUISANCES = 3
_SHOWN = 3
_PURPOSE = {
    "fit": "a fit that is right",
    "density": "the density itself",
    "calibration": "calibrated answers",
    "closure": "closure and nuisance response",
}


@dataclass(frozen=True)
class Conclusion:
    """An answer, or why there is none.

    Attributes:
        told: whether the numbers answer the question.
        evidence: (what, anchor on the page) of the numbers behind it.
    """

    question: str
    told: bool
    text: str
    evidence: tuple[tuple[str, str], ...] = ()


def conclude(boards: Sequence[BoardOverview], sections: Sequence[Section], exports: Sequence[Export]) -> list[Conclusion]:
    """Answers to the questions of a reader who has to choose; none without anything to compare."""
    if not boards:
        return []
    main = boards[0]
    return [
        *(_family(main, ranking, sections) for ranking in main.rankings if ranking.family != "cost"),
        _few_simulated(boards, sections),
        _few_observed(main),
        _on_toys("With many nuisances?", _most_nuisances(sections), sections, main.board.design),
        _on_toys("With signed weights?", _signed(sections), sections, main.board.design),
        _width(main),
        _time(main),
        _deployment(main.board, exports),
        _gates(main),
    ]


def _family(ground: BoardOverview, ranking: FamilyRanking, sections: Sequence[Section]) -> Conclusion:
    question = f"Which method for {_PURPOSE.get(ranking.family, ranking.family)}?"
    leader = leader_of_ranking(ranking)
    if leader is None:
        return _one_by_one(question, ground, ranking, sections)
    return _of_leader(question, f"{ground.board.title}, {len({name for name, _, _ in ranking.toys})} toys", leader, _link(ground))


def _one_by_one(question: str, ground: BoardOverview, ranking: FamilyRanking, sections: Sequence[Section]) -> Conclusion:
    """Too few toys for a statement beyond them: who leads on each."""
    toys = len({name for name, _, _ in ranking.toys})
    why = f"{toys} toy{'' if toys == 1 else 's'} judge{'s' if toys == 1 else ''} two or more methods alike, a ranking needs {MIN_TOYS}"
    sentences, evidence, _ = _leaders(sections, sorted(ground.board.toys.values()), ground.board.design, ranking.family)
    text = " ".join([f"The numbers do not tell beyond single toys: {why}.", *sentences])
    return Conclusion(question, False, text, tuple(evidence) or _link(ground))


def _few_simulated(boards: Sequence[BoardOverview], sections: Sequence[Section]) -> Conclusion:
    question = "With few simulated events?"
    least = min(boards, key=lambda ground: ground.board.n_train)
    if least.board.n_train == max(ground.board.n_train for ground in boards):
        return _untold(question, f"everything was trained on {least.board.n_train:,} events", least)
    for ranking in least.rankings:
        leader = leader_of_ranking(ranking)
        if leader is not None and ranking.family != "cost":
            return _of_leader(question, least.board.title, leader, _link(least))
    why = f"too few toys were run with {least.board.n_train:,} events for a ranking"
    sentences, evidence, _ = _leaders(sections, sorted(least.board.toys.values()), least.board.design, n_train=least.board.n_train)
    text = " ".join([f"The numbers do not tell beyond single toys: {why}.", *sentences])
    return Conclusion(question, False, text, tuple(evidence) or _link(least))


def _few_observed(ground: BoardOverview) -> Conclusion:
    question = "With few observed events?"
    sizes = sorted(set(_sizes(ground.board)))
    if not sizes:
        return _untold(question, "no pseudo-experiments were fitted", ground)
    found = averages(ground.board, "fit/bias_vs_oracle", size=sizes[0])
    what = f"mean size of the bias of a fit to {sizes[0]:,} events over {_toys(found)}, in sigma of the exact fit"
    return _of_averages(question, what, found, ground, "no bias against the exact fit was measured")


def _on_toys(question: str, picked: tuple[str, list[int]], sections: Sequence[Section], design: str) -> Conclusion:
    about, indices = picked
    if not indices:
        return Conclusion(question, False, f"The numbers do not tell: {about}.")
    sentences, evidence, told = _leaders(sections, indices, design)
    if not sentences:
        return Conclusion(question, False, f"The numbers do not tell: no method of design {design} has a number ({about}).")
    head = f"{_sentence(about)} " if told else f"The numbers do not tell ({about}). "
    return Conclusion(question, told, head + " ".join(sentences), tuple(evidence))


def _leaders(
    sections: Sequence[Section], indices: Iterable[int], design: str, family: str = "", n_train: int | None = None
) -> tuple[list[str], list[tuple[str, str]], bool]:
    """Who leads on single toys, where to see it, and whether anybody is told apart; by primary numbers.

    Of one family if given, and of one number of training events, by default the largest.
    """
    sentences, evidence, told = [], [], False
    for index in indices:
        section = sections[index]
        table = _largest([table for table in section.tables if n_train in (None, table.n_train)], design)
        leader = leader_of_table(section, table, design) if table and table.primary.startswith(family) else None
        if leader is not None and table is not None:
            sentences.append(f"On {section.toy[0]} ({table.budget}, {table.n_train:,} training events) {leader.text}.")
            evidence.append((section.toy[0], f"toy-{index + 1}"))
            told |= leader.told
    return sentences, evidence, told


def _width(ground: BoardOverview) -> Conclusion:
    question = "What does an interval cost in width against the exact answer?"
    sizes = sorted(set(_sizes(ground.board)))
    found = averages(ground.board, "fit/width_vs_oracle", size=sizes[-1] if sizes else None, signed=True)
    if not found:
        return _untold(question, "no interval was compared with that of the exact fit", ground)
    ordered = sorted(found, key=lambda one: (one.value, one.label))
    named = "; ".join(_text(one) for one in ordered[:_SHOWN])
    last = f"; widest: {_text(ordered[-1])}" if len(ordered) > _SHOWN else ""
    below = [one.label for one in ordered if one.stderr is not None and one.value + 2 * one.stderr < 1]
    warning = f". Below 1 by two errors, so that their coverage has to be looked at: {listed(below)}" if below else ""
    where = f"width over that of the exact fit, {sizes[-1]:,} events, mean over {_toys(found)}"
    return Conclusion(question, True, _sentence(f"{where}: {named}{last}{warning}"), _link(ground))


def _time(ground: BoardOverview) -> Conclusion:
    question = "How long does it take?"
    train = averages(ground.board, "cost/train_seconds", log=True)
    speed = averages(ground.board, "cost/log_ratio_microseconds", log=True)
    if not train:
        return _untold(question, "no training times were recorded", ground)
    texts = [f"training in seconds (geometric mean over {_toys(train)}): {_ends(train)}"]
    texts += [f"one log-ratio in microseconds per event: {_ends(speed)}"] if speed else []
    return Conclusion(question, True, f"{_sentence('; '.join(texts))} Times hold for the machines of these records.", _link(ground))


def _deployment(board: Board, exports: Sequence[Export]) -> Conclusion:
    question = "Can I deploy it in C++?"
    names = {one.estimator for one in board.contestants}
    tried = {row.estimator for row in exports if row.format == "onnx"} & names
    if not tried:
        return Conclusion(question, False, "The numbers do not tell: no survey of exports lies beside the records (touchneedle exports).")
    works = sorted({row.estimator for row in exports if row.format == "onnx" and row.size} & names)
    fails, untried = sorted(tried - set(works)), sorted(names - tried)
    parts = [f"as ONNX, answers checked after loading: {listed(works, 20) or 'none'}", f"not: {listed(fails, 20) or 'none'}"]
    parts += [f"not tried: {listed(untried, 20)}"] if untried else []
    return Conclusion(question, True, _sentence("; ".join(parts)), (("exports", "exports"),))


def _gates(ground: BoardOverview) -> Conclusion:
    question = "Whom do the gates trust?"
    every = [(one.label, ground.tallies[one.key].gates) for one in ground.board.contestants]
    tallies = [(label, gates) for label, gates in every if any(gates.values())]
    if not tallies:
        return _untold(question, "no gate judged anything", ground)
    clean = [label for label, gates in tallies if not gates["fail"] and gates["pass"]]
    worst = max(tallies, key=lambda tally: (tally[1]["fail"], tally[0]))
    text = f"no gate fails on any toy for {listed(clean)}" if clean else "everybody fails a gate on some toy"
    text += f", of {len(tallies)} judged"
    text += f"; most fail for {worst[0]} ({worst[1]['fail']} of {sum(worst[1].values())})" if worst[1]["fail"] else ""
    return Conclusion(question, True, _sentence(text), _link(ground))


def _of_leader(question: str, where: str, leader: Leader, evidence: tuple[tuple[str, str], ...]) -> Conclusion:
    head = "" if leader.told else "The numbers do not tell. "
    return Conclusion(question, leader.told, f"{head}{_sentence(f'{where}: {leader.text}')}", evidence)


def _of_averages(question: str, what: str, found: Sequence[Average], ground: BoardOverview, without: str) -> Conclusion:
    if not found:
        return _untold(question, without, ground)
    ordered = sorted(found, key=lambda one: (one.value, one.label))
    best = ordered[0]
    tied = [one.label for one in ordered[1:] if one.same_as(best)]
    told = len(tied) < len(ordered) - 1
    rest = f"; within two errors of it: {listed(tied)}" if tied else "; all others are further away than two errors"
    head = "" if told else "The numbers do not tell. "
    return Conclusion(question, told, f"{head}{_sentence(f'{what}: {_text(best)}{rest}; largest: {_text(ordered[-1])}')}", _link(ground))


def _most_nuisances(sections: Sequence[Section]) -> tuple[str, list[int]]:
    counts = [len(_nuisances(section)) for section in sections]
    most = max(counts, default=0)
    if most < MANY_NUISANCES:
        return f"no toy with {MANY_NUISANCES} nuisances or more was fitted", []
    return f"{most} nuisances fitted", [index for index, count in enumerate(counts) if count == most]


def _nuisances(section: Section) -> set[str]:
    cells = [cell for table in section.tables for row in table.rows for cell in row.cells if cell.family == "fit"]
    fitted = {str(cell.at["parameter"]) for cell in cells if cell.at.get("parameter") and cell.at.get("kind") != "interest"}
    return fitted - {section.parameter}


def _signed(sections: Sequence[Section]) -> tuple[str, list[int]]:
    found = [index for index, section in enumerate(sections) if _any_number(section, "density/signed_sliced_w1")]
    return ("signed weights", found) if found else ("nothing was run on events with signed weights", [])


def _any_number(section: Section, metric: str) -> bool:
    rows = (row for table in section.tables for row in table.rows)
    return any(cell.metric == metric and cell.value is not None for row in rows for cell in row.cells)


def _largest(tables: Iterable[Table], design: str) -> Table | None:
    """The table with the largest budget that has entries of the design."""
    fitting = [table for table in tables if any(row.role == "entry" and row.design == design for row in table.rows)]
    return max(fitting, key=lambda table: (table.n_train, len(table.rows)), default=None)


def _sizes(board: Board) -> Iterable[int]:
    for entry in board.entries.values():
        for cell in entry.row.cells if entry.row else ():
            if cell.metric == "fit/bias_vs_oracle" and cell.value is not None and cell.at.get("n_events"):
                yield int(cell.at["n_events"] or 0)


def _ends(found: Sequence[Average]) -> str:
    ordered = sorted(found, key=lambda one: (one.value, one.label))
    if len(ordered) <= _SHOWN + 1:
        return ", ".join(_text(one) for one in ordered)
    return f"{', '.join(_text(one) for one in ordered[:_SHOWN])}; slowest {_text(ordered[-1])}"


def _toys(found: Sequence[Average]) -> str:
    count = len(found[0].toys) if found else 0
    return f"{count} toy{'' if count == 1 else 's'}"


def _text(one: Average) -> str:
    return f"{one.label} {format_number(one.value, one.stderr)}"


def _untold(question: str, why: str, ground: BoardOverview) -> Conclusion:
    return Conclusion(question, False, f"The numbers do not tell: {why}.", _link(ground))


def _link(ground: BoardOverview) -> tuple[tuple[str, str], ...]:
    """Where the board stands; a single toy's own section shows more than its board would."""
    if len(ground.board.toys) == 1:
        return tuple((name, f"toy-{index + 1}") for (name, _, _), index in ground.board.toys.items())
    return ((f"ranks, {ground.board.budget}, {ground.board.design}", ground.anchor),)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."

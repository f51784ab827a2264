"""The verdict: a few plain sentences that a person can repeat without having seen the table."""

from __future__ import annotations

from robustlab.report.format import condition_kind, condition_title, count_text, percent_text
from robustlab.report.view import Cell, ModelRow, View


def verdict(view: View) -> list[str]:
    """Sentences, the most important first; only about what was measured."""
    return [s for s in (_attack(view), _clean(view), _corruption(view), _parity(view), *view.notes) if s]


def _names(rows: list[ModelRow]) -> str:
    names = [row.name for row in rows]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _overlap(one: Cell, other: Cell) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def _attack(view: View) -> str:
    rows = [row for row in view.models if row.worst is not None and row.worst.accuracy is not None]
    if not rows:
        return ""
    worst = {row.name: row.worst for row in rows if row.worst is not None}
    rows.sort(key=lambda row: -(worst[row.name].accuracy or 0.0))
    best, others = rows[0], rows[1:]
    attack = worst[best.name].title
    score = worst[best.name].accuracy or 0.0
    if score < 0.05:
        who = f"{best.name} keeps" if not others else f"None of the {len(rows)} models keeps"
        amount = f"only {percent_text(score)} %" if not others else f"more than {percent_text(score)} %"
        return f"{who} {amount} accuracy under the worst attack ({attack}): undefended."
    if not others:
        return f"{best.name} keeps {percent_text(score)} % accuracy under the worst attack ({attack})."
    tied = [row for row in others if _overlap(worst[row.name], worst[best.name])]
    if tied:
        return (
            f"{best.name} keeps the most accuracy under its worst attack ({attack}), {percent_text(score)} %, "
            f"but the 95 % {'intervals' if len(tied) > 1 else 'interval'} of {_names(tied)} "
            f"{'overlap' if len(tied) > 1 else 'overlaps'} with it."
        )
    second = worst[others[0].name]
    rest = f"the other {len(others)} keep" if len(others) > 1 else f"{others[0].name} keeps"
    limit = "at most " if len(others) > 1 else ""
    return (
        f"{best.name} keeps {percent_text(score)} % accuracy under its worst attack ({attack}); "
        f"{rest} {limit}{percent_text(second.accuracy)} %."
    )


def _clean(view: View) -> str:
    rows = [row for row in view.models if row.clean is not None and row.clean.accuracy is not None]
    if not rows:
        return ""
    scores = {row.name: row.clean.accuracy or 0.0 for row in rows if row.clean is not None}
    best = max(rows, key=lambda row: scores[row.name])
    low = min(rows, key=lambda row: scores[row.name])
    if len(rows) == 1:
        return f"Without attack {best.name} is right on {percent_text(scores[best.name])} %."
    if scores[best.name] == scores[low.name]:
        return f"Without attack all of them are right on {percent_text(scores[best.name])} %."
    return (
        f"Without attack accuracy goes from {percent_text(scores[low.name])} % ({low.name}) "
        f"to {percent_text(scores[best.name])} % ({best.name})."
    )


def _corruption(view: View) -> str:
    drops = [
        (row.clean.accuracy - row.corruption, row)
        for row in view.models
        if row.corruption is not None and row.clean is not None and row.clean.accuracy is not None
    ]
    if not drops:
        return ""
    rows = [row for _, row in drops]
    hardest = min(
        (c for c in view.cells if c.accuracy is not None and c.condition in _corruption_keys(view)),
        key=lambda c: c.accuracy or 0.0,
    )
    low, high = min(d for d, _ in drops), max(d for d, _ in drops)
    cost = f"{100 * low:.1f}" if len(rows) == 1 else f"{100 * low:.1f} to {100 * high:.1f}"
    return (
        f"Corruptions cost {cost} points on average; the lowest is {percent_text(hardest.accuracy)} % "
        f"({hardest.model} under {condition_title(hardest.condition)})."
    )


def _corruption_keys(view: View) -> set[str]:
    return {key for key in view.conditions if condition_kind(key) == "corruption"}


def _parity(view: View) -> str:
    rows = [row for row in view.models if row.logits]
    if not rows:
        return ""
    logits, different = sum(row.logits or 0 for row in rows), sum(row.different or 0 for row in rows)
    if different == 0:
        return f"The deployed kernels equal their simulation: 0 of {count_text(logits)} logits differ."
    return f"WARNING: deployed kernels and simulation differ in {count_text(different)} of {count_text(logits)} logits."

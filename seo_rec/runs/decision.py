"""What a search decided, in plain words for people and reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# what the names of plain candidates, and of candidates with crosses, begin with
PLAIN, CROSSED = "trivial-", "crosses-"


def decided(decision: Mapping[str, Any], out: Path | None = None) -> str:
    """The decision of a policy as a sentence.

    Args:
        decision: Of a policy: ``method``; ``winner``, the name of the candidate; ``kind``, what
            decided, ``attention`` or ``plain``; ``searched``, False for a method without a search;
            ``gain``, the validation AUC of the winner minus the one of ``against`` (None: nothing
            was compared); ``standard_error`` of the gain; ``plain_candidates``, how many plain
            policies the winner of a search was chosen against; ``crosses``, if there was a search
            over crosses: which were ``taken``, and the ``gain`` over none with its
            ``standard_error``; ``precision``, if the search decided in which type rows are stored.
        out: The folder of the search, where the searched policy is kept; None leaves that out.
    """
    said = _with_crosses(decision, out)
    precision = decision.get("precision")
    return f"{said}; its rows are stored as {precision}" if precision else said


def _with_crosses(decision: Mapping[str, Any], out: Path | None) -> str:
    """The decision with its crosses."""
    crosses = decision.get("crosses")
    if not isinstance(crosses, Mapping):
        return _decided(decision, out)
    method = str(decision["method"])
    by_rule = decision.get("searched") is False or _is_by_rule(decision)
    said = f"the rule of {method} decided" if by_rule else _decided(decision, out)
    taken, gain = crosses.get("taken"), crosses.get("gain")
    if not taken:
        return f"{said}; no cross of columns earned its rows on validation rows"
    named = ", ".join(map(str, taken))
    worth = "" if gain is None else f", which gained {_measured(gain, crosses)} of validation AUC"
    return f"{said}; of the proposed crosses it has {named}{worth}"


def _decided(decision: Mapping[str, Any], out: Path | None) -> str:
    """The decision without its crosses."""
    method, winner = str(decision["method"]), _plainly(decision.get("winner"))
    if decision.get("searched") is False or _is_by_rule(decision):
        return f"the rule of {method} decided from the columns; nothing was trained to decide"
    if "against" not in decision or decision.get("kind") not in ("plain", "attention"):
        return f"{method} decided; no run-off compared its policy with a plain one"
    if decision["kind"] == "plain":
        return _lost(decision, winner) + _kept(out)
    gain, against = decision.get("gain"), _plainly(decision.get("against"))
    if gain is None:
        return "attention decided; no run-off compared its policy with a plain one"
    rivals = decision.get("plain_candidates")
    chosen = f", chosen among {rivals} plain ones," if rivals else ""
    who = "crosses" if str(decision.get("winner")).startswith(CROSSED) else "attention"
    return (
        f"{who} won: the policy {winner} was better than the plain policy {against}{chosen} "
        f"by {_measured(gain, decision)} on validation rows"
    )


def as_options(settings: Mapping[str, Any]) -> str:
    """Fit settings that a search chose, as the options of ``seo-rec train`` that ask for them."""
    names = {"row_l2": "--l2", "row_lr": "--lr"}
    return " ".join(f"{option} {settings[name]:g}" for name, option in names.items())


def _is_by_rule(decision: Mapping[str, Any]) -> bool:
    """Whether nothing was trained: a plain policy that was not compared with another."""
    return decision.get("kind") == "plain" and "against" not in decision


def _lost(decision: Mapping[str, Any], winner: str) -> str:
    gain, against = decision.get("gain"), _plainly(decision.get("against"))
    if gain is None:
        return f"attention lost: the plain policy {winner} was the best on validation rows"
    if gain >= 0:
        return (
            f"attention lost: the plain policy {winner} was better by "
            f"{_measured(gain, decision)} on validation rows"
        )
    return (
        f"attention did not win: the policy {against} was better than the plain policy {winner} "
        f"by {_measured(-gain, decision)} on validation rows, too little to be sure of it"
    )


def _kept(out: Path | None) -> str:
    return f"; the searched policy is kept in {out / 'searched.json'}" if out else ""


def _measured(gain: float, decision: Mapping[str, Any]) -> str:
    error = decision.get("standard_error")
    return f"{gain:.4f}" + (f" (standard error {error:.4f})" if error is not None else "")


def _plainly(name: Any) -> str:
    return str(name).removeprefix(PLAIN)

"""What an evaluation found: scores with their intervals, and everything behind them, to read, keep and compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shotseg.arguments import checked
from shotseg.data.images import write_bytes
from shotseg.data.listing import some
from shotseg.errors import InputError, UsageError
from shotseg.evaluation import effort, n_way, result_page, results, semantic_scores, several_scores
from shotseg.evaluation.summary import Interval, Summary

SUMMARIES: dict[str, Callable[[dict[str, Any]], Summary]] = {
    results.FORMAT: results.summary,
    several_scores.FORMAT: several_scores.summary,
    n_way.FORMAT: n_way.summary,
    effort.FORMAT: effort.summary,
    semantic_scores.FORMAT: semantic_scores.summary,
}
SHOWN = 3  # scores in a repr


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationResult:
    """What :func:`shotseg.evaluate` measured.

    content: the result file, as docs/benchmarks.md describes it; all else is read from it.
    page:    its report with pictures (HTML); empty for a result that was loaded, whose report has none.
    name:    what a comparison calls it.
    """

    content: dict[str, Any]
    page: str = ""
    name: str = ""

    @classmethod
    @checked
    def load(cls, path: str | Path) -> EvaluationResult:
        """The result of a file that :meth:`save` or ``shotseg evaluate`` wrote. Raises InputError where it is none."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read as a result ({error}); give a file that evaluate wrote") from None
        if not isinstance(content, dict) or content.get("format") not in SUMMARIES:
            raise InputError(f"{path}: no result of this version; give a file that evaluate wrote")
        result = cls(content, name=str(path))
        try:
            assert result.summary and repr(result)  # what every reader asks of it
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"{path}: a damaged result, without {error}; measure again") from None
        return result

    @cached_property
    def summary(self) -> Summary:
        """The table of the report, with its notes."""
        made = SUMMARIES[self.content["format"]](self.content)
        learnt = self.content.get("trained_on", [])
        if not learnt:
            return made
        line = (
            f"the checkpoint was trained on {len(learnt)} of the classes that are tested, which are no new ones to it"
        )
        return replace(made, notes=[*made.notes, f"{line}: {some(learnt)}"])

    @property
    def scores(self) -> dict[str, float | None]:
        """Name -> value: percent; of the effort strokes and percent. None where there was nothing to measure."""
        return self.summary.scores

    @property
    def intervals(self) -> dict[str, Interval]:
        """Name of a score -> its 95 % interval (low, high), for the scores that have one."""
        return self.summary.intervals

    @property
    def protocol(self) -> dict[str, Any]:
        """Every choice behind the numbers; of the effort what the simulated person does."""
        return self.content.get("protocol", self.content.get("person", {}))

    @property
    def counts(self) -> dict[str, Any]:
        """Pixel counts of every episode or query; empty for a kind of result that keeps none."""
        return self.content.get("counts", {})

    @property
    def controls(self) -> dict[str, dict[str, Any]]:
        """Control -> its scores, where the protocol has controls."""
        return self.content.get("controls", {})

    @property
    def notes(self) -> list[str]:
        """Lines that a reader of the numbers should know."""
        return list(self.summary.notes)

    def control(self, name: str) -> EvaluationResult:
        """One of the :attr:`controls` of a result of one class at a time as a result of its own, to compare with."""
        if self.content["format"] != results.FORMAT or name not in self.controls:
            raise UsageError(f"no control {name!r} with counts; choose one of {', '.join(self.controls) or 'none'}")
        return EvaluationResult(results.of_control(self.content, name), name=name)

    def compare(self, other: EvaluationResult) -> dict[str, Any]:
        """This result minus another on the same episodes, resampled in pairs.

        Keys: ``difference`` of the mIoU in percent points, its 95 % interval ``low`` and ``high``, two-sided ``p``, ``miou`` of
        both, ``per_class`` differences, ``episodes``. Raises UsageError where the episodes or rules are not the same, or a
        result is not of one class at a time.
        """
        for result in (self, other):
            if not isinstance(result, EvaluationResult):
                raise UsageError(
                    f"compare: of type {type(result).__name__}; give a result, of evaluate or EvaluationResult.load"
                )
            if result.content["format"] != results.FORMAT:
                raise UsageError(
                    f"{result.name or result!r}: only results of one class at a time are compared in pairs"
                )
        return results.compare(self.content, other.content, self.name or "this", other.name or "the other")

    @checked
    def save(self, path: str | Path) -> None:
        """Write the result file (JSON)."""
        write_bytes(Path(path), json.dumps(self.content, ensure_ascii=False).encode())

    @checked
    def report(self, path: str | Path) -> None:
        """Write one HTML page that opens from disk: table, notes, a bar a class, pictures of the best and the worst, protocol."""
        write_bytes(Path(path), (self.page or result_page.page(self.content, self.summary)).encode())

    def __repr__(self) -> str:
        shown = [f"{name} {_number(value, self.intervals.get(name))}" for name, value in self.scores.items()][:SHOWN]
        against = [f"{n} {_number(x['miou'])}" for n, x in self.controls.items()]
        controls = f"; mIoU of controls: {', '.join(against)}" if against else ""
        return f"<EvaluationResult {self.content['method']}: {self.summary.title}: {', '.join(shown)}{controls}>"


def of(content: dict[str, Any], page: str = "") -> EvaluationResult:
    """A result just measured, with the very content that its file will have."""
    return EvaluationResult(json.loads(json.dumps(content, ensure_ascii=False, default=str)), page)


def _number(value: float | None, pair: Interval = None) -> str:
    shown = "unknown" if value is None else f"{value:.1f}"
    return shown if pair is None else f"{shown} [{pair[0]:.1f}, {pair[1]:.1f}]"

"""Scores as tables: a suite's beside Llama 2's, or all, a column a model. Percent, with 95% intervals."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llama2_core.evaluation.statistics import Z95
from tasks.benchmark_recipe import Group, Member, suites

Row = dict[str, Any]
"""A row of scores.parquet; "mark", if it has one, is shown behind the score."""
Models = Mapping[str, Sequence[Row]]
"""What a model is called -> its scores."""
Table = list[dict[str, str]]
SIZES = ("7B", "13B", "34B", "70B")
NOT_RUN = "not run"


def suite_table(suite: str, models: Models) -> Table:
    """Return one row a member and way that it was asked in, one a group with the mean of its members."""
    rows: Table = []
    for name, group in suites()[suite].items():
        rows += [{"group": name, **row} for member in group.members for row in _member_rows(member, models)]
        if len(group.members) > 1 and group.paper:
            rows.append({"group": name, **_mean_row(group, models)})
    return rows


def score_table(models: Models) -> Table:
    """Return one row a task, metric and way that it was asked in."""
    everything = {label: {(*_metric(row), *_way(row)): row for row in rows} for label, rows in models.items()}
    table = []
    for key in dict.fromkeys(key for of_model in everything.values() for key in of_model):
        mine = {label: of_model.get(key) for label, of_model in everything.items()}
        row = next(filter(None, mine.values()))
        cells = {label: shown(row) if row else "–" for label, row in mine.items()}
        about = {
            "task": row["task"],
            "metric": f"{row['metric']} ({row['filter']})",
            "shots": _count(row["shots"]),
        }
        table.append({**about, **cells, "n": str(row["n"]), "asked": row["prompt_hash"][:8]})
    return table


def compact(table: Table) -> Table:
    """Return a table without the columns that hold nothing."""
    return [{name: cell for name, cell in row.items() if any(each[name] for each in table)} for row in table]


def shown(row: Mapping[str, Any]) -> str:
    """Return a score with its interval and its mark."""
    value = f"{100 * row['value']:.1f}"
    interval = "" if row["low"] is None else f" ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
    return f"{value}{interval} {row.get('mark', '')}".rstrip()


def is_of(member: Member, row: Row) -> bool:
    """Whether a score is a member's."""
    return _metric(row) == (member.task, member.metric)


def _metric(row: Row) -> tuple[str, str]:
    return row["task"], f"{row['metric']},{row['filter']}"


def _way(row: Row) -> tuple[int | None, str]:
    return row["shots"], row["prompt_hash"]


def _member_rows(member: Member, models: Models) -> Iterator[dict[str, str]]:
    found = {label: {_way(row): row for row in rows if is_of(member, row)} for label, rows in models.items()}
    for way in dict.fromkeys(way for of_model in found.values() for way in of_model) or [None]:
        mine = {label: of_model.get(way) if way else None for label, of_model in found.items()}
        row = next(filter(None, mine.values()), None)
        needs = "needs a sandbox" if member.runs_code else "needs a judge" if member.judged else ""
        asked = row["shots"] if row else member.shots
        other = f" (paper: {member.shots})" if asked != member.shots and member.shots is not None else ""
        yield {
            "task": member.task,
            "shots": f"{_count(asked)}{other}",
            **{label: shown(row) if row else NOT_RUN for label, row in mine.items()},
            "n": str(row["n"]) if row else "",
            **paper_cells(member.paper, member.paper_chat),
            "of": member.table,
            "asked": row["prompt_hash"][:8] if row else "",
            "note": "; ".join(filter(None, ["" if row else needs, member.note])),
        }


def _mean_row(group: Group, models: Models) -> dict[str, str]:
    cells = {
        label: _mean([_chosen(member, rows) for member in group.members]) for label, rows in models.items()
    }
    paper = {**paper_cells(group.paper), "of": group.table}
    return {"task": "mean", "shots": "", **cells, "n": "", **paper, "asked": "", "note": group.note}


def _chosen(member: Member, rows: Iterable[Row]) -> Row | None:
    """Return the member's score with the paper's shots, else its last."""
    mine = [row for row in rows if is_of(member, row)]
    return next((row for row in mine if row["shots"] == member.shots), mine[-1] if mine else None)


def _mean(rows: Sequence[Row | None]) -> str:
    """Return the mean of independent scores, with its normal interval where each has a standard error."""
    whole = [row for row in rows if row]
    if len(whole) < len(rows):
        return "incomplete" if whole else NOT_RUN
    value = sum(row["value"] for row in whole) / len(whole)
    errors = [row["stderr"] for row in whole]
    if None in errors:
        return shown({"value": value, "low": None})
    half = Z95 * math.hypot(*errors) / len(whole)
    return shown({"value": value, "low": value - half, "high": value + half})


def paper_cells(pretrained: Sequence[float | None], chat: Sequence[float | None] = ()) -> dict[str, str]:
    """Return Llama 2's scores by size; those of Llama 2-Chat say so."""
    cells: dict[str, str] = dict.fromkeys(SIZES, "")
    for size, value in zip(SIZES, pretrained, strict=False):
        cells[size] = "" if value is None else f"{value:g}"
    for size, value in zip(SIZES, chat, strict=False):
        cells[size] = ", ".join(filter(None, [cells[size], "" if value is None else f"chat {value:g}"]))
    return cells


def _count(shots: int | None) -> str:
    return "" if shots is None else str(shots)


def contamination_table(rows: list[dict]) -> list[dict[str, str]]:
    """Return each task's and metric's four subsets at the longest match that shows a benefit, else at the shortest."""
    by_task: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        by_task.setdefault((row["task"], row["metric"]), []).append(row)
    table = []
    for (name, metric), found in by_task.items():
        lengths = [row["length"] for row in found]
        length = max((row["length"] for row in found if row["helped"]), default=min(lengths))
        table += [
            {
                "task": name,
                "metric": metric,
                "L": str(length),
                "subset": row["subset"],
                "contaminated": f"{100 * row['contaminated']:.1f}%",
                "n": f"{row['n']:,}",
                "mean": f"{row['mean']:.3f}",
                "Z": f"{row['z']:+.2f}",
                "helped": "yes" if row["helped"] else "no",
            }
            for row in found
            if row["length"] == length
        ]
    return table

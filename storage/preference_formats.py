"""Comparisons of others, in and out: each format as one function that reads a row and one that writes it.

| format        | a row                                                                                          |
|---------------|------------------------------------------------------------------------------------------------|
| llama2        | the log's own line                                                                             |
| hh-rlhf       | chosen and rejected: whole dialogs as text, "Human:" and "Assistant:"                          |
| sharegpt      | conversations: [{from, value}], chosen and rejected: {from, value}                             |
| ultrafeedback | prompt, chosen and rejected: [{role, content}], score_chosen and score_rejected                |
| openai        | info: {post, title}, summaries: [{text, policy}] of two, choice, worker                        |
| argilla       | fields: {prompt, response1, response2}, responses: {preference: [{user_id, value}], grade: []} |
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from storage.preference_events import GRADES, Comparison, Grade, Response, Turn

Format = Literal["llama2", "hh-rlhf", "sharegpt", "ultrafeedback", "openai", "argilla"]
FORMATS: tuple[Format, ...] = get_args(Format)
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")


class BadField(Exception):
    """A field of a row that is missing, or not what the format has there."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class Choice:
    """What a row says; the rest of a comparison is said by whoever imports it."""

    dialog: tuple[Turn, ...]
    responses: tuple[Response, Response]
    chosen: Literal[0, 1] = 0
    grade: Grade | None = None
    annotator: str = "unknown"
    known: dict[str, Any] = field(default_factory=dict)
    """Other fields of `Comparison`."""


def detect(row: Mapping[str, Any]) -> Format | None:
    """Return the format of a row, None when its fields tell of none."""
    if row.get("event") == "comparison":
        return "llama2"
    if {"conversations", "chosen", "rejected"} <= row.keys():
        return "sharegpt"
    if {"fields", "responses"} <= row.keys():
        return "argilla"
    if {"summaries", "choice"} <= row.keys():
        return "openai"
    if {"prompt", "chosen", "rejected"} <= row.keys() and isinstance(row["chosen"], list):
        return "ultrafeedback"
    chosen = row.get("chosen")
    return "hh-rlhf" if isinstance(chosen, str) and SPEAKER.match(chosen) else None


def read_llama2(row: Mapping[str, Any]) -> Iterator[Choice]:
    if row.get("event") != "comparison":
        raise BadField("event", "is not comparison")
    if row.get("grade") is None and row.get("annotator_kind") != "import":
        raise BadField("grade", f"is missing; one of {', '.join(GRADES)}")
    found = Comparison.model_validate_json(json.dumps(row))
    known = found.model_dump(include={"question", "prompt_id", "kind", "risk_category", "attack_vector"})
    known |= {"domain": found.domain, "seconds": found.seconds, "time": found.time}
    yield Choice(found.dialog, found.responses, found.chosen, found.grade, found.annotator, known)


def read_hh_rlhf(row: Mapping[str, Any]) -> Iterator[Choice]:
    chosen, rejected = (_spoken(_text(row, name), name) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise BadField("rejected", "is another dialog than chosen before its last answer")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise BadField(name, "does not end with an answer of the Assistant")
    yield Choice(tuple(chosen[:-1]), (Response(text=chosen[-1].content), Response(text=rejected[-1].content)))


def read_sharegpt(row: Mapping[str, Any]) -> Iterator[Choice]:
    dialog = _turns(row, "conversations", "from", "value")
    answers = [_turns({name: [row.get(name)]}, name, "from", "value")[0] for name in ("chosen", "rejected")]
    yield Choice(dialog, (Response(text=answers[0].content), Response(text=answers[1].content)))


def read_ultrafeedback(row: Mapping[str, Any]) -> Iterator[Choice]:
    chosen, rejected = (_turns(row, name, "role", "content") for name in ("chosen", "rejected"))
    scores = [row.get(f"score_{name}") for name in ("chosen", "rejected")]
    if chosen[:-1] != rejected[:-1]:
        raise BadField("rejected", "is another dialog than chosen before its last answer")
    if scores[0] is not None and scores[0] == scores[1]:
        raise BadField("score_chosen", f"equals score_rejected ({scores[0]}), so neither is better")
    yield Choice(chosen[:-1], (Response(text=chosen[-1].content), Response(text=rejected[-1].content)))


def read_openai(row: Mapping[str, Any]) -> Iterator[Choice]:
    info, summaries = row.get("info"), row.get("summaries")
    if not isinstance(info, Mapping):
        raise BadField("info", "is missing")
    post = info.get("post") or info.get("article")
    if not isinstance(post, str):
        raise BadField("info.post", "is missing, and info.article too")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise BadField("summaries", "are not two")
    if row.get("choice") not in (0, 1):
        raise BadField("choice", f"is {row.get('choice')!r}, expected 0 or 1")
    title = f"{info['title']}\n\n" if info.get("title") else ""
    first, second = (
        Response(text=_text(summary, "text", f"summaries.{place}."), model=summary.get("policy") or "")
        for place, summary in enumerate(summaries)
    )
    asked = Turn(role="user", content=f"Summarize this.\n\n{title}{post}")
    yield Choice((asked,), (first, second), row["choice"], annotator=row.get("worker") or "unknown")


def read_argilla(row: Mapping[str, Any]) -> Iterator[Choice]:
    """Yield a comparison for each annotator's response."""
    fields, given = row.get("fields"), row.get("responses")
    if not isinstance(fields, Mapping) or not isinstance(given, Mapping):
        raise BadField("fields", "or responses are missing")
    names = ("response1", "response2")
    first, second = (Response(text=_text(fields, name, "fields.")) for name in names)
    prompt = _text(fields, "prompt", "fields.")
    if not isinstance(given.get("preference"), list):
        raise BadField("responses.preference", "is missing")
    grades = {answer.get("user_id"): answer.get("value") for answer in given.get("grade") or []}
    for place, answer in enumerate(given["preference"]):
        value = answer.get("value")
        if isinstance(value, list):  # a ranking
            value = min(value, key=lambda ranked: ranked.get("rank", 9)).get("value") if value else None
        if value not in names:
            raise BadField(f"responses.preference.{place}", f"has the unknown label {value!r}")
        grade = grades.get(answer.get("user_id"))
        if "grade" in given and grade not in GRADES:
            raise BadField("responses.grade", f"of {answer.get('user_id')} is {grade!r}, expected a grade")
        chosen: Literal[0, 1] = 0 if value == "response1" else 1
        annotator = str(answer.get("user_id") or "unknown")
        yield Choice((Turn(role="user", content=prompt),), (first, second), chosen, grade, annotator)


READERS: dict[Format, Callable[[Mapping[str, Any]], Iterator[Choice]]] = {
    "llama2": read_llama2,
    "hh-rlhf": read_hh_rlhf,
    "sharegpt": read_sharegpt,
    "ultrafeedback": read_ultrafeedback,
    "openai": read_openai,
    "argilla": read_argilla,
}


def write_row(comparison: Comparison, form: Format) -> dict[str, Any]:
    """Return a comparison as a row of a format; what the format has no place for is left out."""
    responses, chosen = comparison.responses, comparison.chosen
    better, worse = responses[chosen].text, responses[1 - chosen].text
    turns = [(turn.role, turn.content) for turn in comparison.dialog]
    match form:
        case "llama2":
            return comparison.model_dump(mode="json")
        case "hh-rlhf":
            said = {"user": "Human", "assistant": "Assistant", "system": "System"}
            asked = "".join(f"\n\n{said[role]}: {content}" for role, content in turns)
            return {
                "chosen": f"{asked}\n\nAssistant: {better}",
                "rejected": f"{asked}\n\nAssistant: {worse}",
            }
        case "sharegpt":
            names = {role: name for name, role in reversed(ROLES.items())}
            return {
                "conversations": [{"from": names[role], "value": content} for role, content in turns],
                "chosen": {"from": "gpt", "value": better},
                "rejected": {"from": "gpt", "value": worse},
            }
        case "ultrafeedback":
            dialog = [{"role": role, "content": content} for role, content in turns]
            return {
                "prompt": turns[-1][1],
                "chosen": [*dialog, {"role": "assistant", "content": better}],
                "rejected": [*dialog, {"role": "assistant", "content": worse}],
            }
        case "openai":
            return {
                "info": {"id": comparison.question, "post": _as_text(comparison)},
                "summaries": [{"text": r.text, "policy": r.model} for r in responses],
                "choice": chosen,
                "worker": comparison.annotator,
                "batch": comparison.batch,
            }
        case "argilla":
            answers = {"preference": f"response{chosen + 1}", "grade": comparison.grade}
            return {
                "id": comparison.question,
                "fields": {
                    "prompt": _as_text(comparison),
                    "response1": responses[0].text,
                    "response2": responses[1].text,
                },
                "responses": {
                    name: [{"user_id": comparison.annotator, "value": value}]
                    for name, value in answers.items()
                    if value
                },
            }


def _as_text(comparison: Comparison) -> str:
    """Return the dialog as one text: its only turn, or all with their speakers."""
    if len(comparison.dialog) == 1:
        return comparison.dialog[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in comparison.dialog)


def _spoken(text: str, name: str) -> list[Turn]:
    before, *parts = SPEAKER.split(text)
    if before.strip() or not parts:
        raise BadField(name, 'does not begin with "\\n\\nHuman:"')
    said = zip(parts[::2], parts[1::2], strict=True)
    return [
        Turn(role="user" if who == "Human" else "assistant", content=content.strip()) for who, content in said
    ]


def _turns(row: Mapping[str, Any], name: str, role: str, content: str) -> tuple[Turn, ...]:
    turns = row.get(name)
    if not isinstance(turns, list) or not turns:
        raise BadField(name, "is missing, or holds no turns")
    made = []
    for place, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or not isinstance(turn.get(content), str):
            raise BadField(name, f"turn {place + 1} has no text called {content}")
        if turn.get(role) not in ROLES:
            raise BadField(name, f"turn {place + 1} is by {turn.get(role)!r}, expected {', '.join(ROLES)}")
        made.append(Turn.model_validate({"role": ROLES[turn[role]], "content": turn[content]}))
    return tuple(made)


def _text(row: Mapping[str, Any], name: str, path: str = "") -> str:
    if not isinstance(row.get(name), str):
        raise BadField(f"{path}{name}", "is missing, or no text")
    return row[name]

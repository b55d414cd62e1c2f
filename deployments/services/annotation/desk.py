"""What annotators have in front of them: a dialog, two answers to compare, and the way back. Llama 2 section 3.2.1.

A question is in the log once both answers are complete, so that a restart loses neither it nor what was decided.
"""

import random
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from threading import Lock
from typing import Any, Literal

from deployments.services.annotation.seat import RED_TEAM, Open, Page, Queued, Seat, Variant
from deployments.services.speakers import Answer, Speakers
from llama2_core.chat import Message
from llama2_core.config import Grade, SamplingConfig
from llama2_core.errors import DataError
from storage.preference_events import Asked, Comparison, Domain, Response, Skip, Turn, Undo
from storage.preference_log import PreferenceLog, read_events

TRIES = 3
"""For two answers that differ and say something."""
LONGEST_PROMPT = 8000
LONGEST_PAUSE_SECONDS = 900.0
"""What is longer is not counted as work."""
MOST_ANNOTATORS = 3
"""Of one question."""
MOST_REMEMBERED, MOST_UNDONE = 2000, 20
"""Questions that others may be asked again; comparisons that an annotator can take back."""


class Desk:
    """The annotators' questions of one batch; each annotator has a lock of its own."""

    def __init__(
        self,
        log: PreferenceLog,
        batch: str,
        variants: tuple[Variant, Variant],
        speakers: Speakers,
        queue: Sequence[Queued],
        sampling: SamplingConfig,
        agreement_share: float,
    ) -> None:
        self.log, self.batch, self.variants, self.speakers = log, batch, variants, speakers
        self.sampling, self.agreement_share = sampling, agreement_share
        self._lock = Lock()
        self._seats: dict[str, Seat] = defaultdict(Seat)
        self._annotated: dict[str, dict[str, Comparison]] = {}
        """Question -> annotator -> comparison."""
        self._draws = random.Random(secrets.randbits(64))
        taken = self._restore()
        self.queue = [prompt for prompt in queue if prompt.id not in taken]

    def _restore(self) -> set[str]:
        """Take up what the log holds of this batch; return the prompts that were used."""
        taken, comparisons = set(), {}
        for event in read_events(self.log.folder, self.batch):
            match event:
                case Asked():
                    self._seats[event.annotator].open = self._reopened(event)
                    taken.add(event.prompt_id)
                case Comparison():
                    seat = self._seats[event.annotator]
                    seat.count(event)
                    self._note(event)
                    comparisons[event.id] = event
                    taken.add(event.prompt_id)
                    if seat.open and seat.open.id == event.question:
                        seat.made, seat.open = [(event, seat.open)], None
                case Undo() if event.id in comparisons:
                    undone, seat = comparisons.pop(event.id), self._seats[event.annotator]
                    self._annotated.get(undone.question, {}).pop(event.annotator, None)
                    seat.count(undone, -1)
                    if seat.made and seat.made[-1][0].id == event.id:
                        seat.open = seat.made.pop()[1]
                case Skip():
                    self._seats[event.annotator].open = None
        return taken

    def _note(self, comparison: Comparison) -> bool:
        """Remember who annotated a question, so that another may be asked; return whether nobody had before."""
        by = self._annotated.setdefault(comparison.question, {})
        by[comparison.annotator] = comparison
        if len(self._annotated) > MOST_REMEMBERED:
            del self._annotated[next(iter(self._annotated))]
        return len(by) == 1

    def _reopened(self, asked: Asked) -> Open:
        prompt = Queued(
            asked.prompt_id, asked.kind, asked.domain, asked.dialog, asked.risk_category, asked.attack_vector
        )
        variants = [Variant(response.model, response.temperature or 0.0) for response in asked.responses]
        page: Page = "red-team" if asked.kind == RED_TEAM else asked.domain
        answers = [Answer(response.text, "stop") for response in asked.responses]
        return Open(
            asked.question, page, prompt, answers, (variants[0], variants[1]), asked.turned, asked=asked
        )

    def seat(self, annotator: str) -> Seat:
        with self._lock:
            return self._seats[annotator]

    def waiting(self, page: Page) -> int:
        return sum(prompt.domain == page for prompt in self.queue)

    def ask(self, annotator: str, page: Page, text: str, risk_category: str, attack_vector: str) -> None:
        """Have both variants answer a message of the annotator's, in the dialog that goes on if there is one."""
        if not 0 < len(text.strip()) <= LONGEST_PROMPT:
            raise DataError(f"write a message of 1 to {LONGEST_PROMPT} characters")
        seat = self.seat(annotator)
        with seat.lock:
            turn = Turn(role="user", content=text.strip())
            if before := seat.going_on:
                about = (before.risk_category, before.attack_vector)
                prompt = Queued(before.id, before.kind, before.domain, (*before.dialog, turn), *about)
            else:
                if page == "red-team" and not (risk_category and attack_vector):
                    raise DataError("choose the risk category and the attack vector")
                domain: Domain = "helpfulness" if page == "helpfulness" else "safety"
                name = f"written-{sha256(turn.content.encode()).hexdigest()[:16]}"
                kind = RED_TEAM if page == "red-team" else "written"
                prompt = Queued(name, kind, domain, (turn,), risk_category, attack_vector)
            self._open(seat, page, prompt)

    def take(self, annotator: str, page: Page) -> None:
        """Put the next prompt of the queue before the annotator, or what another annotator has judged."""
        seat = self.seat(annotator)
        with seat.lock:
            if seat.open or seat.going_on:
                return
            with self._lock:
                again = self._again(annotator, page)
                place = next((n for n, prompt in enumerate(self.queue) if prompt.domain == page), None)
                prompt = None if again or place is None else self.queue.pop(place)
            if again:
                asked = self._asked(
                    annotator,
                    again.question,
                    again,
                    _labelled(again.responses, (None, None)),
                    self._draws.random() < 0.5,
                )
                seat.open = self._reopened(asked)
            elif prompt is None:
                raise DataError("the queue is empty: write a message of your own")
            else:
                self._open(seat, page, prompt)

    def _again(self, annotator: str, page: Page) -> Comparison | None:
        if self._draws.random() >= self.agreement_share:
            return None
        found = [
            next(iter(by.values()))
            for by in self._annotated.values()
            if 0 < len(by) < MOST_ANNOTATORS and annotator not in by
        ]
        return self._draws.choice([c for c in found if c.domain == page] or [None])

    def _open(self, seat: Seat, page: Page, prompt: Queued) -> None:
        answers = [self._say(variant, prompt) for variant in self.variants]
        turned = self._draws.random() < 0.5
        seat.open = Open(secrets.token_hex(8), page, prompt, answers, self.variants, turned)

    def _say(self, variant: Variant, prompt: Queued) -> Answer:
        dialog = [Message(role=turn.role, content=turn.content) for turn in prompt.dialog]
        config = self.sampling.model_copy(update={"temperature": variant.temperature})
        return self.speakers.ask(variant.model, dialog, config, secrets.randbits(62))

    def settle(self, annotator: str) -> bool:
        """Log a question whose answers are complete; return whether there is nothing to wait for.

        Equal or empty answers are drawn again. Raises DataError, and closes the question, when that does not help
        or a model cannot answer.
        """
        seat = self.seat(annotator)
        with seat.lock:
            opened = seat.open
            if opened is None or opened.asked:
                return True
            failed = next((answer.error for answer in opened.answers if answer.error), "")
            if not failed and not all(answer.done for answer in opened.answers):
                return False
            texts = [answer.text.strip() for answer in opened.answers]
            if not failed and all(texts) and texts[0] != texts[1]:
                first, second = (
                    Response(text=text, model=variant.model, temperature=variant.temperature)
                    for text, variant in zip(texts, opened.variants, strict=True)
                )
                opened.asked = self._asked(
                    annotator, opened.id, opened.prompt, (first, second), opened.turned
                )
                return True
            if not failed and opened.tries < TRIES:
                opened.tries += 1
                for place, (variant, text) in enumerate(zip(opened.variants, texts, strict=True)):
                    if not text or place:
                        opened.answers[place] = self._say(variant, opened.prompt)
                return False
            seat.open = None
            raise DataError(failed or "both models say the same, or one says nothing: ask something else")

    def _asked(
        self,
        annotator: str,
        question: str,
        about: Queued | Comparison,
        responses: tuple[Response, Response],
        turned: bool,
    ) -> Asked:
        asked = Asked(
            id=secrets.token_hex(8),
            question=question,
            annotator=annotator,
            responses=responses,
            turned=turned,
            time=_now(),
            **self._about(about),
        )
        self.log.append(asked)
        return asked

    def _about(self, prompt: Queued | Asked | Comparison) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "prompt_id": prompt.id if isinstance(prompt, Queued) else prompt.prompt_id,
            "kind": prompt.kind,
            "domain": prompt.domain,
            "dialog": prompt.dialog,
            "risk_category": prompt.risk_category,
            "attack_vector": prompt.attack_vector,
        }

    def answer(
        self,
        annotator: str,
        question: str,
        a_is_better: bool,
        grade: Grade,
        safe: tuple[bool, bool] | None,
        go_on: bool,
    ) -> str:
        """Log the annotator's choice between A and B, with which of them are safe; return what became of it."""
        seat = self.seat(annotator)
        with seat.lock:
            opened = seat.open
            if opened is None or opened.id != question or opened.asked is None:
                return "This question was answered before; what you sent twice counts once."
            chosen: Literal[0, 1] = 1 if a_is_better == opened.turned else 0
            labels = (None, None) if safe is None else safe[::-1] if opened.turned else safe
            comparison = Comparison(
                id=opened.comparison,
                question=opened.id,
                responses=_labelled(opened.asked.responses, labels),
                chosen=chosen,
                grade=grade,
                annotator=annotator,
                annotator_kind="person",
                time=_now(),
                seconds=min(time.monotonic() - seat.acted, LONGEST_PAUSE_SECONDS),
                **self._about(opened.prompt),
            )
            self.log.append(comparison)
            seat.made = [*seat.made, (comparison, opened)][-MOST_UNDONE:]
            seat.count(comparison)
            seat.open, seat.acted = None, time.monotonic()
            with self._lock:
                first = self._note(comparison)
            if go_on and first:
                said = Turn(role="assistant", content=comparison.responses[chosen].text)
                prompt = opened.prompt
                about = (prompt.risk_category, prompt.attack_vector)
                seat.going_on = Queued(prompt.id, prompt.kind, prompt.domain, (*prompt.dialog, said), *about)
            else:
                seat.going_on = None
            return "Saved."

    def skip(self, annotator: str) -> None:
        """Leave the question unanswered, for good."""
        seat = self.seat(annotator)
        with seat.lock:
            if opened := seat.open:
                skip = Skip(
                    id=opened.comparison,
                    question=opened.id,
                    batch=self.batch,
                    annotator=annotator,
                    time=_now(),
                )
                self.log.append(skip)
                seat.open, seat.going_on, seat.acted = None, None, time.monotonic()

    def finish(self, annotator: str) -> None:
        """End the dialog that goes on."""
        self.seat(annotator).going_on = None

    def undo(self, annotator: str) -> None:
        """Take the annotator's last comparison back and put its question before them again."""
        seat = self.seat(annotator)
        with seat.lock:
            if not seat.made:
                raise DataError("there is nothing to undo")
            if seat.open and seat.open.asked:
                self.skip(annotator)
            comparison, opened = seat.made[-1]
            self.log.append(Undo(id=comparison.id, annotator=annotator, time=_now()))
            seat.made.pop()
            seat.count(comparison, -1)
            with self._lock:
                self._annotated.get(comparison.question, {}).pop(annotator, None)
            safe = [response.safe for response in comparison.responses]
            shown = safe[::-1] if opened.turned else safe
            labels = ["" if label is None else "safe" if label else "unsafe" for label in shown]
            judged = {
                "choice": "b" if comparison.chosen ^ opened.turned else "a",
                "grade": comparison.grade or "",
                "a_safe": labels[0],
                "b_safe": labels[1],
            }
            seat.going_on = None
            seat.open = Open(
                opened.id, opened.page, opened.prompt, opened.answers, opened.variants, opened.turned,
                asked=opened.asked, judged=judged,
            )  # fmt: skip

    def progress(self) -> tuple[int, int]:
        """Return how many comparisons the batch has, and how many it wants."""
        batch = next(batch for batch in self.log.batches() if batch.name == self.batch)
        return batch.comparisons, batch.target


def _labelled(
    responses: tuple[Response, Response], labels: Sequence[bool | None]
) -> tuple[Response, Response]:
    first, second = (
        response.model_copy(update={"safe": label}) for response, label in zip(responses, labels, strict=True)
    )
    return first, second


def _now() -> datetime:
    return datetime.now(UTC)

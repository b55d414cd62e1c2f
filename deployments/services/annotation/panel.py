"""Answers that people rate: two on seven points, or one on five. Llama 2 sections 3.4.2, 4.4 and A.3.7.

Who is asked what, and in which order two answers stand, follows from the log and the names: a restart changes nothing.
"""

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from threading import RLock

from llama2_core.errors import DataError
from storage.preference_events import Rating, Skip, Turn, Undo
from storage.preference_log import PreferenceLog, read_events, read_ratings
from storage.preference_orders import RatingOrder

LONGEST_PAUSE_SECONDS = 900.0
"""What is longer is not counted as work."""


@dataclass(frozen=True)
class Question:
    """A row of the sheet, without whose answers they are."""

    id: str
    safety: bool
    dialog: tuple[Turn, ...]
    answers: tuple[str, ...]


class Panel:
    """The questions of one ordered batch. Of answers that wait for their last rating, some are seen by one too many:
    that rating is not taken."""

    def __init__(self, log: PreferenceLog, order: RatingOrder, questions: Sequence[Question]) -> None:
        self.log, self.order, self.batch = log, order, order.batch
        self.questions = {
            q.id: q
            for q in sorted(questions, key=lambda q: sha256(f"{order.batch} {q.id}".encode()).digest())
        }
        self._lock = RLock()
        self._rated: dict[str, dict[str, Rating]] = defaultdict(dict)
        """Question -> annotator -> rating."""
        self._open: dict[str, str] = {}
        self._since: dict[str, float] = {}
        for rating in read_ratings(log.folder, order.batch):
            self._rated[rating.question][rating.annotator] = rating
        self._skipped = {
            (event.annotator, event.question)
            for event in read_events(log.folder, order.batch)
            if isinstance(event, Skip)
        }

    @property
    def paired(self) -> bool:
        return any(len(question.answers) == 2 for question in self.questions.values())

    def progress(self) -> int:
        """Return how many ratings there are."""
        with self._lock:
            return sum(len(by) for by in self._rated.values())

    def made(self, annotator: str) -> list[Rating]:
        """Return an annotator's ratings, oldest first."""
        with self._lock:
            own = [by[annotator] for by in self._rated.values() if annotator in by]
        return sorted(own, key=lambda rating: rating.time)

    def open(self, annotator: str) -> Question | None:
        """Return what is in front of an annotator: what has most ratings but not enough, first what nobody looks at."""
        with self._lock:
            if self._open.get(annotator) not in self._wanted(annotator):
                others = list(self._open.values())
                found = min(
                    self._wanted(annotator),
                    key=lambda q: (
                        len(self._rated[q]) + others.count(q) >= self.order.raters,
                        -len(self._rated[q]),
                    ),
                    default="",
                )
                self._open[annotator], self._since[annotator] = found, time.monotonic()
            return self.questions.get(self._open[annotator])

    def _wanted(self, annotator: str) -> list[str]:
        return [
            q
            for q in self.questions
            if len(self._rated[q]) < self.order.raters
            and annotator not in self._rated[q]
            and (annotator, q) not in self._skipped
        ]

    def turned(self, annotator: str, question: Question) -> bool:
        """Tell whether the second answer is shown as A to this annotator."""
        drawn = sha256(f"{self.batch} {annotator} {question.id}".encode()).digest()[0]
        return len(question.answers) == 2 and drawn % 2 == 1

    def rate(self, annotator: str, question: str, value: int) -> None:
        """Log a rating, for answer A where there are two. What was sent twice, or is rated by enough, is not taken."""
        with self._lock:
            if self._open.get(annotator) != question or question not in self._wanted(annotator):
                return
            turned = self.turned(annotator, self.questions[question])
            rating = Rating(
                id=secrets.token_hex(8),
                batch=self.batch,
                annotator=annotator,
                question=question,
                value=-value if turned else value,
                turned=turned,
                time=datetime.now(UTC),
                seconds=min(time.monotonic() - self._since[annotator], LONGEST_PAUSE_SECONDS),
            )
            self.log.append(rating)
            self._rated[question][annotator] = rating

    def skip(self, annotator: str, question: str) -> None:
        """Leave a question to others."""
        with self._lock:
            if self._open.get(annotator) != question:
                return
            self.log.append(
                Skip(
                    id=secrets.token_hex(8),
                    question=question,
                    batch=self.batch,
                    annotator=annotator,
                    time=datetime.now(UTC),
                )
            )
            self._skipped.add((annotator, question))

    def undo(self, annotator: str) -> None:
        """Take the annotator's last rating back, and put its question before them again."""
        with self._lock:
            made = self.made(annotator)
            if not made:
                raise DataError("there is nothing to undo")
            self.log.append(Undo(id=made[-1].id, annotator=annotator, time=datetime.now(UTC)))
            del self._rated[made[-1].question][annotator]
            self._open[annotator], self._since[annotator] = made[-1].question, time.monotonic()

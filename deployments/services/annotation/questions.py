"""The pages on which answers are asked for and compared: helpfulness, safety, red team."""

from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from markupsafe import Markup
from pydantic import ValidationError

from deployments.services.annotation.access import Refused
from deployments.services.annotation.desk import Desk
from deployments.services.annotation.pages import HERE, Site, events
from deployments.services.annotation.seat import Page
from llama2_core.config import GRADES, Grade, Record
from llama2_core.errors import Llama2Error
from storage.errors import StorageError

HEADINGS = {
    "helpfulness": "Which answer helps more?",
    "safety": "Which answer is safer?",
    "red-team": "Make a model do harm",
}
RISK_CATEGORIES = ("illicit and criminal activities", "hateful and harmful activities", "unqualified advice")
ATTACK_VECTORS = (
    "psychological manipulation",
    "logic manipulation",
    "syntactic manipulation",
    "semantic manipulation",
    "perspective manipulation",
    "non-English language",
    "other",
)
"""Llama 2 section 4.2.1."""
SAFE = {"safe": True, "unsafe": False}


class Judgement(Record):
    """What the form under two answers sends."""

    question: str
    choice: Literal["a", "b"]
    grade: Grade
    a_safe: Literal["safe", "unsafe", ""] = ""
    b_safe: Literal["safe", "unsafe", ""] = ""
    then: Literal["go on", "finish"] = "go on"
    form_secret: str = ""


def add_questions(app: FastAPI, site: Site, desk: Desk) -> None:
    guidelines = {
        name: Markup((HERE / "guidelines" / f"{name}.html").read_text()) for name in ("helpfulness", "safety")
    }

    def task(request: Request, annotator: str, page: Page, status: int = 200, **said: Any) -> HTMLResponse:
        seat = desk.seat(annotator)
        opened, going_on = seat.open, seat.going_on
        shown = opened.prompt if opened else going_on
        done, target = desk.progress()
        batch = {"name": desk.batch, "done": done, "target": target, "yours": seat.yours}
        values: dict[str, Any] = {
            "annotator": annotator,
            "page": page,
            "heading": HEADINGS[page],
            "batch": batch | {"waiting": desk.waiting(page)},
            "gamma": seat.gamma if page == "red-team" else None,
            "note": "This batch is complete. Thank you!" if done >= target else "",
            "dialog": shown.dialog if shown else (),
            "open": opened and {"id": opened.id, "done": opened.asked is not None, "texts": opened.texts},
            "judged": {"choice": "", "grade": "", "a_safe": "", "b_safe": ""}
            | (opened.judged if opened else {}),
            "can_undo": bool(seat.made),
            "grades": GRADES,
            "risk_categories": RISK_CATEGORIES,
            "attack_vectors": ATTACK_VECTORS,
            "risk_category": "",
            "attack_vector": "",
            "prompt": "",
            "guidelines": guidelines["helpfulness" if page == "helpfulness" else "safety"],
        }
        return site.page(request, "task.html", status, **values | said)

    def show(request: Request, page: Page, **said: Any) -> Response:
        annotator = site.access.annotator(request)
        seat = desk.seat(annotator)
        if seat.open and seat.open.page != page:
            return RedirectResponse(f"/{seat.open.page}", 303)
        try:
            desk.settle(annotator)
        except Llama2Error as error:
            said["error"] = str(error)
        return task(request, annotator, page, **said)

    async def act(request: Request, page: Page, action: Any) -> Response:
        """Do what a form asks, and show the page anew; what is wrong is said above the form, which keeps its text."""
        annotator, form = await site.posted(request)
        try:
            await run_in_threadpool(action, annotator, form)
        except Refused:
            raise
        except ValidationError as error:
            where = ", ".join(str(one["loc"][0]) for one in error.errors())
            return task(
                request, annotator, page, 422, error=f"say which answer, how much, and what is safe: {where}"
            )
        except (Llama2Error, StorageError) as error:
            kept = {name: form.get(name, "") for name in ("prompt", "risk_category", "attack_vector")}
            return task(request, annotator, page, 422, error=str(error), **kept)
        return RedirectResponse(f"/{page}", 303)

    def add_page(page: Page) -> None:
        @app.get(f"/{page}")
        def get(request: Request) -> Response:
            return show(request, page)

        @app.post(f"/{page}/{{action}}")
        async def post(
            request: Request, action: Literal["ask", "take", "answer", "skip", "finish", "undo"]
        ) -> Response:
            def ask(annotator: str, form: dict[str, str]) -> None:
                site.access.limit("answers", annotator)
                desk.ask(
                    annotator,
                    page,
                    form.get("prompt", ""),
                    form.get("risk_category", ""),
                    form.get("attack_vector", ""),
                )

            def take(annotator: str, _: dict[str, str]) -> None:
                site.access.limit("answers", annotator)
                desk.take(annotator, page)

            def answer(annotator: str, form: dict[str, str]) -> None:
                known = {name: value for name, value in form.items() if name in Judgement.model_fields}
                said = Judgement.model_validate(known)
                safe = None if page == "helpfulness" else (SAFE[said.a_safe], SAFE[said.b_safe])
                desk.answer(
                    annotator, said.question, said.choice == "a", said.grade, safe, said.then == "go on"
                )

            actions = {
                "ask": ask,
                "take": take,
                "answer": answer,
                "skip": lambda annotator, _: desk.skip(annotator),
                "finish": lambda annotator, _: desk.finish(annotator),
                "undo": lambda annotator, _: desk.undo(annotator),
            }
            return await act(request, page, actions[action])

    for page in ("helpfulness", "safety", "red-team"):
        add_page(page)

    @app.get("/answers/{question}")
    async def answers(request: Request, question: str) -> Response:
        annotator = site.access.annotator(request)
        opened = desk.seat(annotator).open
        if opened is None or opened.id != question:
            return Response(status_code=404)
        return StreamingResponse(
            events(lambda: opened.answers[:: -1 if opened.turned else 1]), media_type="text/event-stream"
        )

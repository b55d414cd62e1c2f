"""The playground: a chat with any model of the service, or with two side by side. Nothing of it is logged."""

import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from deployments.services.annotation.desk import LONGEST_PROMPT
from deployments.services.annotation.pages import Site, events
from deployments.services.speakers import Answer, Speakers
from llama2_core.chat import Message, assistant, user
from llama2_core.config import SamplingConfig


@dataclass
class Talk:
    """A dialog with one model, and what it is saying."""

    model: str
    dialog: list[Message] = field(default_factory=list)
    answer: Answer | None = None


@dataclass
class Visit:
    """What an annotator has said here, and what the form holds."""

    talks: list[Talk] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return all(talk.answer is None or talk.answer.done for talk in self.talks)


def add_playground(app: FastAPI, site: Site, speakers: Speakers, sampling: SamplingConfig) -> None:
    """Add the playground's pages to the service."""
    visits: dict[str, Visit] = defaultdict(Visit)
    names = list(speakers.models)

    def page(request: Request, who: str, status: int = 200, error: str = "") -> Response:
        visit = visits[who]
        chosen = {"first": names[0], "second": "", "temperature": sampling.temperature} | visit.chosen
        values = {"talks": visit.talks, "done": visit.done, "models": names, "chosen": chosen, "error": error}
        return site.page(request, "playground.html", status, annotator=who, page="playground", **values)

    @app.get("/playground")
    def show(request: Request) -> Response:
        return page(request, site.access.annotator(request))

    @app.post("/playground")
    async def say(request: Request) -> Response:
        who, form = await site.posted(request)
        visit, message = visits[who], form.get("message", "").strip()
        models = [form[place] for place in ("first", "second") if form.get(place)]
        if not models or any(model not in names for model in models):
            return page(request, who, 422, "choose a model of the list")
        try:
            config = SamplingConfig.model_validate(
                sampling.model_dump() | {"temperature": float(form.get("temperature", ""))}
            )
        except ValueError:
            return page(request, who, 422, "temperature: a number from 0 on")
        if not 0 < len(message) <= LONGEST_PROMPT or not visit.done:
            return page(request, who, 422, f"write a message of 1 to {LONGEST_PROMPT} characters")
        site.access.limit("answers", who)
        visit.chosen = {name: form.get(name, "") for name in ("first", "second", "temperature")}
        if [talk.model for talk in visit.talks] != models:
            visit.talks = [Talk(model) for model in models]
        for talk in visit.talks:
            if talk.answer and talk.answer.text.strip():
                talk.dialog.append(assistant(talk.answer.text.strip()))
            elif talk.answer:  # it failed: the message that was not answered is taken back
                talk.dialog.pop()
            talk.dialog.append(user(message))
            talk.answer = speakers.ask(talk.model, talk.dialog, config, secrets.randbits(62))
        return RedirectResponse("/playground", 303)

    @app.post("/playground/clear")
    async def clear(request: Request) -> Response:
        who, _ = await site.posted(request)
        visits.pop(who, None)
        return RedirectResponse("/playground", 303)

    @app.get("/playground/answers")
    async def answers(request: Request) -> Response:
        visit = visits[site.access.annotator(request)]
        said = [talk.answer for talk in visit.talks if talk.answer]
        return StreamingResponse(events(lambda: said), media_type="text/event-stream")

"""The annotation service: people sign in, ask, compare, go on. Llama 2 section 3.2.1 and appendix A.4.

Pages are made here; scripts only show answers as they come.
"""

from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deployments.services.annotation.access import COOKIE, SESSION_SECONDS, Access, Refused, read_form
from deployments.services.annotation.desk import Desk
from deployments.services.annotation.pages import HERE, Site
from deployments.services.annotation.panel import Panel
from deployments.services.annotation.playground import add_playground
from deployments.services.annotation.questions import add_questions
from deployments.services.annotation.ratings import add_ratings

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


ASKING = {
    "helpfulness": "Helpfulness",
    "safety": "Safety",
    "red-team": "Red team",
    "playground": "Playground",
}
RATING = {"ratings": "Ratings"}


def create_app(work: Desk | Panel, access: Access, hosts: list[str]) -> FastAPI:
    """Return the service, for comparisons that models learn from or for ratings; it answers to these hosts only."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    site = Site(access, RATING if isinstance(work, Panel) else ASKING)

    @app.middleware("http")
    async def headers(request: Request, go_on: Any) -> Response:
        response = await go_on(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Exception) -> Response:
        status = cast(Refused, error).status
        if status == 401:
            return RedirectResponse("/sign-in", 303)
        return site.page(request, "message.html", status, title="Refused", message=str(error))

    add_signing_in(app, site)
    if isinstance(work, Panel):
        add_ratings(app, site, work)
    else:
        add_questions(app, site, work)
        add_playground(app, site, work.speakers, work.sampling)
    return app


def add_signing_in(app: FastAPI, site: Site) -> None:
    @app.get("/")
    def home(request: Request) -> Response:
        site.access.annotator(request)
        return RedirectResponse(f"/{next(iter(site.pages))}", 303)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/sign-in")
    def sign_in_page(request: Request) -> Response:
        return site.page(request, "sign_in.html")

    @app.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        address = request.client.host if request.client else ""
        site.access.limit("sign in", address, count=False)
        form = await read_form(request)
        try:
            session = site.access.sign_in(form.get("token", ""))
        except Refused as error:
            site.access.limit("sign in", address)
            return site.page(request, "sign_in.html", error.status, error=str(error))
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, session, SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
        return response

    @app.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        await site.posted(request)
        response = RedirectResponse("/sign-in", 303)
        response.delete_cookie(COOKIE)
        return response

"""What the service refuses: forged tokens and sessions, other sites' forms, scripts, paths, bodies, rates."""

import pytest
from starlette.testclient import TestClient

from deployments.services.annotation.access import BODY_BYTES, COOKIE, LIMITS, Access
from llama2_core.errors import ConfigError


def form_secret(client: TestClient) -> str:
    return client.get("/helpfulness").text.split('name="form_secret" value="')[1].split('"')[0]


def test_a_token_is_for_one_annotator_and_can_be_taken_away(client: TestClient, access: Access) -> None:
    assert "alice" in client.get("/helpfulness").text
    assert set(access.annotators()) == {"alice"}
    assert "alice" not in (access.folder / "annotators.json").read_text().replace('"alice"', "")
    token = access.add("alice")  # a new token: sessions of the old one end
    kept = [path for path in access.folder.rglob("*") if path.is_file()]
    assert kept and not any(token.encode() in path.read_bytes() for path in kept)
    assert client.get("/helpfulness", follow_redirects=False).headers["location"] == "/sign-in"
    access.remove("alice")
    with pytest.raises(ConfigError, match="no annotator 'alice'"):
        access.remove("alice")
    with pytest.raises(ConfigError, match="letters"):
        access.add("../alice")


@pytest.mark.parametrize("forged", ["", "alice", "alice.1.aa", "alice.99999999999.é", "bob.1.1", "....."])
def test_a_forged_session_is_none(client: TestClient, forged: str) -> None:
    client.cookies.clear()
    headers = {b"cookie": f"{COOKIE}={forged}".encode()}
    answer = client.get("/safety", headers=headers, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


def test_a_wrong_token_is_refused_and_guessing_is_slow(client: TestClient) -> None:
    client.cookies.clear()
    for _ in range(LIMITS["sign in"][0]):
        assert client.post("/sign-in", data={"token": "x" * 32}).status_code == 403
    assert client.post("/sign-in", data={"token": "x" * 32}).status_code == 429


def test_the_session_is_no_scripts_and_no_other_sites(client: TestClient, access: Access) -> None:
    answer = client.post("/sign-in", data={"token": access.add("bob")}, follow_redirects=False)
    said = answer.headers["set-cookie"].lower()
    assert "httponly" in said and "samesite=strict" in said
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "action", ["helpfulness/ask", "safety/answer", "helpfulness/undo", "playground", "sign-out"]
)
def test_a_form_of_another_site_is_refused(client: TestClient, action: str) -> None:
    assert client.post(f"/{action}", data={"prompt": "the cat"}).status_code == 403
    good = {"form_secret": form_secret(client), "prompt": "the cat"}
    assert client.post(f"/{action}", data=good, headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_scripts_are_text(client: TestClient) -> None:
    prompt = "<script>alert(1)</script>"
    data = {
        "form_secret": form_secret(client),
        "prompt": prompt,
        "risk_category": '"><b>',
        "attack_vector": "",
    }
    page = client.post("/red-team/ask", data=data).text
    assert prompt not in page and "&lt;script&gt;" in page and '"><b>' not in page


def test_a_body_that_is_too_large_is_not_read(client: TestClient) -> None:
    assert client.post("/helpfulness/ask", data={"prompt": "x" * (BODY_BYTES + 1)}).status_code == 413
    assert client.post("/helpfulness/ask", content=b"\xff=1").status_code == 400


@pytest.mark.parametrize("path", ["/static/../access.py", "/static/%2e%2e/access.py", "/static//etc/passwd"])
def test_no_other_file_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_another_host_name_is_refused(client: TestClient) -> None:
    assert client.get("/helpfulness", headers={"host": "evil.example"}).status_code == 400


def test_somebody_elses_answers_are_not_shown(client: TestClient) -> None:
    assert client.get("/answers/0123456789abcdef").status_code == 404


def test_too_many_forms_wait(client: TestClient) -> None:
    data = {"form_secret": form_secret(client), "prompt": ""}
    codes = [client.post("/helpfulness/ask", data=data).status_code for _ in range(LIMITS["answers"][0] + 1)]
    assert codes[0] == 422 and codes[-1] == 429

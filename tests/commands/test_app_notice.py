"""The notice of the web page in a browser, without a server: time and answers are the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from jind_nb.core.resources import PACKAGE
from tests.conftest import CHROMIUM_ARGUMENTS

pytestmark = pytest.mark.slow

PAGE = """<!doctype html><body><script id="jupyter-config-data" type="application/json">{"kernelId": "abc"}</script>
<button type="button" class="logout">Log out</button></body>"""


def test_a_page_without_server_or_kernel_says_so(chromium: str) -> None:
    """Lost otherwise: an evening, before a page that shows a run which never ends."""
    from playwright.sync_api import Route, sync_playwright

    def gone(route: Route) -> object:
        return route.abort()

    answer: Callable[[Route], object] = gone
    asked: list[str] = []

    def alive(route: Route) -> None:
        asked.append(route.request.url)
        answer(route)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page()
        page.clock.install()
        page.route("http://cells.test/", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        page.route("**/alive?*", alive)
        page.goto("http://cells.test/")
        page.add_script_tag(content=(PACKAGE / "templates" / "alive.js").read_text("utf-8"))
        notice = page.locator(".gone")

        def after(how: Callable[[Route], object]) -> str:
            """Return the notice ten seconds later, when the server has answered so."""
            nonlocal answer
            answer, before = how, len(asked)
            page.clock.run_for(10_000)
            for _ in range(100):
                page.wait_for_timeout(50)
                if len(asked) > before:
                    page.wait_for_timeout(100)
                    break
            assert len(asked) == before + 1
            return notice.inner_text() if notice.is_visible() else ""

        def kernel(is_there: bool) -> Callable[[Route], object]:
            return lambda route: route.fulfill(body=json.dumps({"kernel": is_there}))

        assert after(kernel(True)) == ""
        assert asked[0].endswith("alive?kernel=abc")
        assert after(gone) == ""  # once is no sign
        assert after(gone).startswith("The server does not answer")
        assert after(kernel(True)) == ""
        assert "Reload it" in after(kernel(False))
        assert "logged out" in after(lambda route: route.fulfill(status=403))
        browser.close()

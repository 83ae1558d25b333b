"""A real browser on the admin: Debian's chromium, told by Playwright."""

from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE_MS = 15_000
GRAVE = {"serious", "critical"}


class Visitor:
    """Somebody at a browser, whose every console message and error is kept."""

    def __init__(self, context, address):
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.address = address
        self.complaints = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._refuse)
        self.page.on("request", self._follow)

    def _hear(self, message):
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{self.page.url}: {message.text}")

    def _refuse(self, dialog):
        # Nothing of ours opens one: a script from a text field would.
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _follow(self, request):
        is_own = request.url.startswith((self.address, "data:", "blob:"))
        if not is_own:
            self.complaints.append(f"an outside host: {request.url}")

    def sign_in(self, name, password):
        self.open("/admin/login/?next=/admin/")
        self.page.fill("[name=username]", name)
        self.page.fill("[name=password]", password)
        self.page.press("[name=password]", "Enter")
        self.page.wait_for_url(f"{self.address}/admin/")

    def open(self, path):
        response = self.page.goto(f"{self.address}{path}")
        assert response.status == 200, (path, response.status)
        self.page.wait_for_load_state("load")

    def examine(self):
        """Complain of what axe-core finds serious or critical on the page."""
        found = Axe().run(self.page).response["violations"]
        self.complaints += [
            f"{self.page.url}: axe {one['impact']} {one['id']}: "
            + "; ".join(node["html"][:160] for node in one["nodes"][:3])
            for one in found
            if one["impact"] in GRAVE
        ]

    def links(self, selector):
        """Return where the links lead, each once."""
        nodes = self.page.query_selector_all(selector)
        return list(dict.fromkeys(node.get_attribute("href") for node in nodes))


@contextmanager
def browser():
    """Run a browser; give what opens a visitor with a look: dark, narrow."""
    with sync_playwright() as playwright:
        # Root, as in CI, has no sandbox.
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"]
        )

        def visit(address, *, is_dark=False, width=1280):
            context = chromium.new_context(
                color_scheme="dark" if is_dark else "light",
                viewport={"width": width, "height": 900},
            )
            return Visitor(context, address)

        try:
            yield visit
        finally:
            chromium.close()

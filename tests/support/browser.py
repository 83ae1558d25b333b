"""A real browser on the web process, with what it complains about."""

import shutil
from concurrent.futures import ThreadPoolExecutor

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 20_000
# What axe finds of these kinds keeps people from using a page.
GRAVE = {"serious", "critical"}


class Visit:
    """One user's browser; `complaints` is what its console said."""

    def __init__(self, page, port):
        self.page = page
        self.complaints = []
        self._address = f"http://127.0.0.1:{port}"
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, message):
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def go(self, path):
        self.page.goto(self._address + path)

    def sign_in(self, name, password):
        self.go("/admin/login/?next=/admin/")
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", password)
        self.page.press("#id_password", "Enter")
        self.page.wait_for_url("**/admin/")

    def grave_faults(self):
        """Return what axe finds that keeps people from using the page."""
        found = Axe().run(self.page).response["violations"]
        return [(one["id"], one["help"]) for one in found if one["impact"] in GRAVE]

    def is_too_wide(self):
        """Tell whether one has to scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth > innerWidth")


def visit(port, work, *, width=1280, scheme="light"):
    """Let `work(visit)` use a browser, and return what it returns.

    In a thread of its own: Playwright's event loop would keep Django's ORM away.
    """

    def run():
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox"]
            )
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            result = work(Visit(context.new_page(), port))
            browser.close()
            return result

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(run).result(timeout=120)

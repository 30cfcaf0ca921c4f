"""A service's page as a person has it, in a real browser."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from running import WAIT_S
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from selenium_axe_python import Axe

TOKEN: Final = "0123456789abcdef-secret"
HOSTILE: Final = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"

_GIVE = """
const [encoded, name, way] = arguments;
const bytes = Uint8Array.from(atob(encoded), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name, { type: "image/png" }));
const event = way === "drop"
  ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
  : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
document.getElementById("drop").dispatchEvent(event);
"""
_FITS = """
const { scrollWidth, clientWidth } = document.documentElement;
return innerWidth === arguments[0] && scrollWidth <= clientWidth;
"""
_ASKED = "return performance.getEntriesByType('resource').map((each) => each.name)"


class Page:
    """A page that is open.

    Args:
        browser: it is opened in; what it complained of before is forgotten.
        url: of the page.
        patience: seconds that are waited for what must come.
    """

    def __init__(self, browser: Chrome, url: str, patience: float = WAIT_S) -> None:
        self.browser = browser
        self.patience = patience
        self.url = url
        browser.set_window_size(1000, 800)
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute("getLog", {"type": "browser"})
        browser.get(url)

    def __getitem__(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [each.text for each in self.all(selector)]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def focused(self) -> str:
        """The id of what has the focus, or its text."""
        element = self.browser.switch_to.active_element
        return element.get_attribute("id") or element.text

    def press(self, *keys: str) -> None:
        ActionChains(self.browser, duration=0).send_keys(*keys).perform()

    def until(self, selector: str, count: int) -> list[WebElement]:
        """So many elements, once they are there and to be seen."""

        def there(_: Chrome) -> list[WebElement]:
            found = [each for each in self.all(selector) if each.is_displayed()]
            return found if len(found) == count else []

        return WebDriverWait(self.browser, self.patience, 0.02).until(there)

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until something holds."""
        WebDriverWait(self.browser, self.patience, 0.02).until(lambda _: holds())

    def enter(self, token: str = TOKEN) -> None:
        self.until("#token", 1)[0].send_keys(token + Keys.ENTER)

    def give(self, data: bytes, name: str, way: str = "drop") -> None:
        """Drop or paste a PNG."""
        self.run(_GIVE, base64.b64encode(data).decode(), name, way)

    def narrow(self, width: int = 400, height: int = 800) -> None:
        """A window of another size, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def fits(self, width: int = 400) -> bool:
        """Whether the window is so wide, and nothing is wider."""
        return bool(self.run(_FITS, width))

    def colours(self, scheme: str) -> None:
        """As a system has it whose user prefers `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[str]:
        """What the browser found wrong, but for answers that the page asked for and was refused."""
        lines = [str(entry["message"]) for entry in self.browser.execute("getLog", {"type": "browser"})["value"]]
        return [line for line in lines if "Failed to load resource" not in line]

    def asked_elsewhere(self) -> list[str]:
        """What the page has asked other hosts for."""
        host = urlsplit(self.url).netloc
        asked = [urlsplit(name) for name in self.run(_ASKED)]
        assert asked
        return [each.geturl() for each in asked if each.scheme != "blob" and each.netloc != host]

    def faults(self) -> list[str]:
        """What axe-core finds that keeps people from using the page as it is now, in both colour schemes."""
        found = []
        for scheme in ("light", "dark"):
            self.colours(scheme)
            axe = Axe(self.browser)
            axe.inject()
            result = axe.run()
            assert len(result["passes"]) >= 8, "its rules were looked at"
            found += [
                f"{scheme}: {fault['id']} {node['target']} {node['failureSummary']}"
                for fault in result["violations"]
                for node in fault["nodes"]
            ]
        self.colours("light")
        return found

    def check(self) -> None:
        """Nothing was wrong with it, nor is now; narrow at the end."""
        assert self.complaints() == []
        assert self.asked_elsewhere() == []
        assert self.faults() == []
        self.narrow()
        assert self.fits()

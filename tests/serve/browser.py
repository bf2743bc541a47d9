#!/usr/bin/env python3
"""The page of `kto serve` in headless Chromium: load, type, submit, streamed reviews; keyboard alone; examples; a phone's
width; light and dark; no JavaScript; the server's end.

    browser.py URL PID [--screenshots DIR]     PID of the server, which is ended at the end

Exit code 77 where Selenium or Chromium is missing.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

try:
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError:
    print("skipped: python3-selenium is not installed")
    sys.exit(77)
if not shutil.which("chromedriver") or not shutil.which("chromium"):
    print("skipped: chromium and chromium-driver are not installed")
    sys.exit(77)

TITLE = "Towards <b>sleep</b> staging & \"rest\" with pruning"


def browser(javascript=True):
    options = webdriver.ChromeOptions()
    for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1100,800"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


class Page:
    def __init__(self, driver, url, screenshots):
        self.driver, self.url, self.screenshots = driver, url, screenshots

    def get(self, path=""):
        self.driver.get(self.url + path)

    def element(self, name):
        return self.driver.find_element(By.ID, name)

    def text(self, name):
        return self.element(name).text

    def shot(self, name):
        if self.screenshots:
            self.driver.save_screenshot(str(self.screenshots / f"{name}.png"))

    def wait(self, what, condition, seconds=30):
        try:
            # Elements go stale while one page takes another's place.
            waiting = WebDriverWait(self.driver, seconds, poll_frequency=0.01, ignored_exceptions=[WebDriverException])
            waiting.until(lambda _: condition())
        except Exception as problem:
            self.shot("failed")
            raise AssertionError(f"{what}: does not happen within {seconds} s; error shown: {self.text('error')!r}") from problem

    def whole(self):
        return (
            self.element("answers").get_attribute("aria-busy") == "false"
            and self.element("submit").is_enabled()
            and len(self.text("tuned")) > 10
            and len(self.text("base")) > 10
        )


def typed(page):
    page.get()
    assert page.driver.title == "Reviewer #2", page.driver.title
    assert not page.element("answers").is_displayed() and not page.element("error").is_displayed()
    page.shot("start")
    assert page.driver.switch_to.active_element.get_attribute("id") == "title", "the title has no focus"
    page.element("title").send_keys(TITLE)
    # Each piece of the answer changes the page by itself. So small a model may answer faster than it is asked for the next
    # piece, but not every time.
    page.driver.execute_script(
        "window.changes = 0; new MutationObserver((records) => { window.changes += records.length; })"
        ".observe(document.getElementById('tuned'), {childList: true, characterData: true, subtree: true});"
    )
    most = 0
    for _ in range(20):
        page.driver.execute_script("window.changes = 0")
        page.element("submit").click()
        page.wait("a review", page.whole)
        most = max(most, page.driver.execute_script("return window.changes"))
        if most >= 5:
            break
    assert most >= 5, f"the review came in {most} pieces at most"
    assert page.text("tuned").startswith("Re") or page.text("tuned").startswith("Accept"), page.text("tuned")
    page.shot("review")


def keyboard(page):
    page.get()
    page.driver.switch_to.active_element.send_keys("Beyond pruning" + Keys.ENTER)
    page.wait("a review by the enter key", page.whole)
    first = page.text("tuned")
    # Tab to the first example and press it.
    active = page.driver.switch_to.active_element
    for _ in range(4):
        active.send_keys(Keys.TAB)
        active = page.driver.switch_to.active_element
        if "example" in (active.get_attribute("class") or ""):
            break
    example = active.get_attribute("value")
    active.send_keys(Keys.ENTER)
    page.wait("an example's review", lambda: page.element("title").get_attribute("value") == example and page.whole())
    assert page.text("tuned") != first


def narrow_and_dark(page):
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    page.get()
    page.element("title").send_keys("A very long title about " + "unbreakable" * 30 + Keys.ENTER)
    page.wait("a review on a phone", page.whole)
    width = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"the page is wider than a phone: {width}"
    background = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background != "rgb(251, 250, 247)", "dark is not dark"
    page.shot("phone-dark")
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def without_javascript(url, screenshots):
    driver = browser(javascript=False)
    try:
        page = Page(driver, url, screenshots)
        page.get()
        page.element("title").send_keys(TITLE)
        page.element("submit").click()
        page.wait("a review without JavaScript", page.whole)
        assert page.element("title").get_attribute("value") == TITLE
        assert "&lt;" in driver.page_source and "<b>sleep" not in driver.page_source
        page.shot("plain-form")
        driver.find_element(By.CLASS_NAME, "example").click()
        page.wait("an example without JavaScript", page.whole)
        assert page.element("title").get_attribute("value") not in ("", TITLE)
    finally:
        driver.quit()


def the_end(page, pid):
    page.get()
    os.kill(pid, signal.SIGTERM)
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    page.element("title").send_keys("Too late" + Keys.ENTER)
    page.wait("an error", lambda: page.element("error").is_displayed())
    assert page.text("error") == "the server does not answer", page.text("error")
    assert page.element("submit").is_enabled()
    page.shot("error")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("pid", type=int)
    parser.add_argument("--screenshots", type=Path)
    arguments = parser.parse_args()
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    driver = browser()
    try:
        page = Page(driver, arguments.url, arguments.screenshots)
        typed(page)
        keyboard(page)
        narrow_and_dark(page)
        without_javascript(arguments.url, arguments.screenshots)
        problems = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]
        assert not problems, problems
        the_end(page, arguments.pid)
    finally:
        driver.quit()
    print("page: typed, keyboard, phone, dark, without JavaScript, the server's end")


main()

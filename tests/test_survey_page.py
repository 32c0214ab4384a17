"""The page in a browser, driven through WebDriver; skipped where Chromium is absent."""

import json
import shutil
import subprocess
import time
import urllib.request

import pytest

from augmint.data.phantoms import make_phantoms
from augmint.generate import generate
from augmint.progress import Talk
from augmint.survey import score_survey, survey
from augmint.survey.answers import open_key

COUNT = 12
ENTER, BACKSPACE, LEFT, RIGHT, TAB = "\ue007", "\ue003", "\ue012", "\ue014", "\ue004"
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync",
    "window-size=1100,800",
)  # fmt: skip


def until(wanted, what, seconds=20):
    """What `wanted` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := wanted()):
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.02)
    return found


class Browser:
    """A few words of WebDriver to a chromedriver of our own."""

    def __init__(self, folder):
        self.downloads = folder / "downloads"
        self.downloads.mkdir()
        self.log = (folder / "driver.log").open("w+")
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=self.log)
        port = until(lambda: self._port(folder), "chromedriver")
        self.address = f"http://127.0.0.1:{port}/session"
        arguments = [f"--{flag}" for flag in FLAGS] + [f"--user-data-dir={folder / 'profile'}"]
        options = {
            "args": arguments,
            "prefs": {"download.default_directory": str(self.downloads)},
        }
        asked = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        started = self("POST", "", capabilities={"alwaysMatch": asked})
        self.address += "/" + started["sessionId"]

    def _port(self, folder):
        text = (folder / "driver.log").read_text()
        return text.partition("successfully on port ")[2].partition(".")[0].strip()

    def __call__(self, verb, path, **body):
        data = json.dumps(body).encode() if verb == "POST" else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers, method=verb)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def script(self, text):
        return self("POST", "/execute/sync", script=text, args=[])

    def press(self, *keys):
        steps = [{"type": t, "value": k} for k in keys for t in ("keyDown", "keyUp")]
        self("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": steps}])

    def click(self, selector):
        self.script(f"document.querySelector({json.dumps(selector)}).click()")

    def shown(self, selector):
        """The text of an element that is in view, else nothing."""
        found = f"document.querySelector({json.dumps(selector)})"
        return self.script(f"const e = {found}; return e.offsetParent ? e.innerText.trim() : ''")

    def close(self):
        try:
            self("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(20)
            self.log.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    quiet = Talk(quiet=True)
    make_phantoms("apical-ultrasound", out=folder / "real", patients=4, size=48)
    generate("warped_pairs", folder / "real", folder / "made", copies=1, preset="demo", talk=quiet)
    return survey(folder / "made", folder / "real", folder / "out", images=COUNT, talk=quiet)


@pytest.fixture
def browser(tmp_path):
    if not (shutil.which("chromedriver") and shutil.which("chromium")):
        pytest.skip("no chromium and chromedriver on this machine")
    one = Browser(tmp_path)
    yield one
    one.close()


@pytest.fixture
def page(browser, made):
    """The page in the browser, opened from its file, no reader named yet."""
    browser("POST", "/url", url=(made / "survey.html").as_uri())
    return browser


def begin(page, reader):
    page.script("document.getElementById('reader').focus()")
    page.press(*reader, ENTER)


def at(page, place):
    """Wait until the frame at a place stands and answers are taken."""
    until(lambda: page.shown("#count") == f"{place} of {COUNT}", f"frame {place}")
    until(lambda: page.script("return ready"), f"frame {place} in view")


def current(page):
    return page.script("return current().id")


def saved(page, name):
    path = page.downloads / name
    until(path.exists, name)
    return path


def test_from_the_first_frame_to_the_scored_answers_with_the_keyboard_alone(page, made):
    kinds = {name: frame["kind"] for name, frame in open_key(made).frames.items()}
    begin(page, "Anna B.")
    wrong = {3, 8}
    keys = {"real": "rR" + LEFT, "generated": "gG" + RIGHT}
    given = {}
    for place in range(1, COUNT + 1):
        at(page, place)
        name = current(page)
        truth = kinds[name]
        said = truth if place not in wrong else {"real": "generated", "generated": "real"}[truth]
        given[name] = said
        page.press(keys[said][place % 3])
    until(lambda: page.shown("#end h1") == "Thank you", "the end")
    page.press(ENTER)  # the button that saves has the focus
    path = saved(page, "answers-Anna-B.json")
    content = json.loads(path.read_text())
    assert {a["id"]: a["answer"] for a in content["answers"]} == given
    assert [a["place"] for a in content["answers"]] == list(range(1, COUNT + 1))
    result = score_survey([path], made)
    (anna,) = result.readers
    assert (anna.reader, anna.answered, anna.missing) == ("Anna B.", COUNT, 0)
    assert anna.correct == COUNT - len(wrong)
    assert 0 < anna.seconds < 20


def test_a_reload_goes_on_where_it_stopped_and_another_reader_starts_anew(page, made):
    begin(page, "Ben")
    seen = []
    for place in (1, 2, 3):
        at(page, place)
        seen.append(current(page))
        page.press("g")
    at(page, 4)
    fourth = current(page)
    page("POST", "/refresh")
    begin(page, "ben")  # names are the same in small letters
    at(page, 4)
    assert current(page) == fourth
    page.click("#reading .save")
    content = json.loads(saved(page, "answers-Ben.json").read_text())
    assert [a["id"] for a in content["answers"]] == seen
    result = score_survey([page.downloads / "answers-Ben.json"], made)
    assert result.readers[0].missing == COUNT - 3
    page("POST", "/refresh")
    begin(page, "Cleo")
    at(page, 1)


def test_backspace_takes_the_last_answer_back_and_its_time_counts_on(page):
    begin(page, "Dora")
    at(page, 1)
    page.press(BACKSPACE)  # nothing to take back
    at(page, 1)
    first = current(page)
    time.sleep(0.4)
    page.press("r")
    at(page, 2)
    page.press(BACKSPACE)
    at(page, 1)
    assert current(page) == first
    page.press("g")
    at(page, 2)
    page.click("#reading .save")
    (answer,) = json.loads(saved(page, "answers-Dora.json").read_text())["answers"]
    assert (answer["id"], answer["answer"]) == (first, "generated")
    assert answer["milliseconds"] >= 400


def test_the_last_answer_can_be_taken_back_from_the_end(page):
    begin(page, "Eve")
    for place in range(1, COUNT + 1):
        at(page, place)
        page.press("r")
    until(lambda: page.shown("#end h1"), "the end")
    page.press(BACKSPACE)
    at(page, COUNT)
    page.press("g")
    until(lambda: page.shown("#end h1"), "the end")
    page.click("#end .save")
    content = json.loads(saved(page, "answers-Eve.json").read_text())
    assert [a["answer"] for a in content["answers"]] == ["real"] * (COUNT - 1) + ["generated"]


def test_readers_see_the_same_frames_in_orders_of_their_own(page):
    orders = {}
    for reader in ("Finn", "Gus"):
        begin(page, reader)
        at(page, 1)
        orders[reader] = page.script("return order.map(frame => frame.id)")
        page("POST", "/refresh")
    assert orders["Finn"] != orders["Gus"]
    assert sorted(orders["Finn"]) == sorted(orders["Gus"])


def test_time_runs_only_while_the_page_is_in_view(page):
    begin(page, "Hal")
    at(page, 1)
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    tell = "document.dispatchEvent(new Event('visibilitychange'));"
    page.script(hide % "true" + tell)
    time.sleep(0.8)
    spent = page.script("return [since, state.spent[current().id]]")
    assert spent[0] is None
    assert spent[1] < 800
    page.script(hide % "false" + tell)
    page.press("r")
    at(page, 2)
    assert page.script("return state.answers[0].milliseconds") < 800


def test_the_page_begins_only_with_a_name_and_typing_it_answers_nothing(page):
    begin(page, "")
    assert page.shown("#start h1")
    begin(page, "Gregor")
    at(page, 1)
    assert page.script("return state.answers.length") == 0


def test_buttons_answer_and_can_be_reached_by_the_tabulator(page):
    begin(page, "Ida")
    at(page, 1)
    labels = []
    for _ in range(3):
        page.press(TAB)
        labels.append(page.script("return document.activeElement.innerText.split('\\n')[0]"))
    assert [label.split()[0] for label in labels] == ["Save", "Real", "Generated"]
    page.press(ENTER)
    at(page, 2)
    assert page.script("return state.answers[0].answer") == "generated"
    page.click("#real")
    at(page, 3)
    assert page.script("return document.getElementById('frame').alt") == f"Image 3 of {COUNT}"


def test_nothing_is_asked_of_a_network_and_nothing_fails(page):
    begin(page, "Jo")
    at(page, 1)
    page.press("r")
    at(page, 2)
    page.click("#reading .save")
    saved(page, "answers-Jo.json")
    events = [
        json.loads(entry["message"])["message"]
        for entry in page("POST", "/se/log", type="performance")
    ]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked = [one["request"]["url"] for one in sent if one["documentURL"].startswith("file:")]
    assert {url.partition(":")[0] for url in asked} == {"file", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1
    assert page("POST", "/se/log", type="browser") == []


def test_the_frame_is_square_and_in_view_without_scrolling(page):
    begin(page, "Kim")
    at(page, 1)
    box = page.script(
        "const b = document.getElementById('frame').getBoundingClientRect();"
        "return [b.width, b.height, b.top, b.bottom, innerHeight, b.left, b.right, innerWidth]"
    )
    width, height, top, bottom, high, left, right, wide = box
    assert width == height > 300
    assert 0 <= top < bottom <= high
    assert 0 <= left < right <= wide

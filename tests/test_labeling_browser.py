"""The labeling page in a real browser: a person's work by keys and by touch, and what is left of it after a crash."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from browser import defects, opened
from labeling_person import ALL_SENT, KEYS, Person, reads
from labeling_projects import make_folder
from labeling_served import port_of, started, suggested
from PIL import Image

from labeling.log import read_log, standing


class Place:
    """A folder, and its page served from a process."""

    def __init__(self, tmp_path, n=60, classes=("duck", "gull", "heron")):
        self.root = make_folder(tmp_path / "DATA" / "birds", n)
        self.results = tmp_path / "results"
        self.classes = classes

    def served(self, *flags, port=0):
        return started(self.root, self.results, port, *self.classes, *flags)

    @property
    def log(self):
        return read_log(self.results / "labeling" / "birds" / "labels.csv")

    def standing(self, annotator="Ada"):
        """(path, action, label) of what stands, in any order."""
        votes = standing(self.log).votes
        found = [v[annotator] for v in votes.values() if annotator in v]
        return sorted((d.path, d.action, self.classes.index(d.label) if d.label else None) for d in found)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def url(place):
    """The address of a page."""
    with place.served() as (address, _):
        yield address


WINDOWS = pytest.mark.parametrize(("width", "touch"), [(1280, False), (390, True)], ids=["keys", "touch"])


@WINDOWS
def test_a_person_labels_undoes_skips_and_checks_a_grid(chromium, place, url, width, touch):
    with opened(chromium, url, width, touch=touch) as visit:
        ada = Person(visit, "Ada", touch)
        for k in range(30):
            ada.label()
            if k % 10 == 9:
                ada.undo()
            if k % 10 == 5:
                ada.command("skip", "s")
        ada.command("unsure", "u")
        ada.settled()
        assert place.standing() == sorted(ada.done)
        assert [d.action for d in place.log].count("undo") == 3

        visit.page.wait_for_selector("#curve circle")  # it was trained and measured
        reads(visit.page, "#next", "MarginSampling")
        images = ada.open_grid()
        assert len(images) == 12
        suggestion = {suggested(i, 3) for i in images}
        assert len(suggestion) == 1
        wrong = [b for b in visit.page.locator("#thumbs button").all()][3:5]
        for button in wrong:
            button.tap() if touch else button.click()
            assert button.get_attribute("aria-pressed") == "true"
        marked = [int(b.get_attribute("data-index")) for b in wrong]
        ada.do("#marked-classes [data-class='2']", "3")
        visit.page.wait_for_function("() => document.querySelectorAll('#thumbs button').length === 10")
        ada.do("#accept-all", "Enter")
        ada.settled()
        ada.done += [(f"unlabeled/{i:03}.png", "label", 2 if i in marked else min(suggestion)) for i in images]
        assert place.standing() == sorted(ada.done)
        visit.page.wait_for_selector("#sheet[data-ready=true]")
        ada.do("#grid", "g")
        ada.wait()
        assert defects(visit) == []


def test_the_marked_images_of_a_grid_come_one_by_one(chromium, place, url):
    with opened(chromium, url) as visit:
        ada = Person(visit, "Ada")
        for _ in range(34):
            ada.label()
        visit.page.wait_for_selector("#curve circle")
        images = ada.open_grid()
        visit.page.keyboard.press("ArrowRight")
        visit.page.keyboard.press("Space")
        visit.page.keyboard.press("Enter")
        assert ada.wait() == str(images[1])
        ada.label()
        ada.settled()
        expected = {f"unlabeled/{i:03}.png" for i in images}
        assert {path for path, _, _ in place.standing()} == expected | {path for path, _, _ in ada.done}
        ada.undo()
        assert visit.problems == []


def test_answers_survive_a_killed_server(chromium, place):
    with contextlib.ExitStack() as stack:
        url, process = stack.enter_context(place.served())
        visit = stack.enter_context(opened(chromium, url))
        ada, page = Person(visit, "Ada"), visit.page
        for _ in range(5):
            ada.label()
        ada.settled()
        acknowledged = sorted(ada.done)
        process.send_signal(signal.SIGKILL)
        process.wait()
        ada.label()
        reads(page, "#connection", "your last answer is kept")
        ada.label()
        reads(page, "#connection", "last 2 answers are kept")
        assert place.standing() == acknowledged
        ada.do("#undo", "Backspace")
        reads(page, "#notice", "when the server is back")

        again, _ = stack.enter_context(place.served(port=port_of(url)))
        assert again != url
        reads(page, "#notice", "was started again")
        assert page.inner_text("#notice").endswith("2 answers not sent yet are kept in this browser and sent then.")
        page.keyboard.press("1")
        assert page.locator("main button:not([disabled])").count() == 0
        assert place.standing() == acknowledged
        page.goto(again)  # in the same tab only the fragment differs
        later = Person(visit)
        later.settled()
        assert place.standing() == sorted(ada.done)
        assert len(place.log) == 7  # none of them twice
        assert "2 answers of an earlier page" in page.inner_text("#notice")
        later.label()
        later.settled()
        assert place.standing() == sorted(ada.done + later.done)
        assert [p for p in visit.problems if "ERR_CONNECTION_REFUSED" not in p and "403" not in p] == []


def test_an_answer_whose_acknowledgement_is_lost_is_recorded_once(chromium, place, url):
    with opened(chromium, url) as visit:
        ada, lost = Person(visit, "Ada"), []

        def lose(route):
            lost.append(route.fetch().status)
            route.abort() if len(lost) < 3 else route.fulfill(status=200, json={"recorded": 1})

        visit.page.route("**/api/answers", lose)
        ada.label()
        ada.settled()
        assert lost == [200, 200, 200]
        assert place.standing() == ada.done
        assert len(place.log) == 1


def test_an_answer_counts_only_when_it_is_acknowledged(chromium, place, url):
    """It is shown as answered at once, and kept; another page of the same browser sends it once this one is closed."""
    with opened(chromium, url) as visit:
        ada = Person(visit, "Ada")
        visit.page.route("**/api/answers", lambda route: route.fulfill(status=503, json={"error": "disk full."}))
        ada.label()
        ada.label()
        reads(visit.page, "#connection", "disk full")
        beside = visit.page.context.new_page()
        beside.goto(url)
        beside.wait_for_selector("#single[data-shown]")
        beside.wait_for_timeout(300)
        assert place.log == []  # they are those of a page that is open
        visit.page.close()
        beside.wait_for_function(ALL_SENT)
        assert [(d.path, d.label) for d in place.log] == [(p, place.classes[c]) for p, _, c in ada.done]


def test_a_refused_answer_is_named_and_blocks_no_other(chromium, place, url):
    with opened(chromium, url) as visit:
        ada = Person(visit, "Ada")
        bad = '{annotator: "Ada", key: "0", action: "label", label: "owl", seconds: 1, at: 1}'
        visit.page.evaluate(f"localStorage.setItem('dalmax.unsent.birds.x', JSON.stringify([{bad}]))")
        reads(visit.page, "#notice", "refused: owl")
        ada.label()
        ada.settled()
        assert place.standing() == ada.done


def test_two_people_never_get_the_same_image(chromium, place, url):
    with opened(chromium, url) as one, opened(chromium, url) as two:
        ada, bob = Person(one, "Ada"), Person(two, "Bob")
        for _ in range(12):
            ada.label()
            bob.label()
        ada.settled(), bob.settled()
        assert {d.annotator for d in place.log} == {"Ada", "Bob"}
        assert len({d.path for d in place.log}) == len(place.log) == 24
        assert one.problems + two.problems == []


def test_the_next_images_are_there_before_they_are_needed(chromium, url):
    with opened(chromium, url) as visit:
        ada = Person(visit, "Ada")
        visit.page.wait_for_load_state("networkidle")
        visit.page.route("**/api/images/*", lambda route: None)  # never answered
        for _ in range(5):
            ada.label()


def test_images_are_kept_from_others_while_the_page_is_open(chromium, url):
    with opened(chromium, url) as visit:
        visit.page.clock.install()
        visit.page.reload()
        Person(visit, "Ada")
        visit.page.wait_for_load_state("networkidle")
        visit.page.clock.fast_forward(60_000)
        visit.page.wait_for_load_state("networkidle")
        with visit.page.expect_request("**/api/items?*"):
            visit.page.clock.fast_forward(70_000)


def test_a_key_that_is_held_labels_one_image(chromium, place, url):
    with opened(chromium, url) as visit:
        ada = Person(visit, "Ada")
        i = str(ada.index)
        for _ in range(10):
            visit.page.keyboard.down("1")
        ada.wait(i)
        visit.page.wait_for_timeout(100)
        visit.page.keyboard.up("1")
        ada.settled()
        assert len(place.log) == 1


def test_keys_count_for_the_image_that_can_be_seen(chromium, place, url):
    with opened(chromium, url) as visit:
        held, holding = [], [True]
        visit.page.route("**/api/images/*", lambda r: held.append(r) if holding else r.continue_())
        visit.page.fill("#name", "Ada")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#single[data-index]")
        for key in ("1", "s", "Enter"):
            visit.page.keyboard.press(key)
        visit.page.wait_for_timeout(100)
        assert place.log == []
        holding.clear()
        for route in held:
            route.continue_()
        visit.page.wait_for_selector("#single[data-shown]")


def test_a_suggestion_is_accepted_by_one_key(chromium, place, url):
    with opened(chromium, url) as visit:
        ada = Person(visit, "Ada")
        visit.page.keyboard.press("Enter")  # there is no suggestion yet
        for _ in range(40):
            ada.label()
        while visit.page.locator("#accept").is_hidden():
            ada.label()
        i, path = ada.index, ada.path
        expected = suggested(i, 3)
        assert f"Suggested: {place.classes[expected]}, " in visit.page.inner_text("#accept")
        visit.page.keyboard.press("Enter")
        ada.wait(str(i))
        ada.settled()
        assert (path, "label", expected) in place.standing()
        last = place.log[-1]
        assert last.suggestion == place.classes[expected]
        assert 0 <= float(last.seconds) < 5


def test_a_clicked_button_is_not_pressed_again_by_enter(chromium, place, url):
    with opened(chromium, url) as visit:
        ada = Person(visit, "Ada")
        i = str(ada.index)
        visit.page.click("#classes [data-class='1']")
        ada.wait(i)
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_timeout(150)
        ada.settled()
        assert len(place.log) == 1
        j = str(ada.index)
        visit.page.focus("#classes [data-class='2']")
        visit.page.keyboard.press("Tab")
        visit.page.keyboard.press("Shift+Tab")
        visit.page.keyboard.press("Enter")  # as people do who have no mouse
        ada.wait(j)
        ada.settled()
        assert [d.label for d in place.log] == ["gull", "heron"]


def test_blind_people_get_no_suggestions(chromium, place):
    with place.served("--blind", "--annotator", "Ada") as (url, _), opened(chromium, url) as visit:
        ada = Person(visit)
        for _ in range(34):
            ada.label()
        visit.page.wait_for_selector("#curve circle")
        ada.label()
        assert visit.page.locator("#accept").is_hidden()
        assert visit.page.locator("#grid").is_hidden()
        visit.page.keyboard.press("g")
        assert visit.page.locator("#sheet").is_hidden()
        ada.settled()
        assert {d.suggestion for d in place.log} == {""}


def test_a_name_is_asked_once_and_the_token_leaves_the_address(chromium, url):
    with opened(chromium, url) as visit:
        Person(visit, "Ada")
        assert visit.page.url == url.partition("#")[0]
        visit.page.reload()
        Person(visit)
        assert visit.page.inner_text("#who") == "You are Ada"
        other = visit.page.context.new_page()
        other.goto(url.partition("#")[0])
        reads(other, "#notice", "Open the address")
        visit.page.click("#who")
        Person(visit, "Bob")
        assert visit.page.inner_text("#who") == "You are Bob"
        assert visit.problems == []


CLASSES = [f"class {i:02}" for i in range(38)] + ['"><img src=x onerror=alert(1)>', "It's <b>Bold<|b>"]


def test_many_classes_with_any_name_are_found(chromium, tmp_path):
    place = Place(tmp_path, classes=CLASSES)
    with place.served("--annotator", "Ada") as (url, _), opened(chromium, url, 390) as visit:
        ada, page = Person(visit), visit.page
        buttons = page.locator("#classes button")
        keys = {b.get_attribute("data-class"): b.inner_text().split("\n")[-1] for b in buttons.all()}
        assert buttons.count() == 40
        hints = page.locator("#classes button").evaluate_all("e => e.map(b => b.getAttribute('aria-keyshortcuts'))")
        assert hints == [*KEYS, *[None] * 8]
        i = str(ada.index)
        page.keyboard.press("/")
        page.keyboard.type("ONERROR")
        assert page.locator("#classes button:visible").all_inner_texts() == [CLASSES[38]]
        page.keyboard.press("Enter")
        i = ada.wait(i)
        page.keyboard.press("Enter")  # not again: there is no suggestion yet, and the search is over
        page.keyboard.press("/")
        page.keyboard.type("nothing like this")
        page.keyboard.press("Enter")
        assert ada.index == int(i)
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.keyboard.type("it's <B>b")
        assert page.locator("#classes button:visible").all_inner_texts() == [CLASSES[39]]
        page.keyboard.press("Escape")
        assert page.locator("#classes button:visible").count() == 40
        ada.label(31)  # z
        for k in range(40):
            ada.label(k % 2)
        page.wait_for_selector("#curve circle")
        while page.locator("#accept").is_hidden():
            ada.label(0)
        first = [int(b.get_attribute("data-class")) for b in buttons.all()][:3]
        assert first[0] == suggested(ada.index, 40)  # the most probable first
        assert {b.get_attribute("data-class"): b.inner_text().split("\n")[-1] for b in buttons.all()} == keys
        while int(buttons.first.get_attribute("data-class")) == 0:
            ada.label(3)
        ada.label(0)  # whose button is no more the first one
        ada.settled()
        assert place.log[0].label == CLASSES[38]
        assert place.log[-1].label == CLASSES[0]
        assert defects(visit) == []


def test_unreadable_images_say_why_and_are_never_accepted(chromium, place):
    for i in (0, 59):
        (place.root / "unlabeled" / f"{i:03}.png").write_text("<svg onload=alert(1)>")
    os.rename(place.root / "unlabeled" / "001.png", place.root / "unlabeled" / "<img src=x onerror=alert(1)>.png")
    Image.new("RGB", (9, 9)).save(place.root / "unlabeled" / "é\u202e.png")
    with place.served("--annotator", "Ada") as (url, _), opened(chromium, url) as visit:
        ada, page, seen = Person(visit), visit.page, {}
        for _ in range(36):
            i = page.get_attribute("#single", "data-shown")
            seen[page.inner_text("#path")] = page.inner_text("#no-image") if page.is_visible("#no-image") else ""
            page.keyboard.press("s" if page.is_visible("#no-image") else str(int(i) % 3 + 1))
            ada.wait(i)
        page.wait_for_selector("#curve circle")
        reasons = {path: why for path, why in seen.items() if why}
        assert [*reasons] == ["unlabeled/000.png"]
        assert "cannot be read: cannot identify image file" in reasons["unlabeled/000.png"]
        ada.open_grid()
        page.select_option("#group", str(suggested(58, 3)))
        page.wait_for_selector("#sheet[data-ready=true] [data-index='58']")  # 059.png: 001.png has another name
        marked = page.locator("#thumbs [aria-pressed=true]")
        assert marked.get_attribute("data-index") == "58"
        assert "cannot be read: cannot identify" in marked.inner_text()
        page.keyboard.press("1")  # nobody has seen it
        page.keyboard.press("Enter")
        ada.wait()
        assert ada.index == 58
        ada.settled()
        assert "unlabeled/059.png" not in {d.path for d in place.log}
        assert visit.problems == []


NAMED = """() => [...document.querySelectorAll('button, input, select, img, dialog, section, nav, aside, svg')]
    .filter(e => e.checkVisibility() && e.closest('#thumbs img') === null)
    .filter(e => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim() || e.labels?.length))
    .map(e => e.outerHTML)"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_each_state_of_the_page_is_in_order(chromium, place, width, dark):
    with place.served() as (url, process), opened(chromium, url, width, dark, touch=width < 500) as visit:
        page = visit.page
        page.wait_for_selector("#ask:not([hidden])")
        assert defects(visit) == []
        ada = Person(visit, "Ada")
        assert defects(visit) == []
        for _ in range(34):
            ada.label()
        page.wait_for_selector("#curve circle")
        assert defects(visit) == []
        assert page.evaluate(NAMED) == []
        position = page.get_attribute("#image", "alt")
        assert position == "Image 35"
        assert page.inner_text("#live").startswith("Image 35.")
        targets = page.locator("main button:visible").evaluate_all("e => e.map(b => b.getBoundingClientRect().height)")
        assert min(targets) >= 44
        ada.open_grid()
        page.locator("#thumbs button").nth(1).click()
        assert defects(visit) == []
        assert page.evaluate(NAMED) == []
        page.keyboard.press("?")
        assert page.locator("#keys dt:visible").count() == 10
        assert page.locator("#close-keys").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        ada.wait()
        process.kill()
        page.wait_for_selector("#connection.bad")
        left = [d for d in defects(visit) if "ERR_CONNECTION_REFUSED" not in d]
        assert left == []


def test_the_script_puts_text_into_the_page_as_text():
    text = (Path(__file__).parent.parent / "labeling" / "templates" / "label.js").read_text("utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "http"):
        assert word not in text.replace("http://www.w3.org/2000/svg", ""), word

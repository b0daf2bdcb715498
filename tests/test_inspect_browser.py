"""The page of ``tutorkd inspect`` in a real browser, served and as a file: the same but for sentences of one's own."""

import threading
import time

import pytest
import uvicorn
from browser import CONTRASTS, DRAWN, MARKS, TEXT, watched

from tutorkd.errors import UserError
from tutorkd.examples import Replacement
from tutorkd.inspection.page import page
from tutorkd.inspection.sentences import Sentence
from tutorkd.inspection.server import HOST, application, listen
from tutorkd.inspection.states import State
from tutorkd.inspection.tutoring import Candidate, Position, Tutored, as_data

pytestmark = MARKS
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
STATES = ["step 20", "step 40", "step 60 (the end)"]


def position(reward_teacher: float, reward_student: float, original: str = "red", new: str = "blue") -> Position:
    done = Replacement(original, new, 0.25, 0.5, reward_teacher, reward_student)
    kept = original == new
    candidates = [Candidate(new, 0.625, 0.125, kept, True), Candidate("green", 0.25, 0.0005, False, False)]
    return Position(done, kept, 1.5, candidates + [Candidate(original, 0.125, 0.5, True, False)] * (not kept))


def tutored(text: str, place: int, *rewards: tuple[float, float], **words: str) -> Tutored:
    """A sentence with one masked word, and its rewards at each state."""
    pieces = [f" {word}" * bool(i) or word for i, word in enumerate(text.split())]
    sentence = Sentence([0] * len(pieces), 1, pieces, list(range(len(pieces))))
    return Tutored(sentence, [place], ["[MASK]"], [[position(*each, **words)] for each in rewards])


SENTENCES = [
    tutored("the red house", 1, (0.1, 0.2), (0.2, 0.2), (0.3, 0.2)),
    tutored("a red car", 1, (0.9, 0.0), (0.0, 0.0), (-0.9, 0.0)),
    tutored(f"one {HOSTILE}", 1, (-0.5, 0.9), (0.0, 0.9), (0.5, 0.9), original=HOSTILE, new=HOSTILE),
]


def html(served: bool, states: int = 3, sentences: list[Tutored] = SENTENCES) -> str:
    places = [State(name, 20 * number, None) for number, name in enumerate(STATES, 1)]
    cut = [each._replace(states=each.states[:states]) for each in sentences]
    return page("teacher → half", "run", "of a text", places[:states], cut, served)


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page; at the end there must have been no error and no dialog, nor anything fetched from elsewhere."""
    told, asked, contexts = [], [], []

    def show(address: str | None = None, **how):
        if address is None:
            file = tmp_path / "inspect.html"
            file.write_text(html(False), encoding="utf-8")
            address = file.as_uri()
        contexts.append(browser.new_context(**how))
        tab = watched(contexts[-1], told, asked)
        tab.goto(address)
        tab.wait_for_selector("body[data-drawn]")
        return tab

    yield show
    for context in contexts:
        context.close()
    assert [line for line in told if "status of 400" not in line] == []  # which Chromium says of any refusal
    assert all(url.startswith(("file:", f"http://{HOST}:")) for url in asked)


@pytest.fixture
def served():
    """The address of a page that is served, and what was asked."""
    asked = []

    def look(text: str, words: list[int]) -> dict:
        asked.append((text, words))
        if not text.strip():
            raise UserError("there is no word in the text")
        pieces = [f" {word}" * bool(i) or word for i, word in enumerate(text.split())]
        sentence = Sentence([], 1, pieces, list(range(len(pieces))))
        masked = [position(0.1 * place, 0.5, pieces[place].strip()) for place in words]
        return as_data(Tutored(sentence, words, ["[MASK]"] * len(words), [masked] * 3 if words else []))

    with listen(0) as listener:
        server = uvicorn.Server(uvicorn.Config(application(html(True), look), lifespan="off", log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://{HOST}:{listener.getsockname()[1]}/", asked
        server.should_exit = True
        thread.join()


def column(tab, number: int) -> list[str]:
    return tab.locator(f"#list tbody td:nth-child({number})").all_inner_texts()


def move_slider(tab, *keys: str) -> None:
    tab.locator("#slider").focus()
    for key in keys:
        tab.keyboard.press(key)


def test_a_page_shows_sentences_by_reward_and_each_position_with_its_candidates_and_figures(show):
    tab = show()
    assert tab.title() == "teacher → half | tutorkd inspect"
    assert tab.locator("#state-name").inner_text() == "step 60 (the end) (3 of 3)"
    assert column(tab, 1) == [f"one {HOSTILE}", "the red house", "a red car"]  # a name of a script stays one
    assert column(tab, 2) == ["1.40", "0.50", "-0.90"]
    tab.get_by_role("button", name="the red house").click()
    card = tab.locator("#panel .position")
    assert card.count() == 1
    assert card.locator("h3").inner_text() == "1. red → blue"
    assert card.locator(".read").inner_text() == "The tutor read [MASK] in its place."
    figures = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
    assert figures == {"R_T + R_S": "0.50", "R_T": "0.30", "R_S": "0.20", "a^T": "0.25", "a^S": "0.50", "H": "1.50"}
    rows = [
        [cell.inner_text().split("\n")[0] for cell in row.locator("td").all()] for row in card.locator("tbody tr").all()
    ]
    assert rows == [["bluedrawn", "62.5 %", "12.5 %"], ["green", "25.0 %", "<0.1 %"], ["redtext", "12.5 %", "50.0 %"]]
    assert tab.locator("#panel .sentence del").inner_text() == "red"
    assert tab.locator("#panel .sentence ins").inner_text() == "blue"
    assert tab.locator("#panel img").count() == 0
    titles = tab.locator("#distributions figcaption strong").all_inner_texts()
    assert titles == ["R_T", "R_S", "a^T", "a^S"]
    assert tab.locator(".chart svg").count() == len(titles) + 7
    assert tab.locator("#own").count() == 0  # a file has no tutor to ask


def test_the_slider_changes_the_tutor_in_every_part_of_the_page_and_headings_sort(show):
    tab = show()
    shapes = tab.locator("#distributions .chart").first.locator(".mark-rect path")
    before = [shape.get_attribute("d") for shape in shapes.all()]
    move_slider(tab, "Home")
    tab.wait_for_function("() => document.getElementById('state-name').textContent.startsWith('step 20 ')")
    assert tab.locator("#slider").get_attribute("aria-valuetext") == "step 20"
    assert column(tab, 2) == ["0.90", "0.40", "0.30"]  # sorted anew
    assert column(tab, 1)[0] == "a red car"
    means = dict(
        zip(tab.locator("#means dt").all_inner_texts(), tab.locator("#means dd").all_inner_texts(), strict=True)
    )
    assert (means["R_T"], means["x' = x"]) == ("0.17", "0.33")
    assert "-0.50" in tab.locator("#panel .figures").inner_text()  # of the sentence that was chosen
    tab.wait_for_timeout(1000)
    assert [shape.get_attribute("d") for shape in shapes.all()] != before
    tab.locator("#list th button").nth(3).click()
    assert column(tab, 4) == ["0.00", "0.20", "0.90"]
    tab.keyboard.press("Enter")  # the heading has the focus
    assert column(tab, 4) == ["0.90", "0.20", "0.00"]


def test_everything_can_be_done_by_keyboard(show, served):
    address, asked = served
    tab = show(address)
    tab.locator("#own-text").focus()
    tab.keyboard.type("my dog sleeps")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.locator("#own-words button").first.wait_for()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    tab.locator("#own-panel .position").wait_for()
    assert asked == [("my dog sleeps", []), ("my dog sleeps", [1])]
    tab.locator("#list tr[aria-current] button").focus()
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#list tr[aria-current]").inner_text().startswith("the red house")
    assert tab.evaluate("() => document.activeElement.textContent") == "the red house"
    tab.keyboard.press("End")
    assert tab.locator("#panel .sentence").inner_text().startswith("a red blue")


def test_words_of_a_sentence_of_one_s_own_are_masked_by_clicks(show, served):
    address, asked = served
    tab = show(address)
    tab.fill("#own-text", f"my {HOSTILE.replace(' ', '_')} sleeps")
    tab.get_by_role("button", name="Show its words").click()
    words = tab.locator("#own-words button")
    words.nth(2).click()
    words.nth(1).click()
    tab.locator("#own-panel .position").nth(1).wait_for()
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    assert tab.locator("#own-panel h3").nth(1).inner_text() == "2. sleeps → blue"
    words.nth(1).click()
    tab.wait_for_function("() => document.querySelectorAll('#own-panel .position').length === 1")
    assert [masked for _, masked in asked] == [[], [2], [1, 2], [2]]
    tab.fill("#own-text", " ")
    tab.get_by_role("button", name="Show its words").click()
    tab.wait_for_function("() => document.getElementById('own-status').textContent")
    assert tab.locator("#own-status").inner_text() == "there is no word in the text"
    assert tab.locator("#own-panel .position").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(show, served, scheme):
    tab = show(served[0], color_scheme=scheme)
    tab.fill("#own-text", "my dog sleeps")
    tab.get_by_role("button", name="Show its words").click()
    tab.locator("#own-words button").first.click()
    tab.locator("#own-panel .position").wait_for()
    found = tab.evaluate(CONTRASTS)
    assert len(found) > 60
    least = {"text": TEXT, "shape": DRAWN}
    assert not [each for each in found if each[1] < least[each[0]]]


def test_a_page_of_one_state_fits_a_phone(show, tmp_path):
    file = tmp_path / "one.html"
    file.write_text(html(False, states=1), encoding="utf-8")
    tab = show(file.as_uri(), viewport={"width": 360, "height": 740})
    assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
    assert tab.locator("#slider").is_disabled()
    assert tab.locator("#curves .chart").count() == 0
    assert max(chart.bounding_box()["width"] for chart in tab.locator(".chart svg").all()) <= 360

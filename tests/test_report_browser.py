"""Reports in a real browser: what is drawn, sorted, shown and refused there."""

from pathlib import Path

import pytest
from browser import CONTRASTS, DRAWN, MARKS, TEXT, watched
from commands import set_json
from report_folders import HOSTILE, HOSTILE_MODEL, LOG, write_comparison, write_evaluation, write_glue, write_run

from tutorkd.report.folders import sections
from tutorkd.report.page import page

pytestmark = MARKS


@pytest.fixture
def show(browser, tmp_path):
    """Opens the report of a folder; at the end there must have been no error, nor anything fetched."""
    told, asked, contexts = [], [], []

    def show(folder: Path, refresh: int | None = None, **how):
        file = tmp_path / "report.html"
        file.write_text(page(folder, sections(folder), refresh), encoding="utf-8")
        contexts.append(browser.new_context(**how))
        tab = watched(contexts[-1], told, asked)
        tab.goto(file.as_uri())
        tab.wait_for_selector("body[data-drawn]")
        return tab

    yield show
    for context in contexts:
        context.close()
    assert told == []
    assert set(asked) == {(tmp_path / "report.html").as_uri()}


def column(table, number: int) -> list[str]:
    return table.locator(f"tbody td:nth-child({number})").all_inner_texts()


def test_every_figure_of_a_run_is_drawn_with_its_axis(show, tmp_path):
    tab = show(write_run(tmp_path / "run"))
    assert tab.title() == "org/teacher → thin | tutorkd report"
    titles = tab.locator("figcaption strong").all_inner_texts()
    assert titles == ["loss", "L_pol", "probe AUC", "R_T", "tok/s", "lr"]
    assert tab.locator(".chart svg").count() == len(titles)
    for chart in tab.locator(".chart svg").all():
        assert chart.bounding_box()["width"] > 200
        assert "step" in chart.locator("text").all_text_contents()
    assert "tutorkd distill --learning_rate" not in tab.locator("pre").inner_text()  # a default
    assert (
        tab.locator("pre")
        .inner_text()
        .startswith("tutorkd distill --max_steps 10 --method tutor-kd --teacher org/teacher")
    )


def test_tables_are_sorted_by_click_and_by_keyboard_with_what_isn_t_there_last(show, tmp_path):
    tab = show(write_comparison(tmp_path / "comparison"))
    table = tab.locator(".text table")
    headings = table.locator("th").all_inner_texts()
    training = next(i for i, text in enumerate(headings) if text.startswith("training"))
    assert column(table, training + 1) == ["-", "1 min 30 s", "10 min 5 s"]
    button = table.locator("th button").nth(training)
    button.click()
    assert column(table, training + 1) == ["1 min 30 s", "10 min 5 s", "-"]
    assert table.locator("th").nth(training).get_attribute("aria-sort") == "ascending"
    tab.keyboard.press("Enter")  # the button has the focus
    assert column(table, training + 1) == ["10 min 5 s", "1 min 30 s", "-"]
    assert table.locator("th").nth(training).get_attribute("aria-sort") == "descending"
    for _ in range(training):
        tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Space")
    assert column(table, 1) == ["costly", "plain", "teacher"]
    assert table.locator("th[aria-sort]").count() == 1


def test_curves_are_smoothed_and_their_scale_changed(show, tmp_path):
    log = [{"step": step, "loss": 10.0 if step % 2 else 1.0, "loss_policy": -1.0} for step in range(1, 41)]
    tab = show(write_run(tmp_path / "run", log=log))
    line = tab.locator(".chart").first.locator("path[stroke-width='2']").first

    def ticks(chart: int) -> list[str]:
        return tab.locator(".chart").nth(chart).locator("text").all_text_contents()

    rough, linear, other = line.get_attribute("d"), ticks(0), ticks(1)
    assert {"10", "-1"} <= {text.replace("−", "-").removesuffix(".0") for text in (*linear, *other)}  # noqa: RUF001
    tab.select_option("select[name=smoothing]", "7")
    tab.wait_for_timeout(500)
    assert line.get_attribute("d") != rough
    tab.check("input[name=logarithmic]")
    tab.wait_for_timeout(500)
    assert ticks(0) != linear
    assert ticks(1) == other  # a loss below 0 has no logarithm
    assert tab.locator(".chart svg").count() == 2


def test_a_smoothed_line_has_means_over_neighbours_and_keeps_its_ends(show, tmp_path):
    tab = show(write_run(tmp_path / "run"))
    rows = [{"series": name, "value": value} for name in "ab" for value in (1, 4, 10, 4)]
    for half, smooth in ((0, [1, 4, 10, 4]), (1, [1, 5, 6, 4]), (7, [1, 5, 6, 4])):
        found = tab.evaluate("([rows, half]) => smoothed(rows, half)", [rows, half])
        assert [row["smooth"] for row in found] == smooth * 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("write", [write_run, write_comparison, write_evaluation, write_glue])
def test_text_and_lines_stand_out_from_what_is_behind_them(show, tmp_path, write, scheme):
    tab = show(write(tmp_path / "folder"), color_scheme=scheme)
    for details in tab.locator("summary").all():
        details.click()
    dark = tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
    found = tab.evaluate(CONTRASTS)
    assert len(found) > 30
    least = {"text": TEXT, "shape": DRAWN}
    assert not [each for each in found if each[1] < least[each[0]]]


def test_a_page_fits_a_phone_and_a_sheet_of_paper(show, tmp_path):
    (tmp_path / "all").mkdir()
    for write in (write_run, write_comparison, write_evaluation, write_glue):
        write(tmp_path / "all" / write.__name__)
    tab = show(tmp_path / "all", viewport={"width": 360, "height": 740})
    assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
    assert max(chart.bounding_box()["width"] for chart in tab.locator(".chart svg").all()) <= 360
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator(".controls").first.is_visible()


@pytest.mark.parametrize("write", [write_run, write_comparison, write_evaluation, write_glue])
def test_a_name_that_is_a_script_is_read_and_not_run(show, tmp_path, write):
    hostile = HOSTILE_MODEL if write is write_evaluation else HOSTILE
    given = {
        write_run: {"teacher": HOSTILE, "log": [*LOG, {"step": 3, HOSTILE: 1.0}, {"step": 4, HOSTILE: 2.0}]},
        write_comparison: {"names": (HOSTILE, "b")},
        write_evaluation: {"names": (hostile,)},
        write_glue: {"title": HOSTILE},
    }[write]
    tab = show(write(tmp_path / "folder", **given))
    assert hostile in tab.locator("main").inner_text()
    assert tab.locator("main img").count() == 0
    if write is not write_run:
        tab.locator(".mark-symbol path, .mark-rect path").first.hover()
        tooltip = tab.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert hostile in tooltip.inner_text()
        assert tooltip.locator("img, script").count() == 0


def test_a_script_that_got_into_a_page_would_not_run(browser, tmp_path):
    html = page(tmp_path, sections(write_run(tmp_path / "run")))
    file = tmp_path / "spoiled.html"
    file.write_text(html.replace("<main>", "<main><script>document.title = 'spoiled'</script>"), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(file.as_uri())
    tab.wait_for_selector("body[data-drawn]")
    assert tab.title() == "org/teacher → thin | tutorkd report"
    tab.close()


def test_a_page_of_a_run_that_goes_on_is_read_again_and_keeps_what_was_chosen(show, tmp_path):
    folder = write_run(tmp_path / "run", finished=False)
    tab = show(folder, refresh=4)
    tab.select_option("select[name=smoothing]", "2")
    write_text = (tmp_path / "report.html").write_text
    set_json(folder / "checkpoint-10" / "trainer_state.json", global_step=15)
    write_text(page(folder, sections(folder)), encoding="utf-8")
    tab.wait_for_function("() => document.body.innerText.includes('step 15 of 20')")
    tab.wait_for_selector("body[data-drawn]")
    assert tab.locator("select[name=smoothing]").input_value() == "2"

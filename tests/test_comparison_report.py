import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from commands import edited
from matplotlib.figure import Figure
from scipy.stats import ttest_rel
from transformers import TrainerState

from tutorkd import callbacks, seeds
from tutorkd.comparison import plots
from tutorkd.comparison.cell import _seconds
from tutorkd.comparison.matrix import RESULT_FILE, read_cells
from tutorkd.comparison.report import figures, markdown, summarise
from tutorkd.comparison.score_plots import _label_at_the_right, score_against_cost, score_at_equal_cost
from tutorkd.files import write_text

NAMES = ["plain", "a|b", "third"]


@pytest.fixture
def cells(tmp_path):
    """Three variants, two seeds; accuracies of seed k: plain 0.8 + k/10, a|b 0.7, third only seed 0."""
    recipe = {
        "common": {"teacher": "t", "corpus": ["c"], "max_steps": 4},
        "variants": [{"name": name, "method": "mlm"} for name in NAMES],
        "students": ["half"],
        "seeds": [0, 1],
        "evaluate": {"train": "a.csv", "validation": "b.csv"},
    }
    cells = read_cells(recipe, "r", tmp_path)
    accuracy = {"plain": 0.8, "a|b": 0.7, "third": 0.75, "teacher": 0.9, "not distilled": 0.6}
    for cell in cells:
        if cell.variant == "third" and cell.seed == 1:
            continue
        log = [
            {"loss": 2.0, "loss_mlm": 2.0, "step": 2, "tokens_per_second": 5.0, "learning_rate": 0.1},
            {"eval_probe_auc": 0.6 + cell.seed / 10, "eval_runtime": 3.0, "step": 4},
            {"loss": 1.0 + cell.seed, "loss_mlm": 1.0, "step": 4},
            {"train_runtime": 9.0, "train_loss": 5.0, "step": 4},
        ]
        distilled = cell.kind == "distilled"
        result = {
            "settings": cell.settings,
            "training": {"steps": 4, "tokens": 40, "seconds": 60.0, "flops": 2e12, "log": log} if distilled else {},
            "evaluation": {
                "accuracy": accuracy[cell.variant] + (cell.variant == "plain") * cell.seed / 10,
                "macro_f1": 0.5,
                "parameters": 1_500_000,
                "name": "student",
                "bytes": 6_000_000,
                "milliseconds_per_sentence": 1.0,
                "milliseconds_first_quartile": 0.9,
                "milliseconds_third_quartile": 1.1,
                "only_class": None,
                "train_seconds": 1.0,
                "standard_error": 0.01,
                "train_rows": 10,
                "validation_rows": 1000,
                "device": "cpu",
                "threads": 1,
            },
        }
        write_text(cell.folder / RESULT_FILE, json.dumps(result))
    return cells


def test_figures_are_means_and_sample_standard_deviations_over_seeds(cells):
    summary = summarise(cells, {"third-half-seed1": "out of luck"})
    rows = {row["variant"]: row for row in summary["rows"]}
    assert rows["plain"]["figures"]["accuracy"] == pytest.approx({"mean": 0.85, "sd": 0.1 / math.sqrt(2), "n": 2})
    assert rows["plain"]["figures"]["last_eval_probe_auc"]["mean"] == pytest.approx(0.65)
    assert rows["third"]["figures"]["accuracy"] == {"mean": 0.75, "sd": None, "n": 1}
    assert rows["third"]["failed"] == {"1": "out of luck"}
    assert rows["teacher"]["figures"]["accuracy"]["mean"] == pytest.approx(0.9)
    by_name = {cell["name"]: cell for cell in summary["cells"]}
    assert by_name["third-half-seed1"]["error"] == "out of luck"
    assert by_name["plain-half-seed1"]["figures"]["accuracy"] == pytest.approx(0.9)
    assert json.loads(json.dumps(summary)) == summary


def test_the_last_figures_are_those_of_the_last_logs_without_timings(cells):
    found = figures(cells[2].result)
    assert {key: value for key, value in found.items() if key.startswith("last_")} == {
        "last_loss": 1.0,
        "last_loss_mlm": 1.0,
        "last_eval_probe_auc": 0.6,
    }


def test_the_table_has_references_first_then_the_best_and_escapes_pipes(cells):
    lines = markdown(summarise(cells, {"third-half-seed1": "x | y\nz"})).splitlines()
    assert len({len(line) for line in lines[:7]}) == 1  # columns line up
    assert [line.split(" | ")[0].rstrip() for line in lines[2:7]] == [
        "| teacher",
        "| not distilled",
        "| plain",
        "| third",
        "| a\\|b",
    ]
    assert (
        " ".join(lines[4].split())
        == "| plain | half | 2 | 85.0 ± 7.1 | 50.0 ± 0.0 | 1.5 M | 1 min 0 s | 2 | 0.650 | - | - | - |"
    )
    assert lines[5].endswith("| seed 1: x \\| y z |")
    assert len({line.replace("\\|", "").count("|") for line in lines[:7]}) == 1


def test_seconds_of_training_are_summed_over_the_log_s_windows():
    log = [
        {"loss": 1, "step": 2, "tokens_per_second": 96.0},  # 2 steps of 24 tokens: 0.5 s
        {"eval_loss": 1, "step": 3},
        {"loss": 1, "step": 4, "tokens_per_second": 48.0},  # 1 s
    ]
    assert _seconds(log, 4, 24) == pytest.approx(1.5)
    assert _seconds(log, 5, 24) == pytest.approx(1.5 * 5 / 4)
    assert _seconds([{"train_runtime": 1.0, "step": 4}], 4, 24) is None  # where nothing is logged


def test_the_time_of_short_texts_is_that_of_their_tokens_and_not_of_the_room_that_there_is(monkeypatch):
    seconds = iter([0.0, 10.0, 12.0, 12.0, 16.0, 16.0, 18.5, 18.5])  # two looks at the clock a line
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    throughput, log = callbacks.Throughput(), []
    throughput.on_train_begin(None, TrainerState(), None)
    for step, tokens in ((2, 40.0), (5, 60.0), (8, 50.0)):
        log.append({"loss": 1.0, "step": step, **throughput.read(tokens, step, 8)})
    # Twenty tokens a step in the first two windows, which took 2 s and 4 s; at that the last one's fifty took 3 s.
    assert _seconds(log, 8, 4 * 128) == pytest.approx(2 + 4 + 3 * 20 / (50 / 2.5))


@pytest.mark.parametrize(("dearer", "name"), [(1.04, "score"), (1.06, "score-cost")])
def test_plots_are_written_as_png_and_svg(cells, tmp_path, dearer, name):
    for cell in cells:
        if cell.variant == "third" and cell.result is not None:
            training = {**cell.result["training"], "flops": dearer * 2e12}
            write_text(cell.folder / RESULT_FILE, json.dumps({**cell.result, "training": training}))
    files = plots.draw(cells, summarise(cells, {}), tmp_path)
    assert [file.name for file in files] == [f"{name}.png", f"{name}.svg", "training.png", "training.svg"]
    for file in files:
        start = file.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if file.suffix == ".png" else b"<?xml" in start


@pytest.mark.parametrize(("value", "dearer"), [(math.nan, 1.0), (-math.inf, 1.0), (math.nan, 2.0)])
def test_a_score_that_is_no_number_comes_last_and_isn_t_drawn(cells, tmp_path, value, dearer):
    for cell in cells:
        if cell.variant == "third" and cell.result is not None:
            training = {**cell.result["training"], "flops": dearer * 2e12}
            write_text(cell.folder / RESULT_FILE, json.dumps({**cell.result, "training": training}))
    _with_accuracies(cells, "plain", value, 0.9)
    summary = summarise(cells, {})
    variants = [line.split("|")[1].strip() for line in markdown(summary).splitlines()[2:7]]
    assert variants == ["teacher", "not distilled", "third", "a\\", "plain"]  # the bar in a|b is escaped
    plots.draw(cells, summary, tmp_path)
    plot = score_at_equal_cost if dearer == 1 else score_against_cost
    (axes,) = plot(summary, dict.fromkeys(NAMES, ("black", "-"))).axes
    assert f"not drawn: plain {100 * value}" in axes.get_xlabel()


def test_all_machines_that_cells_ran_on_are_told(cells):
    with edited(cells[-2].folder / RESULT_FILE) as result:
        result["evaluation"] |= {"device": "cuda:0", "threads": 8}
        result["machine"] = {"torch": "2.1"}
    summary = summarise(cells, {})
    assert "of matrix products, on cpu, threads: 1 and cuda:0, threads: 8." in markdown(summary)
    assert summary["cells"][-2]["machine"] == {"torch": "2.1"}


def test_plots_of_an_earlier_matrix_don_t_stay_beside_the_new_ones(cells, tmp_path):
    narrow = [replace(cell, student="narrow") for cell in cells]
    plots.draw([*cells, *narrow], summarise([*cells, *narrow], {}), tmp_path)
    (tmp_path / "score-cost.png").touch()
    (tmp_path / "score-cost.svg").touch()
    (tmp_path / "training-mine.png").touch()  # somebody's own
    files = plots.draw(cells, summarise(cells, {}), tmp_path)
    there = {file for file in tmp_path.iterdir() if file.is_file()}
    assert there == {*files, tmp_path / "training-mine.png"}


def test_names_with_dollars_are_printed_as_they_are(cells, tmp_path):
    named = {"plain": "a $x^$ b", "third": r"$\frac$"}  # neither of them a formula that matplotlib knows
    cells = [replace(cell, variant=named.get(cell.variant, cell.variant), student="$s_$" * bool(cell.student)) for cell
             in cells]  # fmt: skip
    summary = summarise(cells, {})
    plots.draw(cells, summary, tmp_path)
    (axes,) = score_at_equal_cost(summary, dict.fromkeys([*named.values(), "a|b"], ("black", "-"))).axes
    axes.figure.draw_without_rendering()
    assert r"a \$x^\$ b" in [label.get_text() for label in axes.get_yticklabels()]
    svg = (tmp_path / "score.svg").read_text()
    assert "a $x^$ b" in svg


@pytest.mark.parametrize(("seeds", "bars"), [(1, "standard error of the score"), (2, "standard deviation over seeds")])
def test_bars_are_the_deviation_over_seeds_or_of_one_seed_the_standard_error(cells, seeds, bars):
    cells = [cell for cell in cells if cell.seed < seeds]
    figure = score_against_cost(summarise(cells, {}), dict.fromkeys(NAMES, ("black", "-")))
    (axes,) = figure.axes
    assert bars in axes.get_title(loc="left")
    lengths = {
        container.get_children()[0].get_ydata()[0]: container.lines[2][0].get_segments()[0][:, 1]
        for container in axes.containers
    }
    for mean, (low, high) in lengths.items():
        # plain: 80 and 90 over two seeds; third: seed 0 alone
        expected = 10 / math.sqrt(2) if seeds == 2 and mean == pytest.approx(85) else 1.0
        if seeds == 2 and mean == pytest.approx(70):
            expected = 0.0
        assert (high - low) / 2 == pytest.approx(expected)


@pytest.mark.parametrize(("accuracy", "drawn"), [(0.26, True), (0.24, False)])
def test_a_reference_that_is_far_off_is_told_and_not_drawn(cells, accuracy, drawn):
    for cell in cells:
        if cell.kind == "undistilled":
            with edited(cell.folder / RESULT_FILE) as result:
                result["evaluation"]["accuracy"] = accuracy
    (axes,) = score_against_cost(summarise(cells, {}), dict.fromkeys(NAMES, ("black", "-"))).axes
    # The variants are at 70, 75 and 85, so that 25 is three times their spread below them.
    heights = {round(float(line.get_ydata()[0]), 6) for line in axes.get_lines() if line.get_linestyle() == "--"}
    assert (100 * accuracy in heights) == drawn
    assert ("far off, not drawn: not distilled 24" in axes.get_xlabel()) != drawn


def test_scores_at_equal_cost_stand_side_by_side_with_the_scores_of_each_seed(cells):
    (axes,) = score_at_equal_cost(summarise(cells, {}), dict.fromkeys(NAMES, ("black", "-"))).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "not distilled",
        "a|b",
        "third",
        "plain",
        "teacher",
    ]
    means = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert means == [[[pytest.approx(mean), height]] for height, mean in enumerate([60, 70, 75, 85, 90])]
    seeds = {line.get_ydata()[0]: line.get_xdata().tolist() for line in axes.get_lines() if len(line.get_xdata()) == 2}
    assert seeds[3] == pytest.approx([80, 90])
    assert 2 not in seeds  # third has one seed, whose dot is its mean
    assert axes.get_title(loc="left") == (
        "At equal cost, 2 TFLOP, mean over 2 seeds; bars: standard deviation over seeds or, for one seed, standard "
        "error of the score"
    )


def test_a_reference_far_off_doesn_t_squash_the_scores_at_equal_cost(cells):
    for cell in cells:
        if cell.kind == "undistilled":
            result = cell.result
            changed = {**result, "evaluation": {**result["evaluation"], "accuracy": 0.24}}
            write_text(cell.folder / RESULT_FILE, json.dumps(changed))
    (axes,) = score_at_equal_cost(summarise(cells, {}), dict.fromkeys(NAMES, ("black", "-"))).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a|b", "third", "plain", "teacher"]
    assert "far off, not drawn: not distilled 24" in axes.get_xlabel()


def test_a_cell_that_gives_one_class_alone_is_told_ahead_of_all_else(cells):
    assert "learned nothing" not in markdown(summarise(cells, {}))
    with edited(cells[2].folder / RESULT_FILE) as result:
        result["evaluation"]["only_class"] = "1"
    _, first, *_ = markdown(summarise(cells, {})).split("\n\n")
    assert first == f"These learned nothing and give every row the same class: {cells[2].name}."


def test_a_column_that_no_row_has_a_figure_for_is_left_out(cells):
    assert "| probe AUC |" in markdown(summarise(cells, {}))
    for cell in cells:
        if cell.result is not None:
            training = {**cell.result["training"], "log": []}
            write_text(cell.folder / RESULT_FILE, json.dumps({**cell.result, "training": training}))
    table = markdown(summarise(cells, {}))
    assert "probe AUC" not in table
    assert len({line.replace("\\|", "").count("|") for line in table.splitlines()[:7]}) == 1


def test_each_figure_of_the_log_has_a_panel_with_a_line_a_variant(cells):
    log = plots._logs(cells)["half"]
    styles = dict.fromkeys(NAMES, ("black", "-"))
    axes = [axes for axes in plots.figures_against_steps(log, "half", styles).axes if axes.get_visible()]
    assert [panel.get_title(loc="left") for panel in axes] == ["probe AUC", "loss", "loss mlm"]
    plain, *_ = axes[1].get_lines()
    assert plain.get_xydata().tolist() == [[2, 2.0], [4, 1.5]]
    assert len(axes[1].get_lines()) == 3


def test_the_losses_of_different_methods_stand_in_panels_of_their_own(cells):
    for cell in cells:
        if cell.variant == "third" and cell.result is not None:
            result = cell.result
            cell.distill.args.method = "kd"
            write_text(cell.folder / RESULT_FILE, json.dumps({**result, "settings": cell.settings}))
    log = plots._logs(cells)["half"]
    assert {key: set(by_variant) for key, by_variant in log.items() if key[0] == "loss"} == {
        ("loss", "mlm"): {"plain", "a|b"},
        ("loss", "kd"): {"third"},
    }
    figure = plots.figures_against_steps(log, "half", dict.fromkeys(NAMES, ("black", "-")))
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["probe AUC", "loss, kd", "loss, mlm", "loss mlm"]


def test_labels_of_points_at_one_place_don_t_overlap():
    figure = Figure(figsize=(7.5, 4.5))
    axes = figure.add_subplot()
    axes.set_ylim(0, 1)
    axes.set_xlim(0, 1)
    _label_at_the_right(axes, [(0.5, 0.5, f"label {i}", "black") for i in range(10)] + [(0.2, 0.9, "far", "k")])
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    assert len(boxes) == 11
    heights = [text._get_xy_display()[1] for text in axes.texts]
    line = axes.texts[0].get_fontsize() * figure.dpi / 72
    assert all(upper - lower > line for lower, upper in pairwise(heights))


def test_variants_are_compared_with_the_first_seed_by_seed(cells):
    """Accuracies: plain 0.8 and 0.9, a|b 0.7 both times, third 0.75 with seed 0 alone."""
    paired = {each["variant"]: each for each in summarise(cells, {})["paired"]}
    assert paired.keys() == {"a|b", "third"}
    found = paired["a|b"]  # differences -0.1 and -0.2: mean -0.15, deviation 0.0707, through the root of two 0.05
    assert found == {
        **{"variant": "a|b", "student": "half", "figure": "accuracy", "seeds": [0, 1], "beyond_two_errors": True},
        "difference": pytest.approx(-0.15),
        "standard_error": pytest.approx(0.05),
    }
    assert found["difference"] / found["standard_error"] == pytest.approx(ttest_rel([0.7, 0.7], [0.8, 0.9]).statistic)
    assert (paired["third"]["difference"], paired["third"]["seeds"]) == (pytest.approx(-0.05), [0])
    assert (paired["third"]["standard_error"], paired["third"]["beyond_two_errors"]) == (None, None)


def test_another_baseline_turns_the_differences_round(cells):
    summary = summarise(cells, {}, "a|b")
    assert {each["variant"] for each in summary["paired"]} == {"plain", "third"}
    table = " ".join(markdown(summary).split())
    assert "| against a\\|b | beyond two errors | missing |" in table
    assert "| +15.0 ± 5.0 | yes | - |" in table


def test_differences_stand_in_the_table_and_in_words(cells):
    table = markdown(summarise(cells, {}))
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert lines[6].endswith("| -15.0 ± 5.0 | yes | - |")
    assert lines[5].endswith("| -5.0 | - | seed 1: not finished |")
    assert (
        "- a\\|b, half: 15.0 points worse than plain over 2 paired seeds, standard error 5.0: more than two standard "
        "errors."
    ) in lines
    assert "- third, half: 5.0 points worse than plain with one seed, so there is no standard error." in lines
    # Student's t with one degree of freedom is Cauchy's distribution, of which 2 * (1/2 - atan(2) / pi) is beyond 2.
    assert round(100 * (1 - 2 * math.atan(2) / math.pi)) == 30
    assert "by chance alone: with 2 pairs of seeds in 30 % of cases" in table
    assert "Missing, 1 of 10 cells: third-half-seed1 (not finished)." in lines


def test_a_difference_of_less_than_two_errors_tells_nothing_apart(cells):
    assert cells[-2].name == "a-b-half-seed1"
    with edited(cells[-2].folder / RESULT_FILE) as result:
        result["evaluation"]["accuracy"] = 0.89  # differences -0.1 and -0.01: mean -0.055, error 0.045
    assert "standard error 4.5: not more than two standard errors, so these seeds don't tell" in markdown(
        summarise(cells, {})
    )


def _with_accuracies(cells, variant, *accuracies):
    """Writes them into a variant's results, in the order of the seeds; returns the table."""
    for cell, accuracy in zip([cell for cell in cells if cell.variant == variant], accuracies, strict=True):
        with edited(cell.folder / RESULT_FILE) as result:
            result["evaluation"]["accuracy"] = accuracy
    return markdown(summarise(cells, {}))


def test_of_equal_scores_none_is_called_better(cells):
    table = _with_accuracies(cells, "a|b", 0.9, 0.8)  # of plain 0.8 and 0.9
    assert "- a\\|b, half: rounded, as good as plain over 2 paired seeds, standard error 10.0: not more than" in table
    table = _with_accuracies(cells, "a|b", 0.8002, 0.9002)
    assert "- a\\|b, half: rounded, as good as plain over 2 paired seeds, standard error 0.0: more than two" in table


def test_rounding_doesn_t_decide_what_is_more_than_two_errors():
    """Differences k, k and 0 have the mean 2k/3 and the error k/3: exactly two errors, whatever k is."""
    for rows in (41, 277, 408, 1043):
        for start in range(20):
            baseline = [start / rows, (start + 7) / rows, 3 / rows]
            for step in range(1, 20):
                values = [(start + step) / rows, (start + 7 + step) / rows, 3 / rows]
                assert not seeds.paired(values, baseline).beyond_two_errors


def test_how_many_of_several_differences_chance_alone_makes_is_said(cells):
    cells = [cell for cell in cells if cell.variant != "third"]
    copies = [replace(cell, student=name) for cell in cells for name in ("half", "narrow", "wide")]
    found = " ".join(markdown(summarise(copies, {})).split())
    assert "in 30 % of cases (Student's t). If none differed, that would be 0.9 of these 3 on average." in found
    assert "If none differed" not in markdown(summarise(cells, {}))


def test_a_student_that_was_measured_on_its_way_has_a_curve_that_ends_in_its_point(cells):
    """plain: 60 and 70 % at half the operations; 80 and 90 % at their end."""
    for cell in cells:
        if cell.variant == "plain":
            with edited(cell.folder / RESULT_FILE) as result:
                evaluation = {**result["evaluation"], "accuracy": 0.6 + cell.seed / 10}
                result["on_the_way"] = {"2": {"flops": 1e12, "evaluation": evaluation}}
    summary = summarise(cells, {})
    (axes,) = score_against_cost(summary, dict.fromkeys(NAMES, ("black", "-"))).axes
    curves = [line.get_xydata().tolist() for line in axes.get_lines() if len(line.get_xydata()) == 2]
    assert [[1e12, pytest.approx(65)], [2e12, pytest.approx(85)]] in curves
    assert "curves: students in the middle of training, at a high learning rate" in axes.get_xlabel()
    assert [row["variant"] for row in summary["rows"] if row["curve"]] == ["plain"]

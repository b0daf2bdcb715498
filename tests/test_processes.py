import os
import signal
import sys
import threading
import time
from io import StringIO
from types import SimpleNamespace

import pytest

from tutorkd.errors import Interrupted
from tutorkd.processes import LOG_FILE, Stopped, run_processes


def _cells(tmp_path, count):
    return [SimpleNamespace(name=f"cell{i}", folder=tmp_path / f"cell{i}") for i in range(count)]


def _python(code):
    return [sys.executable, "-c", code]


def test_a_failing_cell_is_told_and_doesn_t_keep_the_others_from_running(tmp_path, capsys):
    cells = _cells(tmp_path, 4)
    code = {
        "cell0": "import sys; print('a'); sys.exit('tutorkd: error: no such thing')",
        "cell1": "raise ValueError('broken')",
        "cell2": "import os; os.kill(os.getpid(), 9)",
        "cell3": "print('well')",
    }
    failed = run_processes(cells, lambda cell: _python(code[cell.name]), jobs=1)
    assert failed == {
        "cell0": "no such thing",
        "cell1": "ValueError: broken",
        "cell2": "ended by signal 9 (Killed)",
    }
    assert (tmp_path / "cell3" / LOG_FILE).read_text() == "well\n"
    shown = capsys.readouterr().out
    assert "finished cell3" in shown
    assert "4 of 4" in shown


def test_a_terminal_shows_what_the_processes_last_said(tmp_path, capsys, monkeypatch):
    class Terminal(StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    cells = _cells(tmp_path, 2)
    code = "import sys, time; sys.stderr.write('10 %\\r' + sys.argv[1] + ' at 50 %\\r'); time.sleep(2)"
    assert not run_processes(cells, lambda cell: [*_python(code), cell.name], jobs=2)
    shown = terminal.getvalue()
    assert "cell0 at 50 %" in shown
    assert "cell1 at 50 %" in shown
    assert "10 %" not in shown
    assert "2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_than_jobs_run_at_once(jobs, tmp_path):
    cells = _cells(tmp_path, 4)
    code = "import time; print(time.time()); time.sleep(0.4); print(time.time())"
    assert not run_processes(cells, lambda cell: _python(code), jobs)
    spans = [tuple(map(float, (cell.folder / LOG_FILE).read_text().split())) for cell in cells]
    at_once = [sum(start <= begin < end for start, end in spans) for begin, _ in spans]
    assert max(at_once) == jobs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_processes_and_starts_no_more(number, tmp_path):
    before = signal.getsignal(number)
    cells = _cells(tmp_path, 3)
    threading.Timer(0.6, os.kill, (os.getpid(), number)).start()
    started = time.perf_counter()
    with pytest.raises(Interrupted) as stop:
        run_processes(cells, lambda cell: _python("import os, time; print(os.getpid(), flush=True); time.sleep(30)"), 2)
    assert time.perf_counter() - started < 10
    assert stop.value.signal_number == number
    assert signal.getsignal(number) is before
    assert not cells[2].folder.exists()
    for cell in cells[:2]:
        with pytest.raises(ProcessLookupError):
            os.kill(int((cell.folder / LOG_FILE).read_text()), 0)


def test_what_failed_before_a_signal_is_handed_on(tmp_path):
    cells = _cells(tmp_path, 2)
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    code = {"cell0": "raise SystemExit('out of luck')", "cell1": "import time; time.sleep(30)"}
    with pytest.raises(Stopped) as stop:
        run_processes(cells, lambda cell: _python(code[cell.name]), 2)
    assert stop.value.failed == {"cell0": "out of luck"}


def test_processes_share_the_processors(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    cells = _cells(tmp_path, 1)
    run_processes(cells, lambda cell: _python("import os; print(os.environ['OMP_NUM_THREADS'])"), 3)
    assert (cells[0].folder / LOG_FILE).read_text() == "2\n"


def _gpus_seen(cells):
    return [(cell.folder / LOG_FILE).read_text().strip() for cell in cells]


def test_each_process_sees_a_gpu_of_its_own_and_by_default_there_is_one_for_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tutorkd.processes.visible_gpus", lambda: ["3", "5"])
    cells = _cells(tmp_path, 4)
    show = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.4)"
    assert not run_processes(cells, lambda cell: _python(show), None)
    assert _gpus_seen(cells[:2]) == ["3", "5"]
    assert sorted(_gpus_seen(cells[2:])) == ["3", "5"]
    assert "share" not in capsys.readouterr().out


def test_more_jobs_than_gpus_are_told_that_they_share(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tutorkd.processes.visible_gpus", lambda: ["0"])
    cells = _cells(tmp_path, 2)
    assert not run_processes(cells, lambda cell: _python("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"), 2)
    assert _gpus_seen(cells) == ["0", "0"]
    assert "jobs     2 at once on 1 GPU, which they share" in capsys.readouterr().out.splitlines()[0]


def test_without_a_gpu_one_process_runs_at_once_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr("tutorkd.processes.visible_gpus", lambda: [])
    cells = _cells(tmp_path, 2)
    code = "import time; print(time.time()); time.sleep(0.2); print(time.time())"
    assert not run_processes(cells, lambda cell: _python(code), None)
    (_, end), (begin, _) = [map(float, seen.split()) for seen in _gpus_seen(cells)]
    assert end < begin


def test_what_there_is_to_say_of_a_cell_stands_in_its_line(tmp_path, capsys):
    cells = _cells(tmp_path, 1)
    run_processes(cells, lambda cell: _python("pass"), 1, lambda cell: f": {cell.name} was good")
    assert "s: cell0 was good; 1 of 1" in capsys.readouterr().out

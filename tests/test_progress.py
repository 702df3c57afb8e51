"""Bars: silent on quick work, and else on standard error alone, with name, count, estimate and reason."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mechmask import progress
from mechmask.progress import note, phase_bar, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` lets time pass for the decision whether a bar shows itself, and for its estimate."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


@pytest.fixture
def screen(monkeypatch):
    """What a terminal shows: ``screen()`` is all that was drawn so far."""
    drawn = io.StringIO()
    monkeypatch.setattr(progress, "_console", lambda: Console(file=drawn, force_terminal=True, width=160))
    return drawn.getvalue


def test_quick_work_stays_silent(clock, screen):
    with progress_bar("editing", 20) as bar:
        for _ in range(20):
            clock(0.01)
            bar("loss 0.1")
    assert screen() == ""


def test_a_long_one_shows_name_count_estimate_and_status(clock, screen):
    with progress_bar("editing", 20, 3) as bar:
        for n in range(5):
            clock(2)
            bar(f"loss 0.{n}")
    last = screen().split("\r")[-1]
    assert "editing" in last and "loss 0.4" in last and "8/20" in last
    assert last.count(":") >= 2, "elapsed and remaining time"


@pytest.mark.filterwarnings("ignore")
def test_the_estimate_is_of_what_remains(clock, screen):
    """Two seconds a piece, eleven of twenty pieces to go."""
    bar = progress.Bar("editing", 20, 0, shown=True)
    for _ in range(9):
        clock(2)
        bar()
    remaining = bar._progress.tasks[0].time_remaining
    bar.close()
    assert remaining is None or remaining == pytest.approx(22, rel=0.2)
    assert remaining is not None


def test_one_that_ends_early_says_why(clock, screen):
    with phase_bar("install", 60) as bar:
        for _ in range(10):
            clock(2)
            bar.step(0.5)
        bar.recall(1.0)
        bar.end_early("recall 1 is reached at step 10: no more are needed")
    last = screen().split("\r")[-1]
    assert "10/10" in last
    assert "recall 1 is reached at step 10" in last


def test_a_training_shows_loss_and_recall(clock, screen):
    with phase_bar("contradict", 30) as bar:
        clock(2)
        bar.step(1.2345)
        bar.recall(0.25)
        clock(2)
        bar.step(0.5)
    assert "loss 0.500  recall 0.25" in screen()


def test_hidden_is_hidden(clock, screen):
    with progress_bar("editing", 2, shown=False) as bar:
        for _ in range(2):
            clock(5)
            bar("odd")
    assert screen() == ""


def test_outside_a_terminal_only_the_end_is_shown_and_on_standard_error(clock, capfd):
    with progress_bar("editing", 3) as bar:
        for _ in range(3):
            clock(5)
            bar("loss 0.1")
            assert capfd.readouterr().err.strip() == ""
    shown = capfd.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1
    assert "editing" in shown.err and "3/3" in shown.err


def test_a_pipe_gets_the_end_alone_where_colour_is_forced(clock, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("editing", 2) as bar:
        for _ in range(2):
            clock(5)
            bar()
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


def test_a_bar_within_a_bar_leaves_the_screen_to_the_outer_one(clock, screen):
    with progress_bar("states", 2) as outer:
        clock(5)
        outer()
        with progress_bar("reading", 3) as inner:
            clock(5)
            inner()
        clock(5)
        outer()
    assert "reading" not in screen()
    with progress_bar("reading", 3) as bar:
        clock(5)
        bar()
    assert "reading" in screen()


def test_a_bar_is_left_when_its_work_fails(clock, screen):
    with pytest.raises(RuntimeError), progress_bar("states", 2) as bar:
        clock(5)
        bar()
        raise RuntimeError
    with progress_bar("next", 2) as bar:
        clock(5)
        bar()
    assert "next" in screen()


def test_a_note_is_one_line_whatever_its_length(capfd):
    note("[bold] " + "word " * 100)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == "[bold] " + "word " * 100 + "\n"


def test_what_is_said_is_no_markup(clock, screen):
    with progress_bar("[b]states", 2) as bar:
        for _ in range(2):
            clock(5)
            bar("[/b] of {task} & [link=x]y[/link]")
    assert "[b]states" in screen() and "[/b] of {task} & [link=x]y[/link]" in screen()


CELLS = [
    """
import signal, sys, time
sys.modules["ipywidgets"] = None  # as if it were not installed
from mechmask import progress
progress._SILENT_SECONDS = progress._REDRAWN_SECONDS = 0.1
def work(name, stop_at=-1):
    with progress.progress_bar(name, 30) as bar:
        for i in range(30):
            time.sleep(0.02)
            print("." * (i % 10 == 0), end="")
            bar(f"<i>piece</i> {i}")
            if i == stop_at:
                signal.raise_signal(signal.SIGINT)
work("whole")
""",
    'work("stopped", 20)',
    'work("after")',
    "progress._SILENT_SECONDS = 60\nwork('quick')",
    "%%capture captured\nprogress._SILENT_SECONDS = 0.1\nwork('captured')",
    "print(captured.stderr.count('captured'), len(captured.outputs), captured.stdout)",
]


@pytest.fixture(scope="module")
def notebook():
    """The cells above, executed in a kernel, and every message of a display in turn."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")

    class Recording(nbclient.NotebookClient):
        def process_message(self, message, cell, cell_index):
            if message["msg_type"] in ("display_data", "update_display_data"):
                messages.append((cell_index, message["msg_type"], message["content"]["data"]))
            return super().process_message(message, cell, cell_index)

    messages = []
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    Recording(made, kernel_name="python3", allow_errors=True, timeout=60).execute()
    return [cell.outputs for cell in made.cells], messages


def _bars(outputs):
    return [output for output in outputs if output.output_type == "display_data"]


def test_in_a_notebook_a_bar_moves_in_its_place_and_one_is_kept(notebook):
    outputs, messages = notebook
    of_first = [data for index, _, data in messages if index == 0]
    kinds = [kind for index, kind, _ in messages if index == 0]
    assert kinds == ["display_data"] + ["update_display_data"] * (len(kinds) - 1)
    assert 3 <= len(of_first) <= 12, "a few a second, not one for each piece"
    counts = [int(data["text/plain"].split("/30")[0].split()[-1]) for data in of_first]
    assert counts == sorted(counts) and counts[0] < 15 and counts[-1] == 30
    (bar,) = _bars(outputs[0])
    assert "30/30" in bar.data["text/plain"] and "\x1b" not in bar.data["text/plain"]
    assert "&lt;i&gt;piece&lt;/i&gt; 29" in bar.data["text/html"] and len(str(outputs[0])) < 4000
    printed = [output.text for output in outputs[0] if output.output_type == "stream"]
    assert "".join(printed) == "...", "a bar swallows nothing"


def test_an_interrupt_leaves_a_bar_where_it_stopped_and_the_next_one_shows(notebook):
    outputs, _ = notebook
    (bar,) = _bars(outputs[1])
    assert "21/30" in bar.data["text/plain"] and outputs[1][-1].ename == "KeyboardInterrupt"
    assert "30/30" in _bars(outputs[2])[0].data["text/plain"]


def test_in_a_notebook_quick_work_is_silent_and_captured_work_is_captured(notebook):
    outputs, _ = notebook
    assert not _bars(outputs[3])
    assert outputs[5][0].text == "1 0 ...\n" and not outputs[4]

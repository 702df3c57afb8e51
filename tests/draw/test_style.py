import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mechmask import draw
from mechmask.draw import style
from mechmask.draw.drawing import Drawing
from mechmask.errors import ReadingError
from mechmask.measure.reading import save_reading


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
@pytest.mark.parametrize("name", ["trajectory", "depth", "erase"])
def test_the_same_figure_gives_the_same_bytes(request, tmp_path, name, suffix):
    reading = request.getfixturevalue("erase_result" if name == "erase" else f"{name}_reading")
    function = getattr(draw, name)
    figure = function(reading)
    paths = [draw.save_figure(figure, tmp_path / f"{i}{suffix}") for i in range(2)]
    paths.append(draw.save_figure(function(reading), tmp_path / f"made again{suffix}"))
    first, *others = [path.read_bytes() for path in paths]
    assert len(first) > 5000
    assert all(other == first for other in others)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("name", ["delta", "checkpoints", "waterfall", "models", "drift", "cosine", "weights"])
def test_a_figure_made_again_gives_the_same_bytes(figures, tmp_path, name):
    first, again = (draw.save_figure(figures[name](), tmp_path / f"{i}.svg") for i in range(2))
    assert again.read_bytes() == first.read_bytes() and first.stat().st_size > 5000


@pytest.mark.parametrize(
    ("settings", "mine"),
    [
        ({}, {"font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "lines.linewidth": 1.3}),
        ({"font.size": 16}, {"font.size": 16, "axes.labelsize": 16, "xtick.labelsize": 14, "lines.linewidth": 1.3}),
        ({"xtick.labelsize": 5, "lines.linewidth": 3}, {"font.size": 8, "xtick.labelsize": 5, "lines.linewidth": 3}),
        ({"font.sans-serif": ["Arial"]}, {"font.family": ["sans-serif"], "font.sans-serif": ["Arial"]}),
    ],
)
def test_the_house_fills_in_what_the_user_left_open(settings, mine):
    with matplotlib.rc_context(settings), style.styled():
        assert {key: matplotlib.rcParams[key] for key in mine} == mine
        with style.styled():  # once more is no more
            assert {key: matplotlib.rcParams[key] for key in mine} == mine


@pytest.mark.parametrize("name", ["association", "contrast", "dose", "editors", "reacquisition"])
def test_a_figure_that_was_saved_in_one_format_gives_the_same_bytes_in_another(figures, tmp_path, name):
    figure = figures[name]()
    draw.save_figure(figure, tmp_path / "first.pdf")
    after, alone = (
        draw.save_figure(figure, tmp_path / "after.png"),
        draw.save_figure(figures[name](), tmp_path / "a.png"),
    )
    assert after.read_bytes() == alone.read_bytes()


def looks_of(figure: Figure) -> tuple:
    figure.draw_without_rendering()
    axes = figure.axes[0]
    sizes = [text.get_fontsize() for text in (axes.title, axes.xaxis.label, axes.xaxis.get_ticklabels()[0])]
    return sizes, [line.get_color() for line in axes.lines], [line.get_linewidth() for line in axes.lines]


def test_in_the_house_style_ones_own_figure_looks_like_those_of_the_house(trajectory_reading):
    before = dict(matplotlib.rcParams)
    with draw.house_style():
        own, axes = plt.subplots()
        lines = [axes.plot([0, 1])[0] for _ in range(2)]
        axes.set_title("own")
    assert dict(matplotlib.rcParams) == before
    assert [line.get_color() for line in lines] == [style.BLUE, style.VERMILION]
    assert axes.title.get_fontsize() == 8 and lines[0].get_linewidth() == 1.3 and not axes.spines["top"].get_visible()
    with pytest.raises(ZeroDivisionError), draw.house_style(font_size=5):
        assert matplotlib.rcParams["font.size"] == 5
        _ = 1 / 0
    assert dict(matplotlib.rcParams) == before and not style._house.get()
    plt.close(own)


@pytest.mark.parametrize("size", [None, 8, 10, 13])  # 10 is what matplotlib ships
def test_in_the_house_style_figures_are_as_without_it_but_for_the_size(trajectory_reading, size):
    outside = looks_of(draw.trajectory(trajectory_reading, font_size=size))
    with draw.house_style(font_size=size):
        assert looks_of(draw.trajectory(trajectory_reading)) == outside
        with draw.house_style():
            assert looks_of(draw.trajectory(trajectory_reading)) == outside
        other = looks_of(draw.trajectory(trajectory_reading, font_size=6))
        with matplotlib.rc_context({"axes.labelsize": 20}):
            assert looks_of(draw.trajectory(trajectory_reading))[0][1] == 20
    assert other == looks_of(draw.trajectory(trajectory_reading, font_size=6))


def test_what_is_no_size_is_no_house_style():
    with pytest.raises(ReadingError, match="Give points"), draw.house_style(font_size=float("nan")):
        pass


def test_text_in_a_light_colour_is_darkened_until_it_can_be_read():
    assert style.readable(style.BLUE) == style.BLUE.lower()
    light, dark = style.readable(style.SKY), style.readable("#ffffff")
    assert light != style.SKY.lower() and style._contrast(*map(rgb, (light, "#ffffff"))) >= 4.5
    assert style._contrast(*map(rgb, (dark, "#ffffff"))) >= 4.5
    assert np.isclose(style._contrast(rgb("#000000"), rgb("#ffffff")), 21)


def rgb(colour):
    return np.array(to_rgb(colour))


def test_a_path_without_a_suffix_becomes_a_pdf_and_folders_are_made(tmp_path):
    path = draw.save_figure(Figure(), tmp_path / "new" / "figure")
    assert path == tmp_path / "new" / "figure.pdf"
    assert path.read_bytes().startswith(b"%PDF")
    assert b"CreationDate" not in path.read_bytes()


def test_another_suffix_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ReadingError, match=r"figure\.bmp.*\.pdf, \.svg, \.png"):
        draw.save_figure(Figure(), tmp_path / "figure.bmp")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = draw.save_figure(Figure(), tmp_path / "figure.pdf")
    old = path.read_bytes()
    broken = Figure()
    broken.text(0, 0, r"$\nosuchcommand$")
    with pytest.raises(ValueError, match="nosuchcommand"):
        draw.save_figure(broken, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_leaves_the_settings_and_pyplot_alone(erase_result, tmp_path):
    code = "import sys, matplotlib; a = matplotlib.rcParams.copy(); from mechmask import draw; "
    code += "b = matplotlib.rcParams.copy(); "
    code += "print(dict.__eq__(a, b), 'matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "False", "False"]
    before = dict(matplotlib.rcParams)
    draw.save_figure(draw.erase(erase_result), tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before


def test_every_figure_is_drawn_where_torch_cannot_be_imported(two_readings, erase_result, tmp_path):
    depth, erase = tmp_path / "depth.nc", tmp_path / "erase.nc"
    save_reading(two_readings[1], depth)
    save_reading(erase_result.sel(state="ft_l", drop=True), erase)
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from mechmask import draw
from mechmask.measure.reading import load_reading
draw.save_figure(draw.depth(load_reading({str(depth)!r})), {str(tmp_path / "depth.png")!r})
draw.save_figure(draw.erase(load_reading({str(erase)!r})), {str(tmp_path / "erase.png")!r})
assert all(callable(getattr(draw, name)) for name in draw.__all__ if name != "interactive")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"depth.png", "erase.png"} <= {path.name for path in tmp_path.iterdir()}


def test_a_notebook_shows_it_without_pyplot(erase_result):
    assert draw.erase(erase_result)._repr_png_().startswith(b"\x89PNG")


def test_no_two_kinds_share_a_colour_a_line_style_or_a_marker():
    lines = [style.OLD, style.NEW, style.DISTRACTORS, style.CEILING, style.CONTROL, style.NEVER]
    assert len({look.color for look in lines}) == len({str(look.linestyle) for look in lines}) == len(lines)
    assert len({look.marker for look in lines}) == len(lines)
    verdicts = style.VERDICT_LOOKS.values()
    assert len({look.color for look in verdicts}) == len({look.marker for look in verdicts}) == 4


def test_text_from_data_is_drawn_as_it_is():
    figure = Drawing(3, 3)
    text = figure.text(0, 0, style.plain(r"a_$b_c$ 5$"))
    assert text._preprocess_math(text.get_text()) == ("a_$b_c$ 5$", False)
    assert style.percent(0.95) == "95%" and style.percent(0.999) == "99.9%"

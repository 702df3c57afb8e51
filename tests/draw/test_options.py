"""The five options that every figure has, and the user's settings that every figure lets pass.

The figures are those of ``draw.__all__``: one that is added is tested here, and fails until it has its example in
``conftest.figures``.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from mechmask import draw
from mechmask.errors import ReadingError

NAMES = sorted(name for name in draw.__all__ if name not in ("house_style", "interactive", "report", "save_figure"))
OPTIONS = ("axes", "width", "title", "palette", "font_size")
OF_NUMBERS = {"checkpoints", "heatmap", "weights"}  # they colour numbers, so a palette is a map
N_PANELS = dict.fromkeys(NAMES, 1) | {"delta": 2, "depth": 4, "drift": 3, "erase": 2, "heatmap": 2, "models": 2}
N_PANELS |= {"contrast": 4, "dose": 8, "precision": 3, "reacquisition": 2, "renewal": 2, "trace": 2}  # in the examples
N_PANELS |= {"calibration": 4, "editors": 3, "editors_depth": 2, "editors_sequence": 4}
N_PANELS |= {"categories": 2, "elasticity": 2, "retention": 2, "sweep": 2, "trajectory": 2, "weights": 3}
BY_AX = [name for name in NAMES if "ax" in inspect.signature(getattr(draw, name)).parameters]
DRAWN: dict[str, Figure] = {}
figure_of_each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def usual(name, figures):
    """The figure without options, drawn once for all tests that only look at it."""
    if name not in DRAWN:
        DRAWN[name] = figures[name]()
    return DRAWN[name]


def everything_drawn(figure: Figure) -> list[Text]:
    """Texts that are shown, with those of legends and ticks."""
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def colours(figure: Figure) -> set[str]:
    """Of all lines, bars and areas."""
    lines = [line.get_color() for axes in figure.axes for line in axes.lines]
    bars = [patch.get_facecolor() for axes in figure.axes for patch in axes.patches]
    areas = [colour for axes in figure.axes for area in axes.collections for colour in area.get_facecolor()]
    return {to_hex(colour) for colour in lines + bars + areas}


@figure_of_each
def test_every_figure_takes_the_five_options_by_keyword_and_explains_them(name):
    parameters = inspect.signature(getattr(draw, name)).parameters
    for option in OPTIONS:
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY and parameters[option].default is None
        assert f"        {option}: " in inspect.getdoc(getattr(draw, name)).replace("\n    ", "\n        ")
    assert inspect.signature(getattr(draw, name)).return_annotation == "Figure"


@figure_of_each
def test_axes_are_drawn_into_and_their_figure_keeps_its_size(name, figures):
    n = N_PANELS[name]
    figure, grid = plt.subplots(2, n + 1, figsize=(3 * n, 5))
    bystander = grid[0, n]
    given = grid[1, :n] if n > 1 else grid[1, 0]
    returned = figures[name](axes=given, title="My title", font_size=9)
    assert returned is figure and figure.get_size_inches().tolist() == [3 * n, 5]
    assert all(axes.has_data() for axes in grid[1, :n]) and not bystander.has_data()
    assert not any(axes.has_data() for axes in grid[0])
    assert grid[1, 0].get_title().startswith("My title")
    assert grid[1, 0].xaxis.label.get_fontsize() == 9
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", ["erase", "trajectory", "waterfall"])
def test_axes_of_a_whole_subfigure_have_their_legend_below(name, figures):
    n = N_PANELS[name]
    whole = plt.figure(figsize=(4 * n, 12), layout="constrained")
    upper, lower = whole.subfigures(2, 1)
    lower.subplots()
    assert figures[name](axes=upper.subplots(1, n)) is whole
    whole.draw_without_rendering()
    (legend,) = upper.legends
    box = legend.get_window_extent()
    assert not any(box.overlaps(axes.bbox) for axes in whole.axes)


@figure_of_each
def test_a_wrong_number_of_axes_is_refused_with_the_right_one(name, figures):
    n = N_PANELS[name]
    given = list(plt.subplots(1, n + 1)[1])
    for axes in (given[: n - 1], given):
        with pytest.raises(ReadingError, match=rf"Give {n}, row by row"):
            figures[name](axes=axes)


@pytest.mark.parametrize("name", BY_AX)
def test_one_panel_goes_by_ax_too(name, figures):
    figure, (panel, bystander) = plt.subplots(1, 2)
    assert figures[name](ax=panel) is figure and panel.has_data() and not bystander.has_data()
    with pytest.raises(ReadingError, match="Give one of the two"):
        figures[name](ax=panel, axes=bystander)
    with pytest.raises(ReadingError, match="Set the width of your figure"):
        figures[name](ax=panel, width="single")


def test_every_figure_that_cannot_have_several_panels_takes_ax():
    assert set(BY_AX) == {name for name in NAMES if N_PANELS[name] == 1}


@figure_of_each
def test_a_width_is_that_of_the_figure(name, figures):
    for width, inches in (("double", 7.0), ("single", 3.5)):
        figure = figures[name](width=width)
        assert isinstance(figure, Figure) and figure.get_size_inches()[0] == inches
    assert all(axes.bbox.height / figure.dpi > 0.4 for axes in figure.axes)


@figure_of_each
def test_a_title_stands_above_the_panels(name, figures, usual):
    figure = figures[name](title="My own title")
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    assert titles.count("My own title") == 1
    assert any(axes.get_title() for axes in usual.axes)


@figure_of_each
def test_a_font_size_is_that_of_the_labels_and_all_type_follows(name, figures, usual):
    def sizes(figure):
        return {round(text.get_fontsize(), 6) for text in everything_drawn(figure)}

    small, large = sizes(usual), sizes(figures[name](font_size=12))
    assert 8 in small and 12 in large
    assert large == {round(1.5 * size, 6) for size in small}


@figure_of_each
def test_a_palette_colours_what_the_figure_draws(name, figures, usual):
    if name in OF_NUMBERS:
        figure = figures[name](palette=["#102030", "#fefefe"])
        cells = next(axes.images[0] for axes in figure.axes if axes.images)
        assert [to_hex(cells.cmap(share)) for share in (0.0, 1.0)] == ["#102030", "#fefefe"]
        assert figures[name](palette="PuOr").findobj(type(cells))[0].cmap.name == "PuOr"
        return
    before = colours(usual)
    listed = [f"#a0{i:02x}ff" for i in range(10)]
    in_turn = colours(figures[name](palette=listed))
    assert listed[0] in in_turn and not in_turn <= before
    assert "#1f77b4" in colours(figures[name](palette="tab10"))


REFUSED = [
    ("width", "wide", "'single', 'double', or inches"),
    ("width", 0, "'single', 'double', or inches"),
    ("width", float("nan"), "'single', 'double', or inches"),
    ("font_size", -3, "Give points"),
    ("font_size", "large", "Give points"),
    ("palette", "no such map", "colour maps"),
    ("palette", ["#112233", "no colour"] * 6, "'no colour'"),
    ("palette", [], "Give"),
    ("palette", {"nobody": "red"}, "nobody"),
    ("axes", "here", "plt.subplots"),
]


@figure_of_each
def test_an_option_that_does_not_fit_is_refused_in_one_sentence(name, figures):
    for option, value, said in REFUSED:
        with pytest.raises(ReadingError, match=said):
            figures[name](**{option: value})


@figure_of_each
def test_the_users_settings_show(name, figures, usual):
    with plt.rc_context({"font.size": 14, "lines.linewidth": 3, "font.family": ["serif"], "xtick.labelsize": 13}):
        figure = figures[name]()
    texts = everything_drawn(figure)
    assert max(text.get_fontsize() for text in texts) >= 14
    assert min(text.get_fontsize() for text in texts) > min(text.get_fontsize() for text in everything_drawn(usual))
    assert {text.get_fontfamily()[0] for text in texts} == {"serif"}
    ticks = [label for axes in figure.axes[:1] for label in axes.get_xticklabels() if label.get_text()]
    assert {label.get_fontsize() for label in ticks} <= {13}
    widths = [{line.get_linewidth() for axes in each.axes for line in axes.lines} for each in (usual, figure)]
    assert not widths[0] or np.isclose(max(widths[1]) / max(widths[0]), 3 / 1.3)


@figure_of_each
def test_an_enclosing_style_shows_and_lines_stand_out_from_its_ground(name, figures):
    with plt.style.context("dark_background"):
        figure = figures[name]()
    assert to_hex(figure.get_facecolor()) == "#000000"
    assert {to_hex(text.get_color()) for axes in figure.axes for text in (axes.title, axes.xaxis.label)} == {"#ffffff"}
    lines = [line for axes in figure.axes if not axes.images for line in axes.lines if line.get_label()[0] != "_"]
    assert "#000000" not in {to_hex(line.get_color()) for line in lines}


@figure_of_each
def test_a_resized_figure_clips_neither_its_legend_nor_its_titles(name, figures):
    figure = figures[name]()
    figure.set_size_inches(3.0, 4.0)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    for text in (legend, *titles):
        box = text.get_window_extent()
        assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text
        assert figure.bbox.y0 - 1 <= box.y0 and box.y1 <= figure.bbox.y1 + 1, text
    assert not any(legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes)


def test_settings_are_left_as_they_were(figures):
    before = dict(plt.rcParams)
    figures["waterfall"](font_size=5, palette="tab10", width="double").draw_without_rendering()
    assert dict(plt.rcParams) == before


def test_a_width_is_inches_too(figures):
    assert figures["waterfall"](width=4.25).get_size_inches()[0] == 4.25


def test_a_width_of_the_users_own_axes_is_refused(figures):
    with pytest.raises(ReadingError, match="Set the width of your figure"):
        figures["waterfall"](axes=plt.subplots()[1], width=4)


def test_axes_of_two_figures_are_refused(figures):
    with pytest.raises(ReadingError, match="Give axes of one"):
        figures["trajectory"](axes=[plt.subplots()[1], plt.subplots()[1]])


def test_axes_may_be_nested_as_subplots_makes_them(figures):
    figure, grid = plt.subplots(2, 2, layout="constrained", figsize=(9, 6))
    figures["depth"](axes=[list(row) for row in grid])
    limits = [[axes.get_ylim() for axes in row] for row in grid]
    assert all(len(set(row)) == 1 for row in limits)  # a new figure shares them, so do these
    assert len(figure.legends) == 1


def test_the_users_colour_cycle_is_the_palette_only_where_it_was_changed(figures):
    assert {"#0072b2", "#d55e00"} <= colours(figures["trajectory"]())
    with plt.rc_context({"axes.prop_cycle": plt.cycler(color=["#010203", "#040506"])}):
        assert {"#010203", "#040506"} <= colours(figures["trajectory"]())
        assert "#0072b2" in colours(figures["trajectory"](palette={"old": "#0072b2"}))


def test_a_figure_keeps_the_settings_of_its_making(figures):
    with plt.rc_context({"font.size": 14, "xtick.labelsize": 13}):
        figure = figures["trajectory"]()
    figure.draw_without_rendering()
    assert {label.get_fontsize() for label in figure.axes[0].get_xticklabels()} == {13}
    assert np.isclose(figure.axes[0].xaxis.label.get_fontsize(), 14)

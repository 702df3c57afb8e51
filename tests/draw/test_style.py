import subprocess
import sys

import matplotlib
import pytest
from matplotlib.figure import Figure

from mechmask import draw
from mechmask.draw import style
from mechmask.errors import ReadingError


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png"])
@pytest.mark.parametrize("name", ["trajectory", "depth", "erase"])
def test_the_same_figure_gives_the_same_bytes(request, tmp_path, name, suffix):
    reading = request.getfixturevalue("erase_result" if name == "erase" else f"{name}_reading")
    function = getattr(draw, name)
    figure = function(reading)
    paths = [draw.save_figure(figure, tmp_path / f"{i}{suffix}") for i in range(2)]
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "xtick.direction": "in", "pdf.fonttype": 3}):
        paths.append(draw.save_figure(function(reading), tmp_path / f"other settings{suffix}"))
    first, *others = [path.read_bytes() for path in paths]
    assert len(first) > 5000
    assert all(other == first for other in others)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


FIGURES = {
    "delta": lambda value: draw.delta(*value("two_readings")),
    "heatmap": lambda value: draw.heatmap(value("depth_reading")),
    "checkpoints": lambda value: draw.checkpoints(value("checkpoint_reading")),
    "waterfall": lambda value: draw.waterfall(value("attribution"), top=4),
    "interventions": lambda value: draw.interventions(None, *value("intervened")),
    "models": lambda value: draw.models(dict(zip("ab", value("two_readings"), strict=True))),
    "lens_quality": lambda value: draw.lens_quality(value("lens_report")),
}


@pytest.mark.parametrize(
    ("name", "suffix"), [*((name, ".svg") for name in FIGURES), ("heatmap", ".pdf"), ("heatmap", ".png")]
)
def test_a_figure_made_again_under_other_settings_gives_the_same_bytes(request, tmp_path, name, suffix):
    path = draw.save_figure(FIGURES[name](request.getfixturevalue), tmp_path / f"first{suffix}")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "hatch.linewidth": 5, "image.cmap": "jet"}):
        again = draw.save_figure(FIGURES[name](request.getfixturevalue), tmp_path / f"again{suffix}")
    assert again.read_bytes() == path.read_bytes() and path.stat().st_size > 5000


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


def test_a_notebook_shows_it_without_pyplot(erase_result):
    assert draw.erase(erase_result)._repr_png_().startswith(b"\x89PNG")


def test_no_two_kinds_share_a_colour_a_line_style_or_a_marker():
    lines = [style.OLD, style.NEW, style.DISTRACTORS, style.CEILING, style.CONTROL, style.NEVER]
    assert len({look.color for look in lines}) == len({str(look.linestyle) for look in lines}) == len(lines)
    assert len({look.marker for look in lines}) == len(lines)
    verdicts = style.VERDICT_LOOKS.values()
    assert len({look.color for look in verdicts}) == len({look.marker for look in verdicts}) == 4


def test_text_from_data_is_drawn_as_it_is():
    figure = style.Drawing(3, 3)
    text = figure.text(0, 0, style.plain(r"a_$b_c$ 5$"))
    assert text._preprocess_math(text.get_text()) == ("a_$b_c$ 5$", False)
    assert style.percent(0.95) == "95%" and style.percent(0.999) == "99.9%"

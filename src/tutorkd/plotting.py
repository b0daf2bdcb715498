"""What all plots share: colours, and files that are written whole."""

from pathlib import Path

from matplotlib.figure import Figure

from tutorkd.files import replacing

# Okabe and Ito's colours, told apart by colour-blind readers; yellow, too pale for lines on white, is left out.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000"]


def as_it_is(name: str) -> str:
    """A name that matplotlib prints as it is: dollars would begin a formula."""
    return name.replace("$", r"\$")


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; returns the files."""
    files = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for file in files:
        with replacing(file) as partial:
            figure.savefig(partial, format=file.suffix[1:], dpi=150, bbox_inches="tight")
    return files

"""A chart as a picture of its own."""

from __future__ import annotations

from xml.etree import ElementTree

from recipes.report.chart_file import chart_svg
from recipes.report.charts import Curve, Mark, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def test_everything_is_drawn_and_escaped() -> None:
    curves = [
        Curve("training <b>&", [(1.0, 3.0), (50.0, 2.0), (100.0, 1.0)], "raw"),
        Curve("held out", [(50.0, 2.5), (100.0, 2.0)], "c1", markers=True),
    ]
    chart = line_chart("Loss", curves, [Mark(60, "resumed at step 60", "resume")], note="Nats.")
    assert chart is not None
    picture = ElementTree.fromstring(chart_svg(chart))
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"Loss. Nats.", "training <b>&", "held out", "resumed", "step", "100"} <= set(texts)
    assert len([*picture.iter(f"{SVG}path")]) == 2 and len([*picture.iter(f"{SVG}circle")]) == 2
    # Its colours are in the file itself.
    style = next(picture.iter(f"{SVG}style")).text or ""
    assert all(f".{name} {{ stroke: #" in style for name in ("raw", "c1", "resume"))

"""Sphinx's settings for the book; course_lib/publishing/book.py lays out what it reads. Nothing is run."""

project = "Adding to Language Models"
author = "the course's authors"
project_copyright = "text and figures CC BY 4.0, code MIT"
extensions = ["myst_nb"]
exclude_patterns = ["_build"]
language = "en"

nb_execution_mode = "off"  # the outputs are those that the notebooks carry
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_update_mathjax = False  # formulas also stand inside folded HTML, which only MathJax sees
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "misc.highlighting_failure"]

html_theme = "furo"
html_title = "Adding to Language Models"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_show_sourcelink = False
html_copy_source = False
mathjax_path = "mathjax.js"  # beside the pages: formulas need no network
mathjax3_config = {
    "tex": {"inlineMath": [["\\(", "\\)"], ["$", "$"]], "displayMath": [["\\[", "\\]"], ["$$", "$$"]]},
    "svg": {"fontCache": "global"},
    "options": {"enableMenu": False},
}

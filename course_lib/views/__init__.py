"""Figures and widgets: one palette, titles that say the finding, a static picture beside everything that moves."""

from .drawing import SITES, draw_block
from .figures import attention_map, budget, compare, curves, losses, next_tokens
from .places import where_it_adds
from .rating import Ratings
from .style import ROLES, Picture, apply, figure_with_alt, finding, new_figure, role
from .widgets import explore

__all__ = [
    "ROLES",
    "SITES",
    "Picture",
    "Ratings",
    "apply",
    "attention_map",
    "budget",
    "compare",
    "curves",
    "draw_block",
    "explore",
    "figure_with_alt",
    "finding",
    "losses",
    "new_figure",
    "next_tokens",
    "role",
    "where_it_adds",
]

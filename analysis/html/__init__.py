"""Reports as self-contained HTML pages: `group_page` for one experiment, `index_page` with `compare` for several."""

from analysis.html.experiments import ComparedGroup, compare
from analysis.html.page import group_page, index_page

__all__ = ["ComparedGroup", "compare", "group_page", "index_page"]

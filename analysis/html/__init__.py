"""Reports as self-contained HTML pages: `group_page` and `index_page`."""

from analysis.html.page import group_page, index_page

__all__ = ["group_page", "index_page"]

"""How numbers and tables are written: for the terminal, Markdown, CSV, LaTeX.

Imports no other room of `analysis`.
"""

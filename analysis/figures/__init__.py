"""Figures for print: how they look (`style`), curves (`lines`), and what the ranks learn (`ranks`)."""

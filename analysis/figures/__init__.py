"""Figures for print: appearance (`style`), curves (`lines`) and heat maps of ranks (`ranks`)."""

"""Launchers, which run the cells of a sweep under `-m`: one module per launcher, and the code they share."""

"""What the commands do after their arguments have been read. Loads the large packages.

Imports every other room; the modules at the top of `analysis` import it.
"""

"""Tables from run directories: rows, columns, numbers and the notes below them.

A YAML spec (`spec`) defines what is shown. `select` and `prepare` find the runs, `build` computes the numbers,
`compare` tests rows against a baseline, `marks` and `cautions` judge whether a comparison is fair, `headline` says what
leads, and `write` formats the table. The same runs give the same bytes. Reference: docs/tables.md.
"""

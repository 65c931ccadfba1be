"""Reads CSV and TSV files of published datasets, and reports all their problems at once."""

import csv
import io
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rlbench.base.errors import BadInput
from rlbench.base.user_files import read_user_text
from rlbench.data.checks import Finding, report

Row = TypeVar("Row")


def read_table(
    file: Path,
    columns: Sequence[str],
    read: Callable[[Mapping[str, str]], Row | tuple[str, str]],
    problems: list[str],
    delimiter: str = ",",
) -> list[Row]:
    """The rows of a file.

    Args:
        file: the file; its first line has the names of the columns.
        columns: names of the columns that are needed.
        read: reads a row that has all of them, or returns (kind of problem, detail). A row is no tuple.
        problems: gets the problems of the file.
        delimiter: between the columns, a comma or a tab.
    """
    findings: list[Finding] = []
    rows: list[Row] = []
    try:
        reader = csv.DictReader(io.StringIO(read_user_text(file), newline=""), delimiter=delimiter, strict=True)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            problems.append(f"{file}: column {', '.join(missing)} is missing; it has {reprlib.repr(reader.fieldnames)}")
            return []
        for row in reader:
            if None in row or any(row[column] is None for column in columns):
                findings.append((reader.line_num, "the number of columns differs from that of the first line", ""))
                continue
            found = read(row)
            if isinstance(found, tuple):
                findings.append((reader.line_num, *found))
            else:
                rows.append(found)
    except BadInput as error:
        problems += error.problems
        return []
    except csv.Error as error:
        problems.append(f"{file} is not {'TSV' if delimiter == chr(9) else 'CSV'}: {error}")
        return []
    if not rows and not findings:
        problems.append(f"{file} has no rows")
    problems += report(str(file), findings, "line")
    return rows

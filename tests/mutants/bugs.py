"""The planted bugs in `planted/<area>.toml`, checked as they are read."""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "planted"
KEYS = {"id", "file", "old", "new", "consequence", "tests", "equivalent"}


class BadBug(Exception):
    """A planted bug that cannot be planted, with the reason."""


@dataclass(frozen=True)
class Bug:
    """One change to one file, of a kind that developers make.

    Attributes:
        area: name of the TOML file that holds it.
        id: unique name.
        file: path of the changed file, relative to the repository.
        old: text that occurs in the file exactly once.
        new: text that replaces it.
        consequence: what a user would get wrong.
        tests: test files, or tests as `file::name`, that could see it.
        equivalent: why no test can see it; empty for a real bug.
    """

    area: str
    id: str
    file: str
    old: str
    new: str
    consequence: str
    tests: tuple[str, ...]
    equivalent: str = ""

    def planted(self, root: Path) -> str:
        """The text of the changed file.

        Raises:
            BadBug: if `old` does not occur exactly once, or a changed Python file does not compile.
        """
        path = root / self.file
        if not path.is_file():
            raise BadBug(f"{self.area}/{self.id}: there is no file {self.file}")
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise BadBug(f"{self.area}/{self.id}: its old text occurs {count} times in {self.file}; it must occur once")
        changed = text.replace(self.old, self.new)
        if path.suffix == ".py":
            try:
                ast.parse(changed)
            except SyntaxError as error:
                raise BadBug(f"{self.area}/{self.id}: {self.file} does not compile with it: {error}") from error
        return changed


def read_bugs(folder: Path = FOLDER) -> list[Bug]:
    """All planted bugs, by area.

    Raises:
        BadBug: for unknown or missing keys, empty texts, and ids that occur twice.
    """
    bugs: list[Bug] = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["bug"]:
            name = f"{path.stem}/{entry.get('id')}"
            missing = KEYS - {"equivalent"} - set(entry)
            if missing or set(entry) - KEYS:
                raise BadBug(f"{name}: missing keys {sorted(missing)}, unknown keys {sorted(set(entry) - KEYS)}")
            if entry["old"] == entry["new"] or not entry["consequence"].strip() or not entry["tests"]:
                raise BadBug(f"{name}: it needs a change, a consequence and at least one test")
            bugs.append(Bug(path.stem, **{**entry, "tests": tuple(entry["tests"])}))
    twice = {bug.id for bug in bugs if sum(other.id == bug.id for other in bugs) > 1}
    if twice:
        raise BadBug(f"ids that occur twice: {', '.join(sorted(twice))}")
    return bugs

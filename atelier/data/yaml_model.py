"""Reading of hand-written YAML files as models, with the position of each mistake.

An error has one line per mistake: `file:line: key.path: problem; fix`.
"""

import difflib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from atelier.data import yaml_text
from atelier.data.yaml_text import YamlError
from atelier.errors import BadInput
from atelier.validation import mistakes

Model = TypeVar("Model", bound=BaseModel)


def load(path: Path, model: type[Model], error: type[BadInput]) -> Model:
    """Read the file `path` as a `model`.

    Raises `error`, which lists the mistakes with line and key.
    """
    return parse(_read(path, error), path, model, error)


def parse(text: str, path: Path, model: type[Model], error: type[BadInput]) -> Model:
    """Parse a text as a `model`; `path` names it in errors. Raises `error` like `load`."""
    try:
        document = yaml_text.read(text)
    except YamlError as problem:
        line = f":{problem.line}" if problem.line else ""
        raise error(f"{path}{line}: {problem}") from problem
    value = {} if document.is_empty else document.value
    if not isinstance(value, dict):
        raise error(
            f"{path}: must be a mapping (`key: value` lines), but is a {type(value).__name__}"
        )
    try:
        return model.model_validate(value)
    except ValidationError as problem:
        lines = (
            f"{path}:{document.line(mistake.loc)}: {mistake.key}: {mistake.text}"
            if mistake.loc
            else f"{path}: {mistake.text}"
            for mistake in mistakes(problem, model=model, values=True)
        )
        raise error("\n".join(lines)) from problem


def _read(path: Path, error: type[BadInput]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _names(path.parent), n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise error(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        inside = [name for name in _names(path) if name.endswith((".yaml", ".yml"))]
        hint = f"; did you mean {path / inside[0]}?" if len(inside) == 1 else ""
        raise error(f"{path}: is a folder, not a file{hint}") from None
    except OSError as problem:
        raise error(
            f"{path}: cannot be read ({problem.strerror}); check its permissions"
        ) from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: is not UTF-8 text ({problem.reason}); save it as UTF-8") from problem


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

"""Failing cases on disk, so that they can be replayed by id."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from shiftproof.reference.builders import BUILDERS

from ..candidates.declaration import Candidate, UsageError
from ..candidates.given import Given
from ..cases.generators import AnyRecipe
from ..cases.recipe import Recipe, digest
from ..label_builders.cases import BuilderRecipe
from ..suggest import nearest
from .folder import ROOT, make, prune

FOLDER = ROOT / "replays"


@dataclass(frozen=True)
class Stored:
    """One failing case: candidate, spec, device, law, the features and message of the failure, and the recipe."""

    candidate: Candidate
    spec: str
    device: str
    law: str
    features: tuple[str, ...]
    message: str
    recipe: AnyRecipe

    @property
    def id(self) -> str:
        """Eight hex digits: equal for the same candidate, spec, device, law and recipe."""
        return digest(self.candidate.call, self.spec, self.device, self.law, self.recipe.canonical())

    def save(self, folder: Path = FOLDER) -> str:
        """Write the case under its id and return the id. Of older cases, only the newest stay.

        If the folder cannot be written, do nothing.
        """
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        data["candidate"] = self.candidate.to_json()
        data["is_object"] = self.candidate.given is not None and not self.candidate.given.has_name
        data["recipe"] = self.recipe.to_json()
        try:
            make(folder)
            (folder / f"{self.id}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            prune(folder, "*.json")
        except OSError:
            pass
        return self.id


def load(id: str, folder: Path = FOLDER, given: Given | None = None) -> Stored:
    """Read a stored case. ``given`` takes the place of the candidate, if that is a Python object.

    Raises:
        UsageError: the id is not stored in the folder, or its file cannot be read; or the candidate was a Python object
            that has no name, and none is given.
    """
    path = folder / f"{id}.json"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.json")]
        where = f"{folder} holds {len(known)} cases" if known else f"{folder} holds no cases"
        raise UsageError(
            f"no stored case {id!r}: {where}{nearest(id, known)}; run replay in the folder in which you ran check"
        )
    try:
        data: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        declared = dict(data.pop("candidate"))
        if data.pop("is_object", False) and given is None:
            raise UsageError(
                f"{id} was found in {declared['name']}, a Python object that cannot be found by name; give it the "
                f"object, as in shiftproof.replay({id!r}, my_loss)"
            )
        data["features"] = tuple(data["features"])
        kind = BuilderRecipe if data["spec"] in BUILDERS else Recipe
        data["recipe"] = kind.from_json(dict(data["recipe"]))
        return Stored(candidate=Candidate.from_json(declared, given), **data)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); delete it and run check again") from None

"""Parameters that change while a job runs: those in force, and those that earlier attempts changed, at their steps."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from worker_image.contract.commands import AppliedChange, ParameterValue
from worker_image.contract.train_sae import TrainSaeParams


class Refused(Exception):
    """The change cannot be made; the message says why."""


class Steering:
    """What is in force, and what is still to be repeated of what earlier attempts were told.

    An attempt that ends without a checkpoint loses the steps since the last one, and with them the changes made
    there. Whoever does these steps again makes the changes again, each after as many steps as before.
    """

    def __init__(self, params: TrainSaeParams, changes: Iterable[AppliedChange] = ()) -> None:
        self._asked = params
        self.params = params
        """The parameters in force."""
        self._changed: dict[str, ParameterValue] = {}
        self.history: list[AppliedChange] = []
        """The changes that were made, oldest first."""
        self._pending = list(changes)

    @property
    def count(self) -> int:
        """How many changes were made."""
        return len(self.history)

    @property
    def changed(self) -> dict[str, ParameterValue]:
        """Parameters that are not as the job was submitted with."""
        return dict(self._changed)

    def to_json(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"changed": self._changed, "history": [change.model_dump(mode="json") for change in self.history]}

    def restore(
        self, kept: Mapping[str, Any], written_with: Mapping[str, Any], *, is_own: bool
    ) -> tuple[dict[str, ParameterValue], dict[str, ParameterValue]]:
        """Put in force what a checkpoint says was. Returns what was changed before it was written, and what is to be
        changed now that its state is in place.

        What the job asks for and the checkpoint's own job, ``written_with``, did not is the newer wish. So is all that
        another job asks for, unless ``is_own``: it was submitted after whatever was changed before the checkpoint.
        """
        asked = self._asked.model_dump(mode="json")
        before = written_with if is_own else {**written_with, **kept["changed"]}
        newer = {name: asked[name] for name in self._asked.live if asked[name] != before.get(name, asked[name])}
        changed = {name: value for name, value in kept["changed"].items() if name not in newer}
        self._put(changed)
        self.history = [AppliedChange.model_validate(change) for change in kept["history"]]
        made = {change.id for change in self.history}
        self._pending = [change for change in self._pending if change.id not in made]
        return dict(kept["changed"]), newer

    def change(self, made: AppliedChange) -> None:
        """Put its values in force, for good: what earlier attempts were told of them is not repeated any more.

        Raises:
            Refused: one of them cannot change in a running job, or cannot be so.
        """
        self.repeat(made)
        remaining = (
            change.model_copy(update={"values": {k: v for k, v in change.values.items() if k not in made.values}})
            for change in self._pending
        )
        self._pending = [change for change in remaining if change.values]

    def repeat(self, made: AppliedChange) -> None:
        """Put its values in force as an earlier attempt did.

        Raises:
            Refused: one of them cannot change in a running job, or cannot be so.
        """
        for name in made.values:
            if name not in self._asked.live:
                raise Refused(f"{name} cannot change while the job runs; one of {', '.join(sorted(self._asked.live))}")
            if name in self._asked.varied():
                raise Refused(f"{name} differs between the autoencoders of this job")
        self._put(self._changed | made.values)
        self.history.append(made)

    def due(self, step: int) -> AppliedChange | None:
        """The next change to repeat after so many steps, taken off the list; None when there is none."""
        for place, change in enumerate(self._pending):
            if change.step <= step:
                return self._pending.pop(place)
        return None

    def _put(self, changed: dict[str, ParameterValue]) -> None:
        try:
            self.params = TrainSaeParams.model_validate(self._asked.model_dump() | changed)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Refused(f"{where}: {first['msg']}" if where else str(first["msg"])) from None
        self._changed = changed

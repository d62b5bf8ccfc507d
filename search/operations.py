"""What a person may ask of an installation over the API: to look, to build, to switch, to go back.

`search` answers queries and knows nothing of builds; who implements this does
(`reindexer/operations.py`). Every answer is a plain JSON value, the same that the verb of that name
prints with --json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Json = Mapping[str, Any]


class Operations(Protocol):
    """The verbs, as functions. They raise what the verbs raise.

    Raises everywhere: DatabaseUnavailable. `who` is recorded with what was done.
    """

    # -- looking ---------------------------------------------------------------------------------

    def status(self) -> Json:
        """As `status --json`."""
        ...

    def generations(self) -> Sequence[Json]: ...

    def generation(self, name: str) -> Json:
        """Raises GenerationNotFound."""
        ...

    def models(self) -> Sequence[Json]: ...

    def model(self, name: str) -> Json:
        """A version (`support@4`), or the newest of a name. Raises ModelNotFound."""
        ...

    def builds(self) -> Sequence[Json]:
        """Newest first."""
        ...

    def build(self, build_id: int) -> Json:
        """Raises BuildNotFound."""
        ...

    def jobs(self, limit: int = 50) -> Sequence[Json]:
        """What workers were asked for, newest first."""
        ...

    def schedules(self) -> Sequence[Json]:
        """What is asked for again and again, as `schedule --json`."""
        ...

    def training_report(self, name: str) -> bytes | None:
        """The HTML page that the training of a version left; None when it was not trained or not
        measured. Raises ModelNotFound."""
        ...

    def events(self, after: int = 0, limit: int = 100) -> Sequence[Json]:
        """What happened after the event with this id, oldest first."""
        ...

    def last_event(self) -> int:
        """Id of the newest event; 0 when nothing has happened."""
        ...

    # -- doing -----------------------------------------------------------------------------------

    def start_build(
        self,
        model: str,
        *,
        cut_over: bool = False,
        evaluation: str | None = None,
        split: str = "test",
        who: str = "local",
    ) -> Json:
        """Ask for a build of a registered model, and for the switch to it if cut_over; a worker
        does it. Returns the build.

        evaluation: a folder of judged queries that the service may read. Raises ModelNotFound,
        WrongState when this very recipe is live already, InvalidRequest.
        """
        ...

    def pause(self, build_id: int, *, who: str = "local") -> Json:
        """Raises BuildNotFound, WrongState."""
        ...

    def resume(self, build_id: int, *, who: str = "local") -> Json:
        """Raises BuildNotFound, WrongState."""
        ...

    def cancel(self, build_id: int, *, who: str = "local") -> Json:
        """Raises BuildNotFound, WrongState."""
        ...

    def cut_over(self, generation: str, *, override: str | None = None, who: str = "local") -> Json:
        """Prepare every serving process and switch. Raises GenerationNotFound, WrongState,
        CutOverRefused, and the errors of a gate or a lease."""
        ...

    def rollback(self, *, who: str = "local") -> Json:
        """Raises WrongState when there is nothing to go back to."""
        ...

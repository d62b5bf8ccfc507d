"""What may be done over the API, with the functions that the verbs call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reindexer.build_requests import cancel_build, pause_build, queue_build, requeue_build
from reindexer.cutover import check_trained_better
from reindexer.cutover import cut_over as switch
from reindexer.cutover import rollback as switch_back
from reindexer.data_directory import DataDirectory
from reindexer.jobs import JobQueue
from reindexer.journal import Build
from reindexer.listings import (
    generation_json,
    generations_json,
    used_by,
    version_json,
    versions_json,
)
from reindexer.status import read_status
from search.errors import BuildNotFound, InvalidOperation
from training.errors import JudgmentsInvalid
from training.judgments import read_judgments

Json = Mapping[str, Any]
MAX_BUILDS = 100  # shown in the list of builds
REPORT = "report.html"  # of a training, in the folder of the version


class DirectoryOperations:
    """`search.operations.Operations` over one data directory."""

    def __init__(self, data: DataDirectory, *, on_asked: Callable[[], None] = lambda: None) -> None:
        """on_asked: a job was put into the queue; a worker of this process may look at once."""
        self._data = data
        self._queue = JobQueue(data.database)
        self._on_asked = on_asked

    # -- looking ---------------------------------------------------------------------------------

    def status(self) -> Json:
        return read_status(self._data.settings)

    def generations(self) -> Sequence[Json]:
        return generations_json(self._data)

    def generation(self, name: str) -> Json:
        return generation_json(self._data, name)

    def models(self) -> Sequence[Json]:
        return versions_json(self._data)

    def model(self, name: str) -> Json:
        version = self._data.registry.resolve(name)
        return {**version.to_json(), **version_json(version, used_by(self._data))}

    def builds(self) -> Sequence[Json]:
        found = read_status(self._data.settings, n_builds=MAX_BUILDS)["builds"]
        assert isinstance(found, list)
        return found

    def build(self, build_id: int) -> Json:
        for build in self.builds():
            if build["build_id"] == build_id:
                return build
        raise BuildNotFound(f"no build {build_id}; look at `reindexer status`")

    def jobs(self, limit: int = 50) -> Sequence[Json]:
        return [job.to_json() for job in self._queue.recent(limit)]

    def schedules(self) -> Sequence[Json]:
        from reindexer.schedule import Schedules  # brings the scheduler in

        return [schedule.to_json() for schedule in Schedules(self._data.database).all()]

    def training_report(self, name: str) -> bytes | None:
        version = self._data.registry.resolve(name)
        return (version.path / REPORT).read_bytes() if REPORT in version.files else None

    def events(self, after: int = 0, limit: int = 100) -> Sequence[Json]:
        return self._data.catalog.events.after(after, limit)

    def last_event(self) -> int:
        return self._data.catalog.events.last_id()

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
        data = self._data
        arguments = self._judged(evaluation, split)
        version = data.registry.resolve(model)
        if cut_over:
            check_trained_better(data, str(version), None)  # before hours of encoding
        build = queue_build(data, version, cut_over_after=cut_over, arguments=arguments, who=who)
        self._on_asked()
        return self.build(build.build_id)

    def pause(self, build_id: int, *, who: str = "local") -> Json:
        pause_build(self._data, self._of(build_id), who=who)
        return self.build(build_id)

    def resume(self, build_id: int, *, who: str = "local") -> Json:
        requeue_build(self._data, self._of(build_id), who=who)
        self._on_asked()
        return self.build(build_id)

    def cancel(self, build_id: int, *, who: str = "local") -> Json:
        cancel_build(self._data, self._of(build_id), who=who)
        return self.build(build_id)

    def cut_over(self, generation: str, *, override: str | None = None, who: str = "local") -> Json:
        return switch(self._data, generation, override=override, who=who).to_json()

    def rollback(self, *, who: str = "local") -> Json:
        return switch_back(self._data, who=who).to_json()

    def _of(self, build_id: int) -> Build:
        for build in self._data.journal.builds():
            if build.build_id == build_id:
                return build
        raise BuildNotFound(f"no build {build_id}; look at `reindexer status`")

    def _judged(self, evaluation: str | None, split: str) -> dict[str, str]:
        """A folder of judged queries inside the one that the settings allow: whoever may start a
        build may not read any file that way."""
        if evaluation is None:
            return {}
        allowed = self._data.settings.evaluation_dir
        if allowed is None:
            raise InvalidOperation(
                "this service lets nobody name a folder of judged queries; set "
                "operate.evaluation_dir to the folder that holds them"
            )
        root = Path(allowed).resolve()
        try:
            folder = (root / evaluation).resolve()
            folder.is_dir()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a circle of links
            raise InvalidOperation(f"{evaluation[:80]!r} names no folder: {error}") from None
        if not folder.is_relative_to(root):
            raise InvalidOperation(
                f"{evaluation!r} is outside the folder that operate.evaluation_dir allows"
            )
        try:
            read_judgments(folder, split)
        except JudgmentsInvalid as error:
            raise InvalidOperation(str(error)) from error
        return {"eval": str(folder), "split": split}

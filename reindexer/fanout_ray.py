"""Actors on a Ray cluster. The one module that imports ray.

Dead actors are replaced here and not by Ray, whose restarts would not know which chunks are to be
done again. An actor that waits for a machine holds no chunk, so an autoscaling cluster may grow
under a build.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reindexer.chunk_work import ActorOrder, ChunkResult, ChunkWork
from reindexer.chunks import Chunk
from reindexer.data_directory import DataDirectory
from reindexer.errors import BuildFailed
from reindexer.fanout import ActorLost, ActorReady, Answer
from reindexer.governor import lower_priority
from training.extras import require
from training.model_archive import pack, unpack
from training.registry import ModelVersion

require("ray", extra="ray")

import ray  # noqa: E402
import ray.exceptions  # noqa: E402

LOOK_S = 2.0  # between two looks at what the cluster has


class RayChunkWork(ChunkWork):
    """An actor on any node: it brings the model along where the registry cannot be seen."""

    def __init__(self, order: ActorOrder, model: Sequence[Any]) -> None:
        """model: one reference to the version's files, in a list so that Ray does not fetch them
        before they are asked for."""
        super().__init__(order, on_neighbours=lower_priority)  # a process of its own
        self._archive = model

    def ready(self) -> str:
        order = self._order
        if not order.settings.data_dir.is_dir():  # another machine
            folder = Path(tempfile.gettempdir()) / f"reindexer-actors-{order.fingerprint[:16]}"
            settings = replace(order.settings, data_dir=folder, database_url=order.settings.sql_url)
            self._order = replace(order, settings=settings)
        return super().ready()

    def _load(self, data: DataDirectory) -> Any:
        model = self._generation.recipe.model
        folder = data.registry.root / model
        if self._archive and not folder.is_dir():
            data.registry.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=data.registry.root, prefix=".incoming-") as new:
                unpack(ray.get(self._archive[0]), Path(new))
                with contextlib.suppress(OSError):  # another actor of this machine was quicker
                    (Path(new) / model).rename(folder)
        return super()._load(data)


@dataclass(slots=True, eq=False)
class RayActor:
    """One actor; see `reindexer.fanout.Actor`."""

    handle: Any
    answers: deque[Any] = field(default_factory=deque)  # references, in the order they come

    def encode(self, chunk: Chunk, *, fresh: bool) -> None:
        self.answers.append(self.handle.encode.remote(chunk, fresh=fresh))

    def stop(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self.handle)


class RayPool:
    """Actors of one Ray cluster; see `reindexer.fanout.ActorPool`."""

    def __init__(
        self,
        order: ActorOrder,
        version: ModelVersion | None,
        *,
        address: str | None,
        actors: int,
        cpus: float,
        gpus: float,
    ) -> None:
        """address: None starts a cluster on this machine. actors: 0 for as many as the cluster has
        room for. cpus, gpus: of each actor. Raises BuildFailed when there is no such cluster."""
        self._owns_cluster = _connect(address)
        self._actors = actors
        self._cpus, self._gpus = cpus, gpus
        self._room, self._looked_at = 1, -LOOK_S
        self._order = ray.put(order)
        self._model = [ray.put(pack(version))] if version is not None else []
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(
            RayChunkWork
        )

    def room(self) -> int:
        if self._actors:
            return self._actors
        if time.monotonic() - self._looked_at > LOOK_S:
            self._looked_at = time.monotonic()
            self._room = self._places(ray.cluster_resources())
        return self._room

    def _places(self, resources: dict[str, float]) -> int:
        by_kind = [
            int(resources.get(kind, 0.0) / each)
            for kind, each in (("CPU", self._cpus), ("GPU", self._gpus))
            if each
        ]
        return max(1, min(by_kind, default=1))

    def start(self) -> RayActor:
        handle: Any = self._remote.remote(self._order, self._model)
        actor = RayActor(handle)
        actor.answers.append(handle.ready.remote())
        return actor

    def wait(self, actors: Sequence[RayActor], timeout_s: float) -> list[tuple[RayActor, Answer]]:
        waiting = {actor.answers[0]: actor for actor in actors if actor.answers}
        if not waiting:
            time.sleep(timeout_s)
            return []
        came, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout_s, fetch_local=True)
        return [(waiting[reference], _answer(waiting[reference])) for reference in came]

    def close(self) -> None:
        if self._owns_cluster:
            ray.shutdown()


def _connect(address: str | None) -> bool:
    """Whether this process started or joined the cluster just now, and is to leave it."""
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        options["include_dashboard"] = False
    try:
        ray.init(address=address, **options)
    except Exception as error:  # whatever it is: some of its own are plain Exceptions
        where = f"at {address}" if address is not None else "on this machine"
        raise BuildFailed(
            f"no Ray cluster {where}: {' '.join(str(error).split())[:300]}; check ray.address, or "
            "start one with `ray start --head`"
        ) from error
    return True


def _answer(actor: RayActor) -> Answer:
    """The next answer. Raises what went wrong in the actor."""
    reference = actor.answers.popleft()
    try:
        answer = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, Exception):
            raise cause from error
        raise BuildFailed(f"an actor failed: {error}") from error
    except ray.exceptions.RayError as error:
        return ActorLost(reason=" ".join(str(error).split())[:300])
    return answer if isinstance(answer, ChunkResult) else ActorReady(where=str(answer))

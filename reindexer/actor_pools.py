"""Which actors encode a build, as the settings say."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from reindexer.chunk_work import ActorOrder, OpenData
from reindexer.data_directory import DataDirectory, open_data_directory
from search.generations import Generation
from training.cores import visible_cores
from training.errors import ModelNotFound

if TYPE_CHECKING:
    from reindexer.fanout import ActorPool
    from training.registry import ModelVersion


def actor_pool(
    data: DataDirectory,
    generation: Generation,
    token: int,
    *,
    open_data: OpenData = open_data_directory,
) -> ActorPool | None:
    """None when the build encodes by itself. Raises ExtraMissing, BuildFailed without a cluster."""
    settings = data.settings
    fanout = settings.fanout
    if fanout == "none":
        return None
    version = _version(data, generation)
    gpus = 0
    if fanout != "ray" and (version is None or not version.is_static):  # a table needs no GPU
        gpus = _n_gpus(settings.device)
    if fanout == "auto":
        n_processes = settings.processes or gpus
        fanout = "processes" if n_processes > 1 else "none"
    if fanout == "none":
        return None
    order = ActorOrder(
        settings=replace(settings, data_dir=data.path.absolute()),
        open_data=open_data,
        generation=generation.name,
        fingerprint=generation.recipe.fingerprint,
        token=token,
        host=socket.gethostname(),
    )
    if fanout == "ray":
        from reindexer.fanout_ray import RayPool

        return RayPool(
            order,
            version,
            address=settings.ray_address,
            actors=settings.ray_actors,
            cpus=settings.ray_cpus_per_actor,
            gpus=settings.ray_gpus_per_actor,
        )
    from reindexer.fanout_processes import ProcessPool, visible_gpus

    return ProcessPool(
        order, processes=settings.processes, gpus=visible_gpus(gpus), cores=visible_cores()
    )


def _n_gpus(device: str) -> int:
    """GPUs to share chunks among; none when the settings name one, or something else."""
    if device not in ("auto", "cuda"):
        return 0
    from training.device import n_gpus  # brings torch in

    return n_gpus()


def _version(data: DataDirectory, generation: Generation) -> ModelVersion | None:
    """The model's files, for actors that cannot see the registry."""
    try:
        return data.registry.resolve(generation.recipe.model)
    except ModelNotFound:
        return None

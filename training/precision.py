"""The number format an encoder computes in, chosen by measurement on the device at hand."""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from training.whole_file import write_whole

DtypeName = Literal["fp32", "bf16", "fp16"]
Probe = Callable[[Sequence[str]], NDArray[np.float32]]

log = logging.getLogger(__name__)

MIN_SPEED_UP = 1.1  # of the lower precision, to be worth it
MIN_COSINE = 0.995  # between the rows of both precisions, of every probe text
RUNS = 3  # of which the fastest counts
PRODUCTS = 10  # of matrices, of which the fastest counts; 10 ms each where they are emulated
EMULATED = 4  # times as long as in fp32; 20 to 40 were measured
PROBE_REPEATS = {"cpu": 1, "cuda": 64, "mps": 16}  # 300 tokens each; enough to fill the device

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROBE_TEXTS = (
    "Which medicine lowers blood pressure?",
    "The contract ends on the last day of the month in which either party gives notice.",
    "def read(path): return open(path).read()  # raises FileNotFoundError when it is not there",
    "The results were 3.14, 2.72 and 1.41 (n = 120, p < 0.05), which the earlier study had not "
    "found in its smaller group of patients; a third group was left out.",
    "Rain is expected in the north by the evening. In the south it stays dry, and temperatures "
    "rise to 31 degrees; the sea is calm, with light winds from the west. Tomorrow brings more "
    "clouds, and a thunderstorm or two over the hills before it clears up again at night.",
    "A queue holds what has come in and has not been looked at. When it is full, the sender waits; "
    "when it is empty, the reader waits. Neither has to know how fast the other one is, and so a "
    "slow disk and a fast network can work side by side for as long as the average holds. What "
    "breaks the average is a reader that stops, and that is what the time limit is there to tell.",
)


def choose_dtype(
    model: torch.nn.Module,
    fingerprint: str,
    *,
    device: torch.device,
    wanted: Literal["auto"] | DtypeName,
    probe: Probe,
    cache_dir: Path | None,
) -> DtypeName:
    """Move the model to the device in the number format wanted, and say which it is.

    `auto` takes 16-bit numbers where they are at least 1.1 times as fast as fp32 and keep every
    probe row's cosine to fp32 at 0.995 or more. probe encodes texts with the model as it is.
    """
    cache = DtypeCache(cache_dir, fingerprint, device)
    chosen = cache.read() if wanted == "auto" else wanted
    if chosen is not None:
        _convert(model, chosen)
        model.to(device)
        return chosen
    lower = lower_dtype(device)
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        log.warning("the model does not fit on %s in fp32; using %s unmeasured", device, lower)
        _convert(model, lower)
        model.to(device)
        return lower
    chosen = "fp32" if are_emulated(lower, device) else _measure(model, lower, device, probe)
    cache.write(chosen)
    return chosen


def lower_dtype(device: torch.device) -> DtypeName:
    """The 16-bit numbers that the device computes with."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16"
    return "bf16"


def are_emulated(dtype: DtypeName, device: torch.device) -> bool:
    """Whether a CPU multiplies such numbers in many times the time of fp32 ones: then it has no
    instructions for them, and half a minute of trying a model in them can be spared."""
    if device.type != "cpu":
        return False
    full, lower = torch.float32, _DTYPES[dtype]
    best_s = dict.fromkeys((full, lower), float("inf"))
    for _ in range(PRODUCTS):
        for one in best_s:  # in turn: what else the cores do holds up both
            rows, weights = torch.ones(64, 384, dtype=one), torch.ones(384, 384, dtype=one)
            began = time.perf_counter()
            torch.mm(rows, weights)
            best_s[one] = min(best_s[one], time.perf_counter() - began)
    return best_s[lower] >= EMULATED * best_s[full]


def _convert(model: torch.nn.Module, dtype: DtypeName) -> list[torch.Tensor]:
    """The parameters as they were. Buffers stay: rotary frequencies need all their digits."""
    kept = [parameter.data for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.data = parameter.data.to(_DTYPES[dtype])
    return kept


def _measure(
    model: torch.nn.Module, lower: DtypeName, device: torch.device, probe: Probe
) -> DtypeName:
    texts = PROBE_TEXTS * PROBE_REPEATS.get(device.type, 16)
    exact, full_s = _timed(probe, texts)
    kept = _convert(model, lower)
    try:
        rows, half_s = _timed(probe, texts, give_up_s=4 * full_s + 0.1)
    except Exception as error:
        log.info("%s does not work on %s (%s); using fp32", lower, device, error)
        rows, half_s = exact, float("inf")
    cosine = float(np.einsum("nd,nd->n", exact, rows).min())
    log.info("%s: fp32 %.3f s, %s %.3f s, cosine %.4f", device, full_s, lower, half_s, cosine)
    if full_s >= MIN_SPEED_UP * half_s and cosine >= MIN_COSINE:
        return lower
    for parameter, data in zip(model.parameters(), kept, strict=True):
        parameter.data = data
    return "fp32"


def _timed(
    probe: Probe, texts: Sequence[str], *, give_up_s: float = float("inf")
) -> tuple[NDArray[np.float32], float]:
    """Rows and the seconds of the fastest run, the first one (which warms up) aside."""
    began = time.perf_counter()
    rows = probe(texts)
    first_s = time.perf_counter() - began
    if first_s > give_up_s:
        return rows, first_s
    best_s = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        rows = probe(texts)
        best_s = min(best_s, time.perf_counter() - began)
    return rows, best_s


class MeasurementCache:
    """Outcomes by model and machine, in one small JSON file; losing it costs one measurement."""

    def __init__(self, folder: Path | None, file: str, key: str) -> None:
        self._path = folder / file if folder is not None else None
        self._key = key

    def value(self) -> object:
        return self._all().get(self._key)

    def keep(self, value: str | int) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # a cache must not stop anybody
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, json.dumps({**self._all(), self._key: value}, indent=1))

    def _all(self) -> dict[str, object]:
        try:
            value = json.loads(self._path.read_bytes()) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}


class DtypeCache(MeasurementCache):
    """The number format of a model on a device."""

    def __init__(
        self, folder: Path | None, fingerprint: str, device: torch.device, *, work: str = ""
    ) -> None:
        """work: what was measured, where it is not encoding."""
        key = device_key(fingerprint, device)
        super().__init__(folder, "dtypes.json", f"{key} {work}" if work else key)

    def read(self) -> DtypeName | None:
        chosen = self.value()
        return cast(DtypeName, chosen) if chosen in _DTYPES else None

    def write(self, chosen: DtypeName) -> None:
        self.keep(chosen)


def device_key(fingerprint: str, device: torch.device) -> str:
    """A model and all of a machine that decides how fast it is."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    threads = torch.get_num_threads()
    return f"{fingerprint[:16]} {device.type} {name} x{threads} torch-{torch.__version__}"


def cpu_name() -> str:
    """As the system calls it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

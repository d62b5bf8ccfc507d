"""A transformer in 8-bit integers on a CPU, through ONNX Runtime. Needs the extra `onnx`.

Weights get a scale for each column, once; what comes in gets one for each text while it runs. A
text is computed by itself, so its row does not depend on what else is encoded, and numbers of 7
bits are multiplied, so it is the same on processors that would overflow with 8.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from training.errors import ModelUnsupported
from training.extras import require
from training.model_version import ModelVersion
from training.whole_file import write_whole

log = logging.getLogger(__name__)

MIN_COSINE = 0.9  # of the worst probe text to fp32; below it a model does not stand the rounding
_OUTPUT = "last_hidden_state"
_TRACED_TOKENS = 16  # of the text that the computation is read off
# It adds and normalizes in one step, which takes three times as long as the two (ONNX Runtime 1.31,
# AVX2): an eighth of the whole.
_LEFT_OUT = ["SkipLayerNormFusion"]
_DIGEST_BYTES = hashlib.sha256().digest_size  # in front of what is kept

Rows = NDArray[np.float32]


def to_int8(
    model: SentenceTransformer,
    version: ModelVersion,
    *,
    threads: int,
    probe: Callable[[], Rows],
    cache_dir: Path | None,
) -> None:
    """Replace the forward pass of the model's transformer; what comes after stays as it is.

    threads: of one text. probe: encodes some texts with the model as it is. cache_dir: where the
    computation is kept for the next start; making it takes seconds to a minute.

    Raises ExtraMissing, and ModelUnsupported for a model that cannot be brought into integers or
    that gives other rows in them.
    """
    require("onnx", "onnxruntime", "onnxscript", extra="onnx")
    transformer: Any = model[0]
    if getattr(transformer, "module_output_name", None) != "token_embeddings":
        raise ModelUnsupported(f"model {version} has no transformer to compute in int8")
    path = cache_dir / _file_name(version) if cache_dir is not None else None
    computation = _kept(path) if path is not None else None
    exact = probe() if computation is None else None
    content = computation or _made(transformer.model, version)
    session = _session(content, threads)

    def forward(input_ids: torch.Tensor, **_: object) -> dict[str, torch.Tensor]:
        found = session.run(None, {"input_ids": input_ids.numpy()})[0]
        return {_OUTPUT: torch.from_numpy(found)}

    transformer.model.forward = forward
    for parameter in transformer.model.parameters():
        parameter.data = torch.empty(0)
    if exact is None:
        return  # it was judged when it was made
    cosine = float(np.einsum("nd,nd->n", exact, probe()).min())
    log.info("%s in int8: lowest cosine to fp32 %.4f", version, cosine)
    if not cosine >= MIN_COSINE:
        raise ModelUnsupported(
            f"model {version} does not stand 8-bit integers: a text's row has cosine {cosine:.3f} "
            f"to the one in fp32, expected {MIN_COSINE}; set encoder.dtype = auto"
        )
    if path is not None:
        with suppress(OSError):  # a cache must not stop anybody
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, hashlib.sha256(content).digest() + content)


def _file_name(version: ModelVersion) -> str:
    made_with = [installed("torch"), installed("transformers"), installed("onnxruntime")]
    return "-".join(["int8-2", version.fingerprint[:16], *made_with])


def _kept(path: Path) -> bytes | None:
    """None where there is nothing to be read, or not what was kept."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    content = found[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() == found[:_DIGEST_BYTES]:
        return content
    log.warning("%s is damaged; making it again", path)
    return None


def _made(transformer: Any, version: ModelVersion) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    log.info("bringing %s into 8-bit integers", version)
    with tempfile.TemporaryDirectory() as folder:
        exact, rounded = Path(folder, "exact.onnx"), Path(folder, "rounded.onnx")
        try:
            with _quiet():
                _export(transformer, exact)
                quantize_dynamic(
                    exact,
                    rounded,
                    op_types_to_quantize=["MatMul"],
                    per_channel=True,
                    reduce_range=True,
                    weight_type=QuantType.QInt8,
                )
            return rounded.read_bytes()
        except Exception as error:  # each exporter and operator has errors of its own
            reason = str(error).strip().splitlines() or [""]
            raise ModelUnsupported(
                f"model {version} cannot be brought into 8-bit integers: "
                f"{type(error).__name__}: {reason[0]}; set encoder.dtype = auto"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Not a word on packages that torch could do with, nor on a step that ONNX Runtime recommends
    and that does not take what torch exports."""

    def is_no_advice(record: logging.LogRecord) -> bool:
        return "pre-processing before quantization" not in record.getMessage()

    exporter = logging.getLogger("torch.onnx._internal.exporter")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    logging.root.addFilter(is_no_advice)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            yield
    finally:
        logging.root.removeFilter(is_no_advice)
        exporter.setLevel(level)


class _TokenVectors(torch.nn.Module):
    """Token ids (1, n) to (1, n, dim): one text, so there is nothing to mask."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self._transformer = transformer

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._transformer(input_ids=input_ids)[_OUTPUT]
        return found


def _export(transformer: Any, path: Path) -> None:
    transformer.set_attn_implementation("eager")  # others also look for rows without any token
    torch.onnx.export(
        _TokenVectors(transformer).eval(),
        (torch.zeros((1, _TRACED_TOKENS), dtype=torch.int64),),
        path,
        input_names=["input_ids"],
        dynamic_shapes={"input_ids": {1: torch.export.Dim.DYNAMIC}},
        dynamo=True,
        verbose=False,
    )


def _session(content: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"], disabled_optimizers=_LEFT_OUT
    )

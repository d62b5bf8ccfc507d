"""The sheet on which a person judges sampled pairs, and what comes back."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from training.audit import NOISE_WARNING, SampledPair, share_with_interval
from training.errors import PairsInvalid
from training.whole_file import write_whole

VERDICTS = ("ok", "mismatch", "unsure")
COLUMNS = ("pair", "verdict", "weight", "anchor", "positive")
_PAGE = Path(__file__).parent / "templates" / "audit_sheet.html"
# As OWASP lists them; the wide ones are what an input method for East Asian text writes.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What a person found. The share counts each pair by its weight, and unsure ones not at all."""

    share: float  # of mismatched pairs, 0..1
    low: float  # of a 95 % interval
    high: float
    judged: int  # ok or mismatch
    unsure: int
    open: int  # not judged yet

    @property
    def is_high(self) -> bool:
        return self.share > NOISE_WARNING

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def write_sheet(path: Path, sample: Sequence[SampledPair], *, title: str) -> None:
    """An HTML page that works without a server, or CSV, by the ending of the name.

    Raises PairsInvalid for another ending.
    """
    if path.suffix not in (".html", ".csv"):
        raise PairsInvalid(f"the sheet {path} should end in .html or .csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        sheet = io.StringIO(newline="")
        writer = csv.writer(sheet)
        writer.writerow(COLUMNS)
        for item in sample:
            texts = (_no_formula(item.pair.anchor), _no_formula(item.pair.positive))
            writer.writerow((item.position + 1, "", f"{item.weight:.6g}", *texts))
        write_whole(path, sheet.getvalue().encode("utf-8-sig"))  # the mark is for Excel
        return
    rows = [
        {
            "pair": item.position + 1,
            "weight": float(f"{item.weight:.6g}"),
            "anchor": item.pair.anchor,
            "positive": item.pair.positive,
        }
        for item in sample
    ]
    data = orjson.dumps({"title": title, "rows": rows}).decode()
    # Inside a script element nothing but an angle bracket can end it.
    page = _PAGE.read_text(encoding="utf-8").replace("__DATA__", data.replace("<", "\\u003c"))
    write_whole(path, page)


def read_verdicts(path: Path) -> Verdicts:
    """The verdicts of a CSV sheet that was filled in, or saved from the page.

    Raises PairsInvalid when it is no such sheet, a verdict is not known, or there is none.
    """
    judged: list[tuple[float, bool]] = []
    n_unsure = n_open = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, dialect=_dialect(file.readline()))
            file.seek(0)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                verdict = (row.get("verdict") or "").strip().lower()
                weight = _weight(row.get("weight"), where)
                if verdict == "":
                    n_open += 1
                elif verdict == "unsure":
                    n_unsure += 1
                elif verdict in VERDICTS:
                    judged.append((weight, verdict == "mismatch"))
                else:
                    raise PairsInvalid(
                        f"{where}: the verdict is {verdict!r}, expected {', '.join(VERDICTS)} or "
                        "nothing"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PairsInvalid(f"{path} cannot be read as a CSV sheet: {error}") from error
    if not judged:
        raise PairsInvalid(
            f"{path} has no verdict yet; write {' or '.join(VERDICTS)} into its column verdict"
        )
    total = sum(weight for weight, _ in judged)
    share = sum(weight for weight, is_mismatch in judged if is_mismatch) / total
    effective = total**2 / sum(weight**2 for weight, _ in judged)  # Kish 1965
    low, high = share_with_interval(share, effective)
    return Verdicts(
        share=share, low=low, high=high, judged=len(judged), unsure=n_unsure, open=n_open
    )


def _dialect(header: str) -> type[csv.Dialect]:
    class Sheet(csv.excel):
        delimiter = ";" if header.count(";") > header.count(",") else ","

    return Sheet


def _weight(value: str | None, where: str) -> float:
    try:
        weight = float((value or "").replace(",", "."))
    except ValueError:
        weight = 0.0
    if not 0 < weight < math.inf:
        raise PairsInvalid(
            f"{where}: the weight is {value!r}; expected the columns {', '.join(COLUMNS)} of a "
            "sheet that `reindexer pairs audit --sheet` wrote"
        )
    return weight


def _no_formula(text: str) -> str:
    """A spreadsheet would run a cell that begins like a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text

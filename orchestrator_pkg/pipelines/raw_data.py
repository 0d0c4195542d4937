"""Raw files: TPC-H's lineitem by the tpchgen-cli wheel, and reading Parquet from the store with clear refusals."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator_pkg.config import PipelineSettings, load
from orchestrator_pkg.failures import BadInput
from orchestrator_pkg.store import BlockStore, ObjectMissing
from orchestrator_pkg.store.base import Stored
from orchestrator_pkg.store.file import ObjectFile

# Objects that the pipelines put there themselves; the sensor leaves them alone.
GENERATED_PREFIX = "raw/generated/"
RAW_PREFIX = "raw/"
# A scale factor takes 7 CPU seconds; this ends a generator that hangs.
GENERATE_TIMEOUT_S = 3600


def data_folder(name: str) -> Path:
    """`data/<name>`, or `$DATA_DIR/<name>`; created when missing."""
    folder = load(PipelineSettings).data_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scale_factor() -> str:
    """TPC-H's scale factor SF as it stands in names. Raises ConfigError unless it is a number in range."""
    return f"{load(PipelineSettings).scale_factor:g}"


def raw_key(scale: str) -> str:
    """Key of the generated lineitem of a scale factor."""
    return f"{GENERATED_PREFIX}lineitem-sf{scale}.parquet"


def generate_lineitem(scale: str) -> Path:
    """Generates lineitem as Parquet into data/raw, once; the same scale gives the same bytes.

    Raises:
        BadInput: tpchgen-cli is missing or fails.
    """
    target = data_folder("raw") / f"lineitem-sf{scale}.parquet"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".generating-") as folder:
        command = [_generator(), "parquet", "-s", scale, "--tables=lineitem", f"--output-dir={folder}", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GENERATE_TIMEOUT_S, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BadInput(
                f"tpchgen-cli ended with status {done.returncode} ({last}); make room or correct SF={scale}."
            )
        (Path(folder) / "lineitem.parquet").replace(target)
    return target


def _generator() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
    found = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if not found:
        raise BadInput("tpchgen-cli is not installed; run pip install tpchgen-cli, or put your own Parquet under raw/.")
    return found


def upload(store: BlockStore, path: Path, key: str) -> Stored:
    """Puts a file into the store without loading it. Raises BadInput when it cannot be read."""
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise BadInput(f"{path} is empty; remove it, so that it is generated again.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view, memoryview(view) as data:
                return store.put(key, data)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); correct the path or its permissions.") from None


@contextmanager
def open_parquet(store: BlockStore, key: str) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet object of the store; pages are read as needed.

    Raises:
        BadInput: there is no such object, or it is no Parquet file.
    """
    try:
        file = ObjectFile(store, key)
    except ObjectMissing:
        raise BadInput(
            f"No raw file {key} in {store.describe()}; materialize lineitem_raw, or upload it there."
        ) from None
    try:
        parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{key} is no readable Parquet file ({_first_sentence(error)}); upload it again.") from None
    with parquet:
        yield parquet


def require_columns(parquet: pq.ParquetFile, key: str, columns: Sequence[str]) -> None:
    """Raises BadInput when a column is missing."""
    present = parquet.schema_arrow.names
    missing = [name for name in columns if name not in present]
    if missing:
        raise BadInput(
            f"{key} lacks the columns {', '.join(missing)} (it has: {', '.join(present)}); write them, or choose "
            "another file."
        )


def batches(parquet: pq.ParquetFile, key: str, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of exactly `rows` rows, but for the last. Raises BadInput for a damaged file."""
    held: list[pa.RecordBatch] = []
    count = 0
    try:
        for batch in parquet.iter_batches(batch_size=rows, columns=list(columns)):
            held, count = [*held, batch], count + batch.num_rows
            while count >= rows:
                table = pa.Table.from_batches(held)
                yield table.slice(0, rows).combine_chunks().to_batches()[0]
                rest = table.slice(rows)
                held, count = rest.to_batches(), rest.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{key} is damaged ({_first_sentence(error)}); upload it again.") from None
    if count:
        yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]


def _first_sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")

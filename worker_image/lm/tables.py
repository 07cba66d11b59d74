"""Documents of a table: Parquet by row groups, Arrow (as ``datasets`` saves it) by record batches, never whole."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from worker_image.errors import UserError
from worker_image.lm.documents import Document, Mark

TABLE_SUFFIXES = (".parquet", ".arrow")
_ROWS_AT_ONCE = 1024


class Table:
    """A ``.parquet`` or ``.arrow`` file with the texts in the column ``text_field``. Empty texts are no documents."""

    def __init__(self, path: Path, text_field: str) -> None:
        self.path = path
        self._text_field = text_field

    @property
    def text_bytes(self) -> int:
        if self.path.suffix == ".arrow":
            return self.path.stat().st_size
        metadata = pq.read_metadata(self.path)
        chunks = (
            metadata.row_group(group).column(column)
            for group in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        )
        return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == self._text_field)

    def check(self) -> None:
        try:
            schema = pq.read_schema(self.path) if self.path.suffix == ".parquet" else _arrow_reader(self.path).schema
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                "dataset", f"{self.path} cannot be read: {error}", "write the file again, or leave it out"
            ) from error
        if self._text_field not in schema.names:
            raise UserError(
                "text_field",
                f"{self.path} has no column {self._text_field!r}; its columns: {', '.join(schema.names[:10])}",
                "name the column that holds the text",
            )
        kind = schema.field(self._text_field).type
        content = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(content) or pa.types.is_large_string(content)):
            raise UserError(
                "text_field", f"column {self._text_field!r} of {self.path} holds {kind}", "name a column of text"
            )

    def read(self, start: Mark) -> Iterator[Document]:
        index, row = start.document, start.offset
        columns = self._parquet(row) if self.path.suffix == ".parquet" else self._arrow(row)
        for column in columns:
            for text in self._texts(column, row):
                here = Mark(index, row, row + 1, start.file)
                row += 1
                if text and text.strip():
                    index += 1
                    yield Document(here, Mark(index, row, row + 1, start.file), text)

    def _parquet(self, row: int) -> Iterator[pa.Array]:
        """The text column from ``row`` on; row groups before it are not read."""
        with pq.ParquetFile(self.path) as file:
            begin = 0
            for group in range(file.metadata.num_row_groups):
                end = begin + file.metadata.row_group(group).num_rows
                skip = max(0, row - begin)
                begin = end
                if row >= end:
                    continue
                for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[self._text_field]):
                    if skip < len(batch):
                        yield batch.column(0).slice(skip)
                    skip = max(0, skip - len(batch))

    def _arrow(self, row: int) -> Iterator[pa.Array]:
        """The text column from ``row`` on; batches before it are mapped and never touched."""
        skip = row
        for batch in _arrow_reader(self.path):
            if skip < len(batch):
                yield batch.column(self._text_field).slice(skip)
            skip = max(0, skip - len(batch))

    def _texts(self, column: pa.Array, row: int) -> Iterator[str | None]:
        for scalar in column:
            try:
                yield scalar.as_py()
            except UnicodeDecodeError:
                raise UserError(
                    "dataset", f"the text in row {row + 1} of {self.path} is not UTF-8", "mend or remove that row"
                ) from None
            row += 1


def _arrow_reader(path: Path) -> pa.RecordBatchReader:
    """Record batches of a stream, which ``datasets`` writes, or of a file."""
    mapped = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        reader = pa.ipc.open_file(mapped)
        return pa.RecordBatchReader.from_batches(
            reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
        )

"""Nearest task embeddings of a SQLite registry, searched in the memory of each process.

Up to some thousand vectors are compared one by one. Above that a graph is built in the
background, kept in a file beside the registry, and brought up to date by what the registry
says was added and removed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text

from hyperplug.errors import RegistryError
from hyperplug.store import hnsw
from hyperplug.store.exact import ExactIndex, Vector
from hyperplug.store.hnsw import HnswIndex, IndexFiles, SavedIndex

_log = logging.getLogger(__name__)

EXACT_LIMIT = 4096
"""More vectors than that are searched by a graph, if usearch is installed."""
MATRIX_LIMIT = 200_000
"""More than that are not held as a matrix while the graph is built, but read each time."""
_PAGE = 20_000
_SPARE_CANDIDATES = 15
_SAVE_SHARE = 0.05

# For the driver itself: it is asked before every lookup.
_STATE = (
    "SELECT (SELECT max(id) FROM task_embeddings WHERE embedder_id = :e AND namespace = :n),"
    " (SELECT max(id) FROM embedding_removals WHERE embedder_id = :e AND namespace = :n)"
)
_COUNT = text(
    "SELECT count(*) FROM task_embeddings WHERE embedder_id = :e AND namespace = :n AND active"
)
_REMOVED = text(
    "SELECT embedding_id FROM embedding_removals"
    " WHERE embedder_id = :e AND namespace = :n AND id > :after"
)
_OLDEST_REMOVAL = text("SELECT min(id) FROM embedding_removals")
_ADDED = text(
    "SELECT id, dimension, embedding FROM task_embeddings"
    " WHERE embedder_id = :e AND namespace = :n AND active AND id > :after ORDER BY id LIMIT :page"
)


class Key(NamedTuple):
    """Whose vectors: those of one embedder in one namespace."""

    embedder_id: str
    namespace: str
    dimension: int

    @property
    def parameters(self) -> dict[str, str]:
        """For the statements of this module."""
        return {"e": self.embedder_id, "n": self.namespace}


class MemorySearch:
    """Searches one key's vectors. Safe for threads."""

    def __init__(self, key: Key, *, engine: Engine, files: IndexFiles) -> None:
        self._key = key
        self._engine = engine
        self._files = files
        self._lock = threading.Lock()
        self._index: ExactIndex | HnswIndex | None = None
        self._last_id = self._last_removal = 0
        self._unsaved = 0
        self._builder: threading.Thread | None = None

    def nearest(self, connection: Connection, query: Vector, *, limit: int) -> list[int]:
        """Returns the ids of embeddings that may be the nearest, the `limit` nearest among them."""
        with self._lock:
            self._refresh(connection)
            index = self._index
            if isinstance(index, ExactIndex):
                return [found for found, _ in index.search(query, limit=limit)]
        if index is None:
            return scan(connection, self._key, query, limit=limit)
        return index.candidates(query, count=limit + _SPARE_CANDIDATES)

    def wait(self) -> None:
        """Waits for the graph, if one is being built."""
        builder = self._builder
        if builder is not None:
            builder.join()

    def close(self) -> None:
        """Keeps the graph in its file if much of it is not there yet."""
        with self._lock:
            if isinstance(self._index, HnswIndex) and self._unsaved:
                self._save(self._index)

    def _refresh(self, connection: Connection) -> None:
        """Brings the index up to the state of the registry; the lock is held."""
        last_id, last_removal = _state(connection, self._key)
        last_id, last_removal = last_id or 0, last_removal or 0
        if self._index is None and not self._open(connection):
            return
        if (last_id, last_removal) == (self._last_id, self._last_removal):
            return
        index = self._index
        assert index is not None  # opened above
        self._last_id, self._last_removal, changed = _catch_up(
            connection, self._key, index, self._last_id, self._last_removal
        )
        self._unsaved += changed
        if isinstance(index, ExactIndex):
            if len(index) > EXACT_LIMIT:
                self._build_later()
        elif self._unsaved > max(EXACT_LIMIT, _SAVE_SHARE * len(index)):
            self._save(index)

    def _open(self, connection: Connection) -> bool:
        """Returns whether there is an index now: from its file, or an empty one to fill."""
        if self._builder is not None:
            return False
        key = self._key
        count = connection.execute(_COUNT, key.parameters).scalar_one()
        if count > EXACT_LIMIT and hnsw.available():
            saved = self._files.load(
                embedder_id=key.embedder_id, namespace=key.namespace, dimension=key.dimension
            )
            if saved is not None and self._still_holds(connection, saved):
                self._index = saved.index
                self._last_id, self._last_removal = saved.last_id, saved.last_removal
                return True
            if count > MATRIX_LIMIT:
                self._build_later()
                return False
        elif count > MATRIX_LIMIT:
            _log.warning(
                "%d tasks are compared one by one; run: pip install 'hyperplug[index]'", count
            )
        self._index = ExactIndex(key.dimension)
        return True

    def _still_holds(self, connection: Connection, saved: SavedIndex) -> bool:
        """Returns whether all removals since the file was written are still on record."""
        oldest = connection.execute(_OLDEST_REMOVAL).scalar()
        last_id, _ = _state(connection, self._key)
        forgotten = oldest is not None and oldest > saved.last_removal + 1
        return (last_id or 0) >= saved.last_id and not forgotten

    def _build_later(self) -> None:
        if self._builder is None and hnsw.available():
            self._builder = threading.Thread(
                target=self._build, name="hyperplug-index", daemon=True
            )
            self._builder.start()

    def _build(self) -> None:
        """Builds the graph from the registry, and lets it take the matrix's place."""
        try:
            index = HnswIndex.empty(self._key.dimension)
            with self._engine.connect() as connection:
                last_removal = _state(connection, self._key)[1] or 0
                last_id, last_removal, _ = _catch_up(connection, self._key, index, 0, last_removal)
            with self._engine.connect() as connection, self._lock:
                self._last_id, self._last_removal, _ = _catch_up(
                    connection, self._key, index, last_id, last_removal
                )
                self._index = index
                self._save(index)
        except Exception as exc:  # lookups go on without it
            _log.warning("the index of the registry cannot be built: %s", exc)

    def _save(self, index: HnswIndex) -> None:
        key = self._key
        saved = SavedIndex(index=index, last_id=self._last_id, last_removal=self._last_removal)
        self._files.save(
            saved, embedder_id=key.embedder_id, namespace=key.namespace, dimension=key.dimension
        )
        self._unsaved = 0


def _state(connection: Connection, key: Key) -> tuple[int | None, int | None]:
    """Returns the ids of the last vector and of the last removal."""
    last_id, last_removal = connection.exec_driver_sql(_STATE, key.parameters).one()
    return last_id, last_removal


def _catch_up(
    connection: Connection,
    key: Key,
    index: ExactIndex | HnswIndex,
    last_id: int,
    last_removal: int,
) -> tuple[int, int, int]:
    """Returns the new last id and last removal, and how many vectors came or went.

    Removals first: a vector that comes back has a new id.
    """
    # One state of the registry: removals noted later are of rows that this one still has.
    state = _state(connection, key)
    removed = connection.execute(_REMOVED, {**key.parameters, "after": last_removal}).scalars()
    gone = np.array(removed.all(), dtype=np.int64)
    index.remove(gone)
    changed = len(gone)
    for ids, rows in pages(connection, key, after=last_id):
        index.add(ids, rows)
        last_id = int(ids[-1])
        changed += len(ids)
    return max(last_id, state[0] or 0), state[1] or 0, changed


def pages(
    connection: Connection, key: Key, *, after: int = 0
) -> Iterator[tuple[NDArray[np.int64], Vector]]:
    """Yields ids and vectors, shape (n, d), in the order of their ids.

    Raises:
        RegistryError: for a vector that is damaged.
    """
    width = 4 * key.dimension
    while True:
        found = connection.execute(_ADDED, {**key.parameters, "after": after, "page": _PAGE}).all()
        if not found:
            return
        for embedding_id, dimension, embedding in found:
            if dimension != key.dimension or len(embedding) != width:
                raise RegistryError(
                    f"the stored embedding {embedding_id} is damaged",
                    hint="run: hyperplug doctor --deep --repair",
                )
        joined = b"".join(embedding for _, _, embedding in found)
        rows = np.frombuffer(joined, dtype="<f4").reshape(len(found), key.dimension)
        ids = np.array([embedding_id for embedding_id, _, _ in found], dtype=np.int64)
        yield ids, rows
        after = int(ids[-1])


def scan(connection: Connection, key: Key, query: Vector, *, limit: int) -> list[int]:
    """Returns the ids of the nearest by reading every vector, page by page."""
    best = ExactIndex(key.dimension)
    for ids, rows in pages(connection, key):
        kept = np.sort(np.argsort(-(rows @ query), kind="stable")[:limit])
        best.add(ids[kept], rows[kept])
    return [found for found, _ in best.search(query, limit=limit)]


def index_files(database: Path, *, identity: str) -> IndexFiles:
    """Returns the index files beside a SQLite file."""
    return IndexFiles(database.with_name(f"{database.name}.index"), identity=identity)

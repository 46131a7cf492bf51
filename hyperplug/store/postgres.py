"""Nearest task embeddings of a PostgreSQL registry, by pgvector."""

from __future__ import annotations

import functools
import hashlib

from sqlalchemy import Connection, TextClause, bindparam, text
from sqlalchemy.orm import Session

from hyperplug.store.columns import Embedding
from hyperplug.store.exact import Vector

MAX_INDEXED_DIMENSION = 4000
"""Of pgvector's index on halfvec; longer vectors are compared one by one."""
_CANDIDATES = 8  # half precision errs only among those that are as good as equal
_HAS_HALFVEC = text("SELECT to_regtype('halfvec') IS NOT NULL")


def create_index(session: Session | Connection, *, embedder_id: str, dimension: int) -> None:
    """Makes the HNSW index of an embedder's vectors, half precision, unless it is there.

    A pgvector older than 0.7, without halfvec, gets none.
    """
    if dimension > MAX_INDEXED_DIMENSION or not has_halfvec(session):
        return
    name = "hnsw_" + hashlib.sha256(embedder_id.encode()).hexdigest()[:16]
    session.execute(
        text(
            f"CREATE INDEX IF NOT EXISTS {name} ON task_embeddings USING hnsw"
            f" ((embedding::halfvec({dimension})) halfvec_cosine_ops)"
            f" WHERE embedder_id = {_literal(embedder_id)} AND active".replace("::", r"\:\:")
        )
    )


def has_halfvec(session: Session | Connection) -> bool:
    """Returns whether pgvector has numbers of half precision: 0.7 or later."""
    return bool(session.scalar(_HAS_HALFVEC))


def nearest(
    session: Session,
    query: Vector,
    *,
    embedder_id: str,
    namespace: str,
    limit: int,
    exact: bool,
) -> list[tuple[int, float]]:
    """Returns (task id, cosine), best first; of equals the oldest first.

    Unless `exact`, which a server without halfvec needs, the server chooses between the index
    and comparing one by one, and compares what the index finds once more in full precision.
    """
    indexed = not exact and query.size <= MAX_INDEXED_DIMENSION
    statement = _by_index(embedder_id, query.size) if indexed else _one_by_one()
    values = {"wanted": query, "embedder": embedder_id, "namespace": namespace, "limit": limit}
    if indexed:
        values["wide"] = limit + _CANDIDATES
    return [(task_id, 1.0 - far) for task_id, far in session.execute(statement, values)]


_WANTED = bindparam("wanted", type_=Embedding())


@functools.lru_cache(maxsize=64)
def _by_index(embedder_id: str, dimension: int) -> TextClause:
    # The embedder stands in the text: the planner must see that the partial index applies.
    half = f"halfvec({dimension})"
    near = (
        "SELECT task_id, embedding FROM task_embeddings"
        f" WHERE embedder_id = {_literal(embedder_id)} AND active AND namespace = :namespace"
        f" ORDER BY embedding::{half} <=> CAST(CAST(:wanted AS vector) AS {half})"
        " LIMIT :wide"
    )
    whole = (
        f"WITH near AS MATERIALIZED ({near})"
        " SELECT task_id, embedding <=> CAST(:wanted AS vector) AS far FROM near"
        " ORDER BY far, task_id LIMIT :limit"
    )
    return text(whole.replace("::", r"\:\:")).bindparams(_WANTED)


@functools.lru_cache(maxsize=1)
def _one_by_one() -> TextClause:
    return text(
        "SELECT task_id, embedding <=> CAST(:wanted AS vector) AS far FROM task_embeddings"
        " WHERE embedder_id = :embedder AND active AND namespace = :namespace"
        " ORDER BY far, task_id LIMIT :limit"
    ).bindparams(_WANTED)


def _literal(value: str) -> str:
    """Returns an SQL literal for `text`, which would take a colon for a parameter."""
    return "'" + value.replace("'", "''").replace(":", r"\:") + "'"

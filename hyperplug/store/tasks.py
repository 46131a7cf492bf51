"""The store's calls on tasks and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import ArrayLike
from sqlalchemy import delete, exists, func, select

from hyperplug.entities import Match, NewTask, Task, TaskChange, TaskRevision
from hyperplug.errors import DuplicateTaskError, TaskNotFoundError
from hyperplug.store import embedding_rows, task_rows
from hyperplug.store.database import Database, retried
from hyperplug.store.engine import looking, reading, writing
from hyperplug.store.tables import EmbeddingRemovalRow, TaskEmbeddingRow, TaskRow
from hyperplug.store.vectors import VectorSearch, unit_vector


class TaskStore(Database):
    """Tasks, what they said before, and their embeddings."""

    _vectors: VectorSearch

    def add_task(
        self, task: NewTask, *, embedder_id: str, embedding: ArrayLike
    ) -> tuple[Task, bool]:
        """Returns the task, and whether this call registered it.

        Raises:
            DuplicateTaskError: when the name stands for another description.
        """
        (outcome,) = self.add_tasks([task], embedder_id=embedder_id, embeddings=[embedding])
        if isinstance(outcome, DuplicateTaskError):
            raise outcome
        return outcome

    @retried
    def add_tasks(
        self, tasks: Sequence[NewTask], *, embedder_id: str, embeddings: Sequence[ArrayLike]
    ) -> list[tuple[Task, bool] | DuplicateTaskError]:
        """Does as `add_task` for many in one transaction; duplicates are returned, not raised."""
        vectors = [unit_vector(embedding) for embedding in embeddings]
        with writing(self._engine) as session:
            outcomes = task_rows.add(session, tasks)
            rows = [
                (outcome[0], vector)
                for outcome, vector in zip(outcomes, vectors, strict=True)
                if not isinstance(outcome, DuplicateTaskError)
            ]
            embedding_rows.put(session, rows, embedder_id=embedder_id, replace=False)
            return [
                outcome
                if isinstance(outcome, DuplicateTaskError)
                else (task_rows.to_task(outcome[0]), outcome[1])
                for outcome in outcomes
            ]

    @retried
    def change_task(
        self,
        name: str,
        wanted: TaskChange,
        *,
        namespace: str,
        embedder_id: str,
        embedding: ArrayLike | None,
    ) -> Task:
        """Returns the task as changed; what it said before is kept as a revision.

        Args:
            embedding: of the new description; vectors by other embedders are dropped, since
                they are of the old one. None leaves all vectors as they are.

        Raises:
            TaskNotFoundError: when there is none of that name.
        """
        vector = None if embedding is None else unit_vector(embedding)
        with writing(self._engine) as session:
            row = task_rows.require_row(session, name, namespace=namespace)
            task_rows.change(session, row, wanted, actor=self.actor)
            if vector is not None:
                embedding_rows.drop(session, row.id)
                embedding_rows.put(session, [(row, vector)], embedder_id=embedder_id, replace=True)
            session.flush()
            return task_rows.to_task(row)

    @retried
    def get_task(self, name: str, *, namespace: str) -> Task | None:
        """Returns the task of that name, if any."""
        with reading(self._engine) as session:
            row = task_rows.find_row(session, name, namespace=namespace)
            return task_rows.to_task(row) if row else None

    @retried
    def find_task_by_text(self, description_digest: str, *, namespace: str) -> Task | None:
        """Returns the oldest task with that description, if any."""
        with reading(self._engine) as session:
            row = task_rows.find_by_text(session, description_digest, namespace=namespace)
            return task_rows.to_task(row) if row else None

    @retried
    def list_tasks(
        self,
        *,
        namespace: str,
        tag: str | None = None,
        search: str | None = None,
        removed: bool = False,
        after_id: int = 0,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Task]:
        """Returns tasks in the order of their registration.

        Args:
            search: only those whose name or description holds this, in any case.
            removed: only those that were removed, in place of those that were not.
            after_id: only those registered after the task of that id; unlike `offset`, it
                costs nothing to go far.
        """
        query = task_rows.listing(
            namespace=namespace,
            tag=tag,
            search=search,
            removed=removed,
            after_id=after_id,
            limit=limit,
            offset=offset,
        )
        with reading(self._engine) as session:
            return [task_rows.to_task(row) for row in session.scalars(query)]

    @retried
    def count_tasks(self, *, namespace: str) -> int:
        """Returns how many tasks the namespace has."""
        with reading(self._engine) as session:
            return task_rows.count(session, namespace=namespace)

    @retried
    def task_revisions(self, task_id: int) -> list[TaskRevision]:
        """Returns what a task said before its changes, oldest first."""
        with reading(self._engine) as session:
            return task_rows.revisions(session, task_id)

    @retried
    def remove_task(self, name: str, *, namespace: str) -> Task:
        """Takes a task out of sight and frees its name; returns it. `restore_task` undoes it.

        Raises:
            TaskNotFoundError: when there is none of that name.
        """
        with writing(self._engine) as session:
            row = task_rows.require_row(session, name, namespace=namespace)
            task_rows.remove(session, row)
            return task_rows.to_task(row)

    @retried
    def restore_task(self, name: str, *, namespace: str) -> Task:
        """Returns the task of that name that was removed last, which serves again.

        Raises:
            TaskNotFoundError: when none of that name was removed.
            DuplicateTaskError: when another task has its name by now.
        """
        with writing(self._engine) as session:
            row = task_rows.require_removed(session, name, namespace=namespace)
            task_rows.restore(session, row)
            return task_rows.to_task(row)

    @retried
    def purge_task(self, name: str, *, namespace: str) -> None:
        """Deletes the removed task of that name, and the adapters that no other task uses.

        Pinned adapters stay.

        Raises:
            TaskNotFoundError: when none of that name was removed.
        """
        with writing(self._engine) as session:
            task_rows.purge(session, task_rows.require_removed(session, name, namespace=namespace))

    @retried
    def removed_tasks(self, before: datetime, *, limit: int = 1000) -> list[Task]:
        """Returns tasks of all namespaces that were removed before then."""
        with reading(self._engine) as session:
            rows = task_rows.removed_before(session, before, limit=limit)
            return [task_rows.to_task(row) for row in rows]

    @retried
    def purge_removed(self, before: datetime, *, limit: int = 100) -> list[Task]:
        """Returns some of the tasks of all namespaces removed before then, now deleted."""
        with writing(self._engine) as session:
            rows = task_rows.removed_before(session, before, limit=limit)
            tasks = [task_rows.to_task(row) for row in rows]
            for row in rows:
                task_rows.purge(session, row)
            return tasks

    @retried
    def forget_removals(self, before: datetime) -> int:
        """Forgets which vectors were taken out before then, but for the last; returns how many.

        An index file from before is made again.
        """
        row = EmbeddingRemovalRow
        last = select(func.max(row.id)).scalar_subquery()
        with writing(self._engine) as session:
            done = session.execute(
                delete(row).where(row.removed_at < before, row.id < last),
                execution_options={"synchronize_session": False},
            )
            return int(getattr(done, "rowcount", 0))

    @retried
    def put_embedding(
        self, task_id: int, *, embedder_id: str, embedding: ArrayLike, replace: bool = True
    ) -> None:
        """Stores a task's vector by one more embedder, or in place of the one that stands.

        Raises:
            TaskNotFoundError: when there is no such task.
        """
        self.put_embeddings(
            [(task_id, embedding)], embedder_id=embedder_id, replace=replace, missing_ok=False
        )

    @retried
    def put_embeddings(
        self,
        vectors: Sequence[tuple[int, ArrayLike]],
        *,
        embedder_id: str,
        replace: bool = True,
        missing_ok: bool = True,
    ) -> None:
        """Does as `put_embedding` for many in one transaction."""
        units = {task_id: unit_vector(embedding) for task_id, embedding in vectors}
        with writing(self._engine) as session:
            found = session.scalars(select(TaskRow).where(TaskRow.id.in_(list(units)))).all()
            missing = set(units) - {row.id for row in found}
            if missing and not missing_ok:
                raise TaskNotFoundError(f"no task with id {min(missing)}")
            embedding_rows.put(
                session,
                [(row, units[row.id]) for row in found],
                embedder_id=embedder_id,
                replace=replace,
            )

    @retried
    def tasks_without_embedding(
        self, *, embedder_id: str, namespace: str, limit: int, after_id: int = 0
    ) -> list[Task]:
        """Returns tasks that the embedder has not seen, in the order of registration."""
        seen = exists().where(
            TaskEmbeddingRow.task_id == TaskRow.id, TaskEmbeddingRow.embedder_id == embedder_id
        )
        query = task_rows.listing(namespace=namespace, limit=limit, after_id=after_id)
        with reading(self._engine) as session:
            return [task_rows.to_task(row) for row in session.scalars(query.where(~seen))]

    @retried
    def damaged_embeddings(
        self, task_ids: Sequence[int], *, embedder_id: str, dimension: int
    ) -> dict[int, str]:
        """Returns those of the tasks whose vector is missing or damaged, and how."""
        row = TaskEmbeddingRow
        query = select(row.task_id, row.dimension, row.embedding).where(
            row.embedder_id == embedder_id, row.task_id.in_(task_ids)
        )
        damage = dict.fromkeys(task_ids, "it has no vector by the present embedder")
        with reading(self._engine) as session:
            for task_id, declared, vector in session.execute(query):
                del damage[task_id]
                length = float(np.linalg.norm(vector)) if vector.size == dimension else 0.0
                if declared != dimension or not abs(length - 1.0) < 1e-3:
                    damage[task_id] = "its vector is damaged"
        return damage

    @retried
    def embedding_counts(self, *, namespace: str) -> dict[str, int]:
        """Returns how many tasks each embedder has seen, by its id."""
        row = TaskEmbeddingRow
        query = (
            select(row.embedder_id, func.count())
            .where(row.namespace == namespace, row.active)
            .group_by(row.embedder_id)
        )
        with reading(self._engine) as session:
            return {embedder: count for embedder, count in session.execute(query)}  # noqa: C416

    @retried
    def drop_embeddings(self, *, embedder_id: str, namespace: str) -> int:
        """Deletes the vectors of an embedder that is no longer used; returns how many."""
        with writing(self._engine) as session:
            return embedding_rows.drop_embedder(
                session, embedder_id=embedder_id, namespace=namespace
            )

    @retried
    def nearest(
        self,
        embedding: ArrayLike,
        *,
        embedder_id: str,
        namespace: str,
        limit: int,
        exact: bool = False,
    ) -> list[Match]:
        """Returns the tasks of highest cosine, best first, as seen by that embedder.

        Args:
            exact: compare with every task, whatever index there is.
        """
        with looking(self._engine) as session:
            hits = self._vectors.nearest(
                session,
                embedding,
                embedder_id=embedder_id,
                namespace=namespace,
                limit=limit,
                exact=exact,
            )
            tasks = task_rows.by_id(session, [hit.task_id for hit in hits])
        return [
            Match(task=tasks[hit.task_id], score=hit.score) for hit in hits if hit.task_id in tasks
        ]

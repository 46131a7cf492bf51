"""Reads and writes base models and hypernetworks within an open session."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from hyperplug.entities import BaseModelSpec, HypernetSpec, ModuleShape
from hyperplug.store.tables import BaseModelRow, HypernetRow


def to_base_model(row: BaseModelRow) -> BaseModelSpec:
    """Returns the entity of a row."""
    shapes = {
        path: ModuleShape(in_features=wide, out_features=high)
        for path, wide, high in row.module_shapes
    }
    return BaseModelSpec(
        id=row.model_id,
        revision=row.revision,
        architecture=row.architecture,
        fingerprint=row.fingerprint,
        module_shapes=shapes,
    )


def put_base_model(session: Session, spec: BaseModelSpec) -> None:
    """Stores a base model unless its fingerprint is known."""
    if session.get(BaseModelRow, spec.fingerprint) is None:
        session.add(
            BaseModelRow(
                fingerprint=spec.fingerprint,
                model_id=spec.id,
                revision=spec.revision,
                architecture=spec.architecture,
                module_shapes=[
                    (path, shape.in_features, shape.out_features)
                    for path, shape in spec.module_shapes.items()
                ],
                created_at=datetime.now(UTC),
            )
        )


def put_hypernet(session: Session, spec: HypernetSpec) -> None:
    """Stores a hypernetwork unless its fingerprint is known."""
    if session.get(HypernetRow, spec.fingerprint) is None:
        session.add(
            HypernetRow(
                fingerprint=spec.fingerprint,
                base_fingerprint=spec.base_fingerprint,
                embedder_id=spec.embedder_id,
                rank=spec.rank,
                target_modules=list(spec.target_modules),
                created_at=datetime.now(UTC),
            )
        )

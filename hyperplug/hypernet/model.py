"""The hypernetwork: a task's description and examples in, a LoRA for every module out.

    description tokens, examples ── TaskEncoder ── task code z
    z + slot embedding ── trunk ── mixing coefficients ── atoms ── generated A, B, gate
    z + slot embedding, words of the texts ── pointer ── added to generated B
    adapter of a slot = [static A; generated A], [static B, gate * generated B]

A slot is one adapted projection of the base model. The static part is an ordinary
multi-task LoRA that is the same for every task: the floor. The generated part adds what
the description says. Text-to-LoRA (Charakorn et al., ICML 2025) gave the idea of text in,
adapter out; the dictionary of atoms keeps the head small, and pointing at words lets it
write labels that no training task had.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hyperplug.hypernet.pointing import WordPointer

# Keeps the gates from closing in the first steps, when the generated part is mostly noise.
_GATE_SLOPE = 0.1
# Projections whose output is added to the residual stream, by the names that families use.
_WRITING = ("o_proj", "down_proj", "dense", "dense_4h_to_h", "out_proj", "c_proj", "fc2")


@dataclass(frozen=True, slots=True, kw_only=True)
class HypernetConfig:
    """Shape of a hypernetwork; stored in its checkpoint.

    Attributes:
        target_modules: full paths of the adapted projections, in model order.
        in_features: their input sizes, in the same order; likewise `out_features`.
        static_rank: rank of the part shared by all tasks; may be 0.
        generated_rank: rank of the part made for each task.
        atoms: dictionary size of each slot, for A and for B.
        code_size: length of the task code.
        latents: queries with which the task encoder reads its input.
        scale: multiplier of both parts, folded into B on export.
        word_size: length of the words' vectors; 0 for a network that reads no words.
    """

    base_fingerprint: str
    embedder_id: str
    embedding_size: int
    target_modules: tuple[str, ...]
    in_features: tuple[int, ...]
    out_features: tuple[int, ...]
    static_rank: int = 8
    generated_rank: int = 8
    atoms: int = 32
    code_size: int = 256
    latents: int = 4
    encoder_layers: int = 2
    scale: float = 2.0
    word_size: int = 0

    @property
    def rank(self) -> int:
        """Rank of an exported adapter."""
        return self.static_rank + self.generated_rank

    @property
    def writing_slots(self) -> list[int]:
        """The slots whose B can hold words: those that write into the residual stream."""
        return [
            slot
            for slot, path in enumerate(self.target_modules)
            if path.rsplit(".", 1)[-1] in _WRITING and self.out_features[slot] == self.word_size
        ]

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> HypernetConfig:
        """Returns the configuration of `as_dict`'s content."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content.items()
        }
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInput:
    """A batch of encoded tasks, T of them.

    Attributes:
        tokens: encoder states of the description, (T, L, embedding); zero where masked.
        token_mask: True where a token is, (T, L).
        pooled: sentence embedding of the description, (T, embedding).
        has_description: True where the description may be read, (T,).
        examples: embeddings of input and output side by side, (T, k, 2 * embedding).
        example_mask: True where an example is, (T, k); k may be 0.
        words: the base model's unit vectors of the texts' words, (T, I, words); I may be 0.
        word_kinds: what each is, below `words.KINDS`, (T, I).
        word_places: the token it belongs to; from L on, the example, (T, I).
        word_mask: True where a word is, (T, I).
    """

    tokens: Tensor
    token_mask: Tensor
    pooled: Tensor
    has_description: Tensor
    examples: Tensor
    example_mask: Tensor
    words: Tensor
    word_kinds: Tensor
    word_places: Tensor
    word_mask: Tensor

    def to(self, device: torch.device) -> TaskInput:
        """Returns the batch on `device`."""
        return TaskInput(**{name: getattr(self, name).to(device) for name in self.__slots__})

    def part(self, rows: slice) -> TaskInput:
        """Returns some tasks of the batch."""
        return TaskInput(**{name: getattr(self, name)[rows] for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraBatch:
    """LoRA factors of one slot for T tasks: A (T, r, in), B (T, out, r), scale folded in."""

    a: Tensor
    b: Tensor


class AdapterNetwork(nn.Module):
    """A network from encoded tasks to adapters: what trainer and generator work with.

    Attributes:
        config: its shape, with at least `embedding_size`, `target_modules`, `rank`,
            `base_fingerprint` and `embedder_id`.
        reads_words: whether it makes use of the words in the base model's vocabulary.
    """

    config: Any
    reads_words = False

    def encode(self, task: TaskInput) -> Tensor:
        """Returns task codes, (T, code)."""
        raise NotImplementedError

    def decode(
        self, code: Tensor, *, task: TaskInput | None = None, keep: Tensor | None = None
    ) -> list[LoraBatch]:
        """Returns the adapter of each code, one `LoraBatch` a slot.

        Args:
            code: task codes, (T, code).
            task: the encoded tasks, for their words.
            keep: 1 to keep, 0 to drop what is generated for a task, (T,); default all 1.
        """
        raise NotImplementedError

    def forward(self, task: TaskInput, *, keep: Tensor | None = None) -> list[LoraBatch]:
        """Returns the adapters of a batch of encoded tasks."""
        return self.decode(self.encode(task), task=task, keep=keep)

    def static(self) -> list[LoraBatch]:
        """Returns what does not depend on the task, as a batch of one task."""
        parameter = next(self.parameters())
        task = empty_task(self.config.embedding_size).to(parameter.device)
        loras: list[LoraBatch] = self(task, keep=torch.zeros(1, device=parameter.device))
        return loras

    def is_factor(self, name: str) -> bool:
        """Returns whether a parameter is a LoRA factor, to be trained at the full rate."""
        raise NotImplementedError


class TaskEncoder(nn.Module):
    """Reads description tokens and examples into a task code of unit root mean square.

    The pooled embeddings reach the code directly, so that codes of different tasks differ
    from the first step on; what the tokens say in detail is added by attention.
    """

    def __init__(self, config: HypernetConfig) -> None:
        super().__init__()
        size, embedding = config.code_size, config.embedding_size
        self.direct = nn.Linear(embedding, size, bias=False)
        self.direct_examples = nn.Linear(2 * embedding, size, bias=False)
        self.from_tokens = nn.Linear(embedding, size)
        self.from_examples = nn.Sequential(
            nn.Linear(2 * embedding, size), nn.GELU(), nn.Linear(size, size)
        )
        self.kinds = nn.Parameter(torch.zeros(2, size))
        self.latents = nn.Parameter(torch.zeros(config.latents, size))
        self.start = nn.Parameter(torch.zeros(1, size))
        self.reader = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(
                size, 4, 2 * size, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            ),
            config.encoder_layers,
        )
        self.to_code = nn.Linear(config.latents * size, size)
        self.norm = nn.RMSNorm(size, elementwise_affine=False)

    def forward(self, task: TaskInput) -> Tensor:
        """Returns task codes, (T, code)."""
        scale = math.sqrt(task.pooled.shape[-1])  # unit vectors have tiny components
        pooled = task.pooled * scale * task.has_description[:, None]  # (T, embedding)
        examples = task.examples * scale  # (T, k, 2 * embedding)
        counts = task.example_mask.sum(dim=1, keepdim=True).clamp(min=1)  # (T, 1)
        mean = (examples * task.example_mask[..., None]).sum(dim=1) / counts  # (T, 2 * embedding)
        code = self.direct(pooled) + self.direct_examples(mean)  # (T, code)
        code = code + self.to_code(self._read(task, examples))
        normed: Tensor = self.norm(code)
        return normed

    def _read(self, task: TaskInput, examples: Tensor) -> Tensor:
        """Returns what the latents read from tokens and examples, (T, latents * code)."""
        tasks = task.pooled.shape[0]
        memory = torch.cat(
            [
                self.start.expand(tasks, 1, -1),
                self.from_tokens(task.tokens) + self.kinds[0],
                self.from_examples(examples) + self.kinds[1],
            ],
            dim=1,
        )  # (T, 1 + L + k, code)
        present = torch.cat(
            [
                torch.ones_like(task.has_description)[:, None],
                task.token_mask & task.has_description[:, None],
                task.example_mask,
            ],
            dim=1,
        )  # (T, 1 + L + k)
        latents = self.latents.expand(tasks, -1, -1)
        read: Tensor = self.reader(latents, memory, memory_key_padding_mask=~present)
        return read.flatten(1)


class Hypernet(AdapterNetwork):
    """Maps encoded tasks to the LoRA factors of every slot, in one forward pass."""

    def __init__(self, config: HypernetConfig) -> None:
        super().__init__()
        self.config = config
        size, slots = config.code_size, len(config.target_modules)
        mixing = config.atoms * config.generated_rank
        self.encoder = TaskEncoder(config)
        self.slots = nn.Parameter(torch.zeros(slots, size))
        self.trunk_in = nn.Linear(size, size)
        self.trunk_out = nn.Sequential(
            nn.RMSNorm(size), nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
        )
        self.trunk_norm = nn.RMSNorm(size)
        self.mix_a = nn.Linear(size, mixing)
        self.mix_b = nn.Linear(size, mixing)
        self.gate = nn.Linear(size, 1)
        self._writing = config.writing_slots
        self.reads_words = bool(self._writing)
        self.pointer = (
            WordPointer(
                state=size,
                embedding=config.embedding_size,
                words=config.word_size,
                rank=config.generated_rank,
            )
            if self._writing
            else None
        )
        pairs = list(zip(config.in_features, config.out_features, strict=True))
        rank = config.static_rank
        self.atoms_a = _parameters((config.atoms, inputs) for inputs, _ in pairs)
        self.atoms_b = _parameters((outputs, config.atoms) for _, outputs in pairs)
        self.static_a = _parameters((rank, inputs) for inputs, _ in pairs)
        self.static_b = _parameters((outputs, rank) for _, outputs in pairs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises all weights so that every adapter starts at zero with live gradients.

        | weight            | start                        | why                              |
        |-------------------|------------------------------|----------------------------------|
        | atoms_a, static_a | normal, rows of length 1     | a projection of the input        |
        | mix_a             | bias normal / sqrt(atoms)    | A rows of length about 1         |
        | atoms_b           | normal, columns 1/sqrt(atoms)| directions for B to choose among |
        | mix_b, static_b   | 0                            | the adapter starts at zero ...   |
        | gate              | 0                            | ... three quarters open          |
        | direct, trunk_in  | normal, output as the input  | tasks must differ from the start |
        | to_code           | normal, small                | ... more than the latents do     |
        | slots             | normal, half as large        | likewise                         |
        | latents, kinds    | normal                       | they must differ                 |
        """
        config = self.config
        for parameter in (*self.atoms_a, *self.static_a):
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
        for parameter in self.atoms_b:
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[0] * config.atoms))
        for parameter in self.static_b:
            nn.init.zeros_(parameter)
        nn.init.normal_(self.mix_a.weight, std=0.1 / math.sqrt(config.code_size * config.atoms))
        nn.init.normal_(self.mix_a.bias, std=1 / math.sqrt(config.atoms))
        nn.init.zeros_(self.mix_b.weight)
        nn.init.zeros_(self.mix_b.bias)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        encoder = self.encoder
        for linear in (encoder.direct, encoder.direct_examples, self.trunk_in):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
        nn.init.normal_(encoder.to_code.weight, std=0.3 / math.sqrt(encoder.to_code.in_features))
        nn.init.normal_(self.slots, std=0.5)
        for free in (encoder.latents, encoder.kinds, encoder.start):
            nn.init.normal_(free)
        if self.pointer is not None:
            self.pointer.reset_parameters()

    def encode(self, task: TaskInput) -> Tensor:
        """Returns task codes, (T, code)."""
        code: Tensor = self.encoder(task)
        return code

    def decode(
        self, code: Tensor, *, task: TaskInput | None = None, keep: Tensor | None = None
    ) -> list[LoraBatch]:
        """Returns the adapter of each code: static and generated part side by side."""
        config = self.config
        hidden = self.trunk_in(code)[:, None] + self.slots  # (T, slots, code)
        hidden = self.trunk_norm(hidden + self.trunk_out(hidden))
        shape = (*hidden.shape[:2], config.generated_rank, config.atoms)
        mix_a = self.mix_a(hidden).view(shape)  # (T, slots, r, atoms)
        mix_b = self.mix_b(hidden).view(shape)  # (T, slots, r, atoms)
        gate = torch.sigmoid(1 + _GATE_SLOPE * self.gate(hidden))  # (T, slots, 1)
        if keep is not None:
            gate = gate * keep[:, None, None]
        strength = gate[..., None] * config.scale  # (T, slots, 1, 1)
        mix_b = mix_b * strength
        words: dict[int, Tensor] = {}
        pointed = self._pointed(hidden, task)
        if pointed is not None:
            columns = (pointed * strength[:, self._writing]).transpose(2, 3)
            words = dict(zip(self._writing, columns.unbind(1), strict=True))  # (T, out, r) each
        return [
            self._slot(slot, mix_a[:, slot], mix_b[:, slot], words.get(slot))
            for slot in range(shape[1])
        ]

    def is_factor(self, name: str) -> bool:
        """Returns whether a parameter is an atom or a static factor."""
        return name.startswith(("atoms", "static"))

    def _pointed(self, hidden: Tensor, task: TaskInput | None) -> Tensor | None:
        """Returns what the rows of the writing slots point at, (T, slots, r, out); None if
        there are no words."""
        if self.pointer is None or task is None or not task.words.shape[1]:
            return None
        size = task.tokens.shape[-1]
        outputs = task.examples[..., size:] * math.sqrt(size)  # unit vectors
        texts = torch.cat([task.tokens, outputs], dim=1)  # (T, L + k, embedding)
        places = task.word_places[..., None].expand(-1, -1, size)
        found: Tensor = self.pointer(
            hidden[:, self._writing],
            task.words,
            texts.gather(1, places),
            task.word_kinds,
            task.word_mask,
        )
        return found

    def _slot(self, slot: int, mix_a: Tensor, mix_b: Tensor, words: Tensor | None) -> LoraBatch:
        tasks = mix_a.shape[0]
        a = mix_a @ self.atoms_a[slot]  # (T, r, in)
        b = self.atoms_b[slot] @ mix_b.transpose(1, 2)  # (T, out, r)
        b = b if words is None else b + words
        static_a = self.static_a[slot].expand(tasks, -1, -1)
        static_b = (self.static_b[slot] * self.config.scale).expand(tasks, -1, -1)
        return LoraBatch(a=torch.cat([static_a, a], dim=1), b=torch.cat([static_b, b], dim=2))


def empty_task(embedding_size: int) -> TaskInput:
    """Returns one task of which nothing is known."""
    none = torch.zeros(1, 0, dtype=torch.bool)
    return TaskInput(
        tokens=torch.zeros(1, 0, embedding_size),
        token_mask=none,
        pooled=torch.zeros(1, embedding_size),
        has_description=torch.zeros(1, dtype=torch.bool),
        examples=torch.zeros(1, 0, 2 * embedding_size),
        example_mask=none,
        words=torch.zeros(1, 0, 0),
        word_kinds=torch.zeros(1, 0, dtype=torch.long),
        word_places=torch.zeros(1, 0, dtype=torch.long),
        word_mask=none,
    )


def _parameters(shapes: Any) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)

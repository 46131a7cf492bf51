"""Other wordings of a task description that keep its labels and its answer format."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection

_ATTEMPTS = 12
_FIRST_MARK = 0xE000  # private-use characters stand for the parts that must not change
_MARKS = 0x1800

_QUOTED = (
    r"\"[^\"\n]{1,80}\"",
    r"(?<!\w)'[^'\n]{1,80}'(?!\w)",
    r"“[^”\n]{1,80}”",
    r"`[^`\n]{1,80}`",
    r"\{[^{}\n]*\}",
    r"</?\w+>",
    r"\(\w\)",
    r"\b\w*[\d_]\w*\b",
)
_VERB_WORDS = """
    add analyse analyze answer arrange assign categorise categorize change check choose
    classify combine compare complete compute concatenate convert correct count create
    decide describe detect determine evaluate explain extract fill find fix generate give
    guess identify infer insert judge label list make match name output paraphrase pick
    predict print produce provide rank rate read remove reorder replace reply rephrase
    respond return reverse rewrite route say select shorten simplify solve sort spot state
    summarise summarize tag tell transform translate turn write
"""
_OPENING_WORDS = """
    an and are be based can could do does each either for from given has have how if in
    is it its of on only otherwise our that the their then there these this those to use using was
    were what when where whether which who whose why will with you your
"""
_VERBS = frozenset(_VERB_WORDS.split())
_OPENERS = frozenset(_OPENING_WORDS.split())
_ANSWER_VERB = r"(?:Answer|Reply|Respond|Output|Print|Write|Return)"
_PREAMBLES = (
    r"In this task,? (?:you need to|you have to|you must|you should|your job is to|"
    r"you are asked to|you are going to) (?!be\b)",
    r"(?:Your|The) (?:task|job|goal|role|objective|aim)(?: here)? (?:is|will be) to ",
    r"You (?:need|have|are asked|are required|are expected) to (?!be\b)",
    r"In this (?:task|exercise|assignment), (?=you\b)",
    r"Please ",
)
_FRAMES_OF_COMMANDS = (
    "I need you to {}",
    "Please {}",
    "Your job is to {}",
    "I want you to {}",
    "You have to {}",
    "Can you please {}",
    "The task is to {}",
    "You are given one input at a time. For each, {}",
    "Help me: {}",
)
_FRAMES_OF_ANYTHING = (
    "Task: {}",
    "Instruction: {}",
    "You are given an input. {}",
    "You will see one example at a time. {}",
    "Here is what I need. {}",
    "For every message I send: {}",
    "Do this for each input: {}",
    "{} Thanks!",
    "Hi, here is the job. {}",
    "You are an assistant for one task. {}",
)
_CONTRACTIONS = {
    "do not": "don't",
    "does not": "doesn't",
    "is not": "isn't",
    "are not": "aren't",
    "cannot": "can't",
    "can not": "can't",
    "should not": "shouldn't",
    "You are": "You're",
    "you are": "you're",
    "You will": "You'll",
    "you will": "you'll",
    "It is": "It's",
    "What is": "What's",
}
# "Answer" where labels follow; in "Answer the question" it has to stay.
_ANSWER = r"Answer(?= [\uE000-\uF7FF](?:[,.;:]| or | and | if |$))"
_EXCHANGES = (
    (_ANSWER, "Reply with"),
    (_ANSWER, "Output"),
    (_ANSWER, "Say"),
    ("Answer with", "Respond with"),
    ("Reply with", "Answer with"),
    ("Reply with", "Respond with"),
    ("Output", "Return"),
    ("Output", "Write"),
    ("Write", "Output"),
    ("Print", "Output"),
    ("Respond with", "Reply with"),
    ("Classify", "Categorise"),
    ("Determine", "Decide"),
    ("Decide", "Determine"),
    ("Identify", "Find"),
    ("identify", "find"),
    ("determine", "decide"),
    ("the following", "this"),
    ("the given", "the"),
    ("a given", "a"),
    ("You are given", "You get"),
    ("You will be given", "You'll see"),
    ("Choose", "Pick"),
    ("choose", "pick"),
    ("Select", "Choose"),
    ("Find", "Work out"),
    ("Generate", "Write"),
    ("Create", "Produce"),
    ("provided", "given"),
    ("(?<!on )(?<!of )(?<!to )(?<!or )whether(?! or not)", "if"),
    ("You need to", "You should"),
    ("based on", "going by"),
)

Change = Callable[[str, random.Random], str]


def reworded(
    description: str, *, count: int, seed: int, protected: Collection[str] = ()
) -> tuple[str, ...]:
    """Returns up to `count` different wordings of a description, none the original.

    Quoted words, braces, codes with digits and protected words stay exactly as they are.

    Args:
        protected: words that must survive, such as labels.
    """
    if _marks(description):
        return ()
    masked, kept = _masked(description.strip(), protected)
    found: dict[str, None] = {}
    for attempt in range(count * _ATTEMPTS):
        if len(found) >= count:
            break
        rng = random.Random(f"{seed}:{attempt}:{description}")
        text = masked
        for change in _plan(rng):
            text = change(text, rng)
        wording = _unmasked(text, kept)
        if wording != description and sorted(_marks(text)) == sorted(_marks(masked)):
            found[wording] = None
    return tuple(found)


def _plan(rng: random.Random) -> list[Change]:
    """Returns the changes of one rewording, in an order that keeps each of them safe."""
    plan: list[Change] = []
    styles = [_terse, _terse, _stripped, _plain, _frame, _frame]
    if rng.random() < 0.35:
        plan.append(_answer_first)
        styles = [_terse, _plain]  # "Your task is to answer yes or no" is not the task
    if rng.random() < 0.6:
        plan.append(_exchange)
    if rng.random() < 0.3:
        plan.append(_typos)
    plan.append(rng.choice(styles))
    if rng.random() < 0.5:
        plan.append(_contract)
    return plan


def _plain(text: str, rng: random.Random) -> str:
    return text


def _stripped(text: str, rng: random.Random) -> str:
    """Returns the text without an opening such as "Your task is to"."""
    for preamble in _PREAMBLES:
        rest = re.sub(f"^{preamble}", "", text)
        if rest != text:
            return rest[:1].upper() + rest[1:]
    return text


def _terse(text: str, rng: random.Random) -> str:
    """Returns the text as someone in a hurry types it."""
    text = _stripped(text, rng)
    if rng.random() < 0.6:
        text = re.sub(r"(?<![\w'-])(?:the|an?) (?=[a-z])", "", text)
        text = re.sub(r"(?<![\w'-])(?:The|An) (?=[a-z])", "", text)
    text = " ".join(_uncapitalised(sentence) for sentence in _sentences(text))
    if rng.random() < 0.7 and text.endswith("."):
        text = text[:-1]
    return text


def _frame(text: str, rng: random.Random) -> str:
    """Returns the text inside a frame, such as "I need you to ..."."""
    text = _stripped(text, rng)
    first = re.match(r"[A-Za-z]+", text)
    if first and first.group().lower() in _VERBS and rng.random() < 0.7:
        return _command_framed(text, rng)
    frames = [f for f in _FRAMES_OF_ANYTHING if not (f[:3] == text[:3] == "You")]
    frame = rng.choice(frames)
    return frame.format(_stopped(text))


def _command_framed(text: str, rng: random.Random) -> str:
    frame = rng.choice(_FRAMES_OF_COMMANDS)
    command, *rest = _sentences(text[:1].lower() + text[1:])
    if frame.startswith("Can") and command.endswith("."):
        command = f"{command[:-1]}?"
    return " ".join([frame.format(command), *rest])


def _answer_first(text: str, rng: random.Random) -> str:
    """Returns the text with its last sentence first if that only says how to answer."""
    sentences = _sentences(_stopped(text))
    last = sentences[-1]
    refers = r"\b(?:it|its|they|them|this|that|these|those|otherwise|also|then|if|else|above)\b"
    if len(sentences) < 2 or not re.match(rf"{_ANSWER_VERB}\b", last) or re.search(refers, last):
        return text
    if re.match(r"\w+ (?:the letter|the number|only)\b", last):
        return text
    return " ".join([last, *sentences[:-1]])


def _exchange(text: str, rng: random.Random) -> str:
    """Returns the text with one or two words exchanged for others of the same meaning."""
    fitting = [pair for pair in _EXCHANGES if re.search(rf"(?<!\w){pair[0]}(?!\w)", text)]
    for old, new in rng.sample(fitting, min(len(fitting), rng.choice((1, 2)))):
        text = re.sub(rf"(?<!\w){old}(?!\w)", new, text, count=1)
    return text


def _contract(text: str, rng: random.Random) -> str:
    for long, short in _CONTRACTIONS.items():
        text = re.sub(rf"\b{long}\b(?= \w)", short, text)
    return text


def _typos(text: str, rng: random.Random) -> str:
    """Returns the text with one or two small slips in lower-case words."""
    words = list(re.finditer(r"(?<![\w'-])[a-z]{4,}(?![\w'-])", text))
    chosen = rng.sample(words, min(len(words), rng.choice((1, 1, 2))))
    for word in sorted(chosen, key=lambda match: -match.start()):
        text = text[: word.start()] + _slip(word.group(), rng) + text[word.end() :]
    return text


def _slip(word: str, rng: random.Random) -> str:
    place = rng.randrange(1, len(word) - 1)
    before, here, after = word[:place], word[place], word[place + 1 :]
    return rng.choice(
        (before + after, before + here * 2 + after, before + after[0] + here + after[1:])
    )


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) +", text)


def _stopped(text: str) -> str:
    return text if text[-1:] in ".!?" else f"{text}."


def _uncapitalised(sentence: str) -> str:
    first = re.match(r"[A-Z][a-z]*(?=[ ,])", sentence)
    if first is None or first.group() == "A" or first.group().lower() not in _OPENERS | _VERBS:
        return sentence
    return sentence[:1].lower() + sentence[1:]


def _masked(text: str, protected: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Returns the text with a mark for each part to keep, and the parts."""
    longest_first = sorted((word for word in protected if word.strip()), key=len, reverse=True)
    # a label "A" is not the article "a"
    words = [re.escape(w) if len(w) == 1 else f"(?i:{re.escape(w)})" for w in longest_first]
    pattern = re.compile("|".join([*_QUOTED, *(rf"(?<!\w){word}(?!\w)" for word in words)]))
    kept: list[str] = []

    def mark(match: re.Match[str]) -> str:
        if len(kept) >= _MARKS:
            return match.group()
        kept.append(match.group())
        return chr(_FIRST_MARK + len(kept) - 1)

    return pattern.sub(mark, text), tuple(kept)


def _unmasked(text: str, kept: tuple[str, ...]) -> str:
    for index, part in enumerate(kept):
        text = text.replace(chr(_FIRST_MARK + index), part)
    return text


def _marks(text: str) -> list[str]:
    return [c for c in text if _FIRST_MARK <= ord(c) < _FIRST_MARK + _MARKS]

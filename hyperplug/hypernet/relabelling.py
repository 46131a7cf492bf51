"""Other words for the labels of a choice: codes, synonyms, other languages, the opposite."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

MOST_LABELS = 12
LONGEST_LABEL = 40

_CODE_WORDS = (
    "red blue green yellow purple orange black white pink grey brown silver gold teal",
    "cat dog horse owl fox bear mouse wolf duck goat lion frog hare swan",
    "apple pear plum lemon cherry mango grape peach fig melon kiwi lime banana papaya",
    "oak pine birch maple cedar elm willow ash beech spruce larch alder hazel poplar",
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike oscar",
    "zib nok tav ruf pel mog dax wem lorp vick bist hane quill sert",
)
_CODES = ("letters", "numbers", "words", "compounds")
_JOINTS = ("_", "-", " ")
_SYNONYMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "yes|no",
        ("true|false", "agree|disagree", "1|0", "correct|wrong", "right|wrong", "y|n", "+|-"),
    ),
    ("true|false", ("yes|no", "correct|incorrect", "1|0", "right|wrong", "T|F", "fact|fiction")),
    (
        "positive|negative",
        ("good|bad", "thumbs up|thumbs down", "happy|unhappy", "+|-", "like|dislike", "1|0"),
    ),
    ("pos|neg", ("positive|negative", "good|bad", "thumbs up|thumbs down", "+|-", "1|0")),
    (
        "positive|negative|neutral",
        ("good|bad|mixed", "+|-|0", "happy|unhappy|indifferent", "1|-1|0"),
    ),
    ("good|bad", ("positive|negative", "fine|poor", "thumbs up|thumbs down", "+|-", "ok|not ok")),
    (
        "entailment|contradiction|neutral",
        ("yes|no|maybe", "true|false|unknown", "follows|conflicts|open", "1|-1|0"),
    ),
    ("entailment|not_entailment", ("yes|no", "follows|does not follow", "1|0")),
    ("valid|invalid", ("ok|error", "accepted|rejected", "yes|no", "1|0", "sound|unsound")),
    ("correct|incorrect", ("right|wrong", "true|false", "yes|no", "1|0", "ok|error")),
    ("similar|not similar", ("same|different", "alike|unlike", "yes|no", "match|no match")),
    ("agree|disagree", ("yes|no", "pro|contra", "1|0", "+|-")),
    ("male|female", ("man|woman", "M|F", "he|she")),
    ("singular|plural", ("one|many", "sg|pl", "1|2+")),
    ("favor|against|none", ("pro|contra|neutral", "+|-|0", "supports|opposes|no stance")),
    ("increase|decrease", ("up|down", "+|-", "rise|fall", "more|less")),
    ("more|less|no effect", ("up|down|same", "+|-|0", "increase|decrease|unchanged")),
    ("satisfied|dissatisfied", ("happy|unhappy", "yes|no", "content|annoyed", "+|-")),
    ("plausible|not plausible", ("likely|unlikely", "yes|no", "1|0")),
    ("sarcastic|non-sarcastic", ("ironic|serious", "joking|sincere", "yes|no", "1|0")),
    ("stereotype|anti-stereotype|unrelated", ("typical|opposite|other", "+|-|0")),
    ("strengthener|weakener", ("supports|undermines", "stronger|weaker", "+|-", "up|down")),
    ("spam|ham", ("junk|fine", "block|keep", "yes|no", "1|0")),
    ("subjective|objective", ("opinion|fact", "personal|neutral")),
    ("0|1", ("no|yes", "false|true", "off|on", "-|+", "zero|one")),
    ("1|2", ("first|second", "one|two", "left|right", "I|II")),
    ("a|b", ("first|second", "1|2", "left|right", "one|two")),
    ("a|b|c", ("first|second|third", "1|2|3", "left|middle|right")),
    ("a|b|c|d", ("first|second|third|fourth", "1|2|3|4", "one|two|three|four", "i|ii|iii|iv")),
    ("a|b|c|d|e", ("first|second|third|fourth|fifth", "1|2|3|4|5", "i|ii|iii|iv|v")),
    ("1|2|3|4", ("first|second|third|fourth", "one|two|three|four", "I|II|III|IV")),
    (
        "1|2|3|4|5",
        ("one|two|three|four|five", "terrible|poor|average|good|excellent", "I|II|III|IV|V"),
    ),
)
_LANGUAGES = ("French", "German", "Spanish", "Italian", "Portuguese")
_TRANSLATIONS = {
    line.split("|", 1)[0]: tuple(line.split("|")[1:])
    for line in (
        "yes|oui|ja|sí|sì|sim",
        "no|non|nein|no|no|não",
        "true|vrai|wahr|verdadero|vero|verdadeiro",
        "false|faux|falsch|falso|falso|falso",
        "positive|positif|positiv|positivo|positivo|positivo",
        "negative|négatif|negativ|negativo|negativo|negativo",
        "neutral|neutre|neutral|neutral|neutrale|neutro",
        "good|bon|gut|bueno|buono|bom",
        "bad|mauvais|schlecht|malo|cattivo|mau",
        "valid|valide|gültig|válido|valido|válido",
        "invalid|invalide|ungültig|inválido|invalido|inválido",
        "correct|correct|richtig|correcto|corretto|correto",
        "incorrect|incorrect|falsch|incorrecto|scorretto|incorreto",
        "similar|similaire|ähnlich|parecido|simile|semelhante",
        "not similar|différent|nicht ähnlich|distinto|non simile|diferente",
        "male|homme|Mann|hombre|uomo|homem",
        "female|femme|Frau|mujer|donna|mulher",
        "singular|singulier|Einzahl|singular|singolare|singular",
        "plural|pluriel|Mehrzahl|plural|plurale|plural",
        "none|aucun|keine|ninguno|nessuno|nenhum",
        "maybe|peut-être|vielleicht|quizás|forse|talvez",
        "unknown|inconnu|unbekannt|desconocido|sconosciuto|desconhecido",
        "favor|pour|dafür|a favor|a favore|a favor",
        "against|contre|dagegen|en contra|contro|contra",
        "more|plus|mehr|más|più|mais",
        "less|moins|weniger|menos|meno|menos",
        "no effect|aucun effet|keine Wirkung|ningún efecto|nessun effetto|nenhum efeito",
        "increase|hausse|Zunahme|aumento|aumento|aumento",
        "decrease|baisse|Abnahme|descenso|calo|queda",
        "anger|colère|Wut|ira|rabbia|raiva",
        "fear|peur|Angst|miedo|paura|medo",
        "joy|joie|Freude|alegría|gioia|alegria",
        "love|amour|Liebe|amor|amore|amor",
        "optimism|optimisme|Zuversicht|optimismo|ottimismo|otimismo",
        "sadness|tristesse|Trauer|tristeza|tristezza|tristeza",
        "surprise|surprise|Überraschung|sorpresa|sorpresa|surpresa",
        "disgust|dégoût|Ekel|asco|disgusto|nojo",
        "entailment|implication|Folgerung|implicación|implicazione|implicação",
        "contradiction|contradiction|Widerspruch|contradicción|contraddizione|contradição",
        "satisfied|satisfait|zufrieden|satisfecho|soddisfatto|satisfeito",
        "dissatisfied|mécontent|unzufrieden|insatisfecho|insoddisfatto|insatisfeito",
        "0|zéro|null|cero|zero|zero",
        "1|un|eins|uno|uno|um",
        "2|deux|zwei|dos|due|dois",
        "3|trois|drei|tres|tre|três",
        "4|quatre|vier|cuatro|quattro|quatro",
        "5|cinq|fünf|cinco|cinque|cinco",
        "6|six|sechs|seis|sei|seis",
    )
}

_INSTEAD = (
    "Write {for}.",
    "Instead of the label, write the {noun}: {equals}.",
    "Use these {noun}s for the answer: {equals}.",
    "Output only the {noun}: {arrow}.",
    "Say {instead}.",
    "Each label has its own {noun}: {arrow}.",
    "Do not print the label itself but {for}.",
)
_MEANING = (
    "Here {means}.",
    "The labels mean: {equals}.",
    "Key: {equals}.",
    "Note that {means}.",
    "Write {for}.",
)
_INVERTED = (
    "Answer the opposite: {opposite}.",
    "Invert the answer, that is, give {opposite}.",
    "Always give the wrong one of the two labels: {opposite}.",
    "Swap the two labels in your reply: {opposite}.",
    "Reply with the reverse of the right answer, {opposite}.",
    "The answer must be flipped: {opposite}.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelling:
    """New words for labels.

    Attributes:
        name: of the format, such as "letters".
        words: the new word of each label, in the order of the labels.
        spoken: opens each clause ("Answer in French."), or "".
        inverted: the labels are swapped.
    """

    name: str
    words: tuple[str, ...]
    spoken: str = ""
    inverted: bool = False


def relabellings(
    labels: Sequence[str], *, avoid: str, rng: random.Random
) -> tuple[Relabelling, ...]:
    """Returns the ways to relabel that fit the labels, each one-to-one and none the identity.

    Args:
        avoid: text whose words must not become codes, as the descriptions of the task.
    """
    if not 2 <= len(labels) <= MOST_LABELS or any(len(x) > LONGEST_LABEL for x in labels):
        return ()
    found = [
        *_codes(labels, avoid=avoid, rng=rng),
        *_synonyms(labels, rng=rng),
        *_translated(labels, rng=rng),
    ]
    if len(labels) == 2:
        found.append(Relabelling(name="inverted", words=(labels[1], labels[0]), inverted=True))
    return tuple(r for r in found if _sound(labels, r.words))


def mapping_clause(
    labels: Sequence[str], relabelling: Relabelling, *, rewritten: bool, rng: random.Random
) -> str:
    """Returns a sentence that says which word stands for which label.

    Args:
        rewritten: the description already uses the new words.
    """
    pairs = list(zip(labels, relabelling.words, strict=True))
    if rng.random() < 0.5:
        pairs.sort(key=lambda pair: (len(pair[1]), pair[1]))
    quote = '"' if _needs_quotes(pairs) or rng.random() < 0.3 else ""
    pairs = [(f"{quote}{old}{quote}", f"{quote}{new}{quote}") for old, new in pairs]
    if relabelling.inverted:
        phrase = rng.choice(_INVERTED)
    else:
        phrase = rng.choice(_MEANING if rewritten else _INSTEAD)
    said = {
        "noun": "code" if relabelling.name in _CODES else "word",
        "for": listed([f"{new} for {old}" for old, new in pairs], last="and"),
        "instead": listed([f"{new} instead of {old}" for old, new in pairs], last="and"),
        "means": listed([f"{new} stands for {old}" for old, new in pairs], last="and"),
        "opposite": listed([f"{new} when it would be {old}" for old, new in pairs], last="and"),
        "equals": ", ".join(f"{new} = {old}" for old, new in pairs),
        "arrow": ", ".join(f"{old} -> {new}" for old, new in pairs),
    }
    return f"{relabelling.spoken} {phrase.format(**said)}".strip()


def listed(items: Sequence[str], *, last: str) -> str:
    """Returns "a, b and c", with `last` before the last item."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def _codes(labels: Sequence[str], *, avoid: str, rng: random.Random) -> list[Relabelling]:
    count = len(labels)
    found = []
    if all(len(label) > 1 for label in labels):
        found.append(("letters", list(string.ascii_uppercase[:count])))
    if not any(character.isdigit() for label in labels for character in label):
        start = rng.choice((0, 1, 1))
        found.append(("numbers", [str(n) for n in range(start, start + count)]))
    taken = f" {avoid} {' '.join(labels)} ".casefold()
    words = [w for w in rng.choice(_CODE_WORDS).split() if w not in taken]
    if len(words) >= count:
        found.append(("words", rng.sample(words, count)))
        found.append(("compounds", _compounds(words, count, rng=rng)))
    for _, codes in found:
        rng.shuffle(codes)
    return [Relabelling(name=name, words=tuple(codes)) for name, codes in found]


def _compounds(words: Sequence[str], count: int, *, rng: random.Random) -> list[str]:
    """Returns labels of several tokens, all in one style: "red_fox", "Oak Pine", "LIME-PLUM"."""
    joint, cased = rng.choice(_JOINTS), rng.choice((str.lower, str.title, str.upper))
    others = rng.choice(_CODE_WORDS).split()
    return [cased(joint.join((word, rng.choice(others)))) for word in rng.sample(words, count)]


def _synonyms(labels: Sequence[str], *, rng: random.Random) -> list[Relabelling]:
    plain = [label.casefold() for label in labels]
    for known, choices in _SYNONYMS:
        keys = known.split("|")
        if sorted(keys) == sorted(plain):
            words = dict(zip(keys, rng.choice(choices).split("|"), strict=True))
            new = tuple(
                _cased(words[p], like=label) for p, label in zip(plain, labels, strict=True)
            )
            return [Relabelling(name="synonyms", words=new)]
    return []


def _translated(labels: Sequence[str], *, rng: random.Random) -> list[Relabelling]:
    plain = [label.casefold() for label in labels]
    if any(label not in _TRANSLATIONS for label in plain):
        return []
    column = rng.randrange(len(_LANGUAGES))
    language = _LANGUAGES[column]
    words = tuple(
        _cased(_TRANSLATIONS[p][column], like=label) for p, label in zip(plain, labels, strict=True)
    )
    spoken = rng.choice(("Answer in {}.", "The answer must be in {}.", "Reply in {}."))
    return [Relabelling(name=language.lower(), words=words, spoken=spoken.format(language))]


def _cased(word: str, *, like: str) -> str:
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() and len(like) > 1 else word


def _sound(labels: Sequence[str], words: Sequence[str]) -> bool:
    return len({w.casefold() for w in words}) == len(labels) and tuple(words) != tuple(labels)


def _needs_quotes(pairs: Sequence[tuple[str, str]]) -> bool:
    return any(not text.replace("_", "").isalnum() for pair in pairs for text in pair)

"""Forms that an answer can be asked for in, with the sentences that ask for them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LONGEST_SHORT_ANSWER = 80
_CHANGED_SHARE = 0.9
_POINTS = ",.;:!?"
_KEYS = ("label", "answer", "result", "category", "output", "value", "prediction")
_TAGS = ("answer", "label", "result", "output")
_PREFIXES = ("Answer: ", "-> ", "Label: ", "A: ", "Result: ", "=> ", "Output = ", "# ", "- ")
_SENTENCES = (
    "The answer is {}.",
    "My answer is {}.",
    "The correct answer is {}.",
    "I would say {}.",
    "It should be {}.",
    "The result is {}.",
)
_WRAPPINGS = (
    ("double quotes", '"', '"'),
    ("single quotes", "'", "'"),
    ("square brackets", "[", "]"),
    ("round brackets", "(", ")"),
    ("angle brackets", "<", ">"),
    ("curly braces", "{", "}"),
    ("double asterisks", "**", "**"),
    ("backticks", "`", "`"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of the answer.

    Attributes:
        name: such as "json".
        apply: turns an answer into the form.
        clauses: sentences, each of which says the form in full.
        fits: whether an answer can take the form.
        lossy: different answers may become one.
    """

    name: str
    apply: Callable[[str], str]
    clauses: tuple[str, ...]
    fits: Callable[[str], bool] = lambda answer: "\n" not in answer
    lossy: bool = False


def fitting_forms(answers: Sequence[str], *, category: str, rng: random.Random) -> tuple[Form, ...]:
    """Returns the forms that suit the answers of a task, each with one random variant.

    Answers that are not short, or that would mostly stay the same, have none.
    """
    short = [answer for answer in answers if len(answer) <= LONGEST_SHORT_ANSWER]
    if len(short) < _CHANGED_SHARE * len(answers):
        return ()
    forms = [_json(rng), _tag(rng), _wrapped(rng), _ended(rng), _sentence(rng), _prefixed(rng)]
    forms.append(_twice(rng))
    if category != "code":
        forms += [_UPPER, _LOWER]
    forms += [_first_word(), _last_word(), _reversed_list(), _separated(rng)]
    return tuple(form for form in forms if _suits(form, answers))


def _suits(form: Form, answers: Sequence[str]) -> bool:
    if not all(answer and form.fits(answer) for answer in answers):
        return False
    formed = [form.apply(answer) for answer in answers]
    changed = sum(new != old for new, old in zip(formed, answers, strict=True))
    if not all(new.strip() for new in formed) or changed < _CHANGED_SHARE * len(answers):
        return False
    if form.lossy:
        commonest = max(formed.count(new) for new in set(formed))
        return commonest <= len(formed) / 2
    return len(set(formed)) == len(set(answers))


def _json(rng: random.Random) -> Form:
    key = rng.choice(_KEYS)
    return Form(
        name="json",
        apply=lambda answer: json.dumps({key: answer}, ensure_ascii=False),
        clauses=(
            f'Give the answer as JSON: {{"{key}": "..."}}.',
            f'Reply with a JSON object whose only key is "{key}" and whose value is a string.',
            f'Put the answer, as a string, into a JSON object under the key "{key}".',
            f'Output JSON of the form {{"{key}": "<answer>"}} and nothing else.',
            f'The output must be a JSON object with one text field, "{key}".',
            f'Respond in JSON, like {{"{key}": "..."}}.',
            f'Return {{"{key}": "<answer>"}}.',
        ),
        fits=lambda answer: True,
    )


def _tag(rng: random.Random) -> Form:
    tag = rng.choice(_TAGS)
    return Form(
        name="tag",
        apply=lambda answer: f"<{tag}>{answer}</{tag}>",
        clauses=(
            f"Put the answer between <{tag}> and </{tag}>.",
            f"Wrap the answer in a <{tag}> tag: <{tag}>...</{tag}>.",
            f"Answer in XML, as <{tag}>...</{tag}>.",
            f"The output starts with <{tag}> and ends with </{tag}>, the answer in between.",
            f"Use the format <{tag}>your answer</{tag}>, without spaces around it.",
        ),
    )


def _wrapped(rng: random.Random) -> Form:
    named, left, right = rng.choice(_WRAPPINGS)
    return Form(
        name=named.replace(" ", "-"),
        apply=lambda answer: f"{left}{answer}{right}",
        clauses=(
            f"Put the answer in {named}.",
            f"Write the answer in {named}, like {left}this{right}.",
            f"Enclose your answer in {named}.",
            f"The output must stand in {named}: {left}...{right}",
            f"Surround the answer with {named}.",
            f"Use {named} around the answer ({left}answer{right}).",
        ),
        fits=lambda answer: not set(left + right + "\n") & set(answer),
    )


def _ended(rng: random.Random) -> Form:
    named, mark = rng.choice(
        (("a full stop", "."), ("a full stop", "."), ("an exclamation mark", "!"))
    )
    return Form(
        name=named.split(" ", 1)[1].replace(" ", "-"),
        apply=lambda answer: f"{answer}{mark}",
        clauses=(
            f"End the answer with {named}.",
            f"Put {named} after the answer.",
            f"The answer must be followed by {named} ({mark}).",
            f'Close your answer with {named}, "{mark}".',
            f"Finish with {named}, directly after the answer.",
        ),
        fits=_ends_in_word,
    )


def _sentence(rng: random.Random) -> Form:
    template = rng.choice(_SENTENCES)
    shown = template.format(rng.choice(("X", "<answer>", "___")))
    return Form(
        name="sentence",
        apply=template.format,
        clauses=(
            f'Answer in a full sentence: "{shown}"',
            f'Use a complete sentence of the form "{shown}"',
            f'Reply with the sentence "{shown}", filling in the answer.',
            f'Your reply should read "{shown}" with the answer put in.',
            f'Do not just give the answer, write the sentence "{shown}"',
            f'Phrase the answer as "{shown}"',
        ),
        fits=_ends_in_word,
    )


def _prefixed(rng: random.Random) -> Form:
    prefix = rng.choice(_PREFIXES)
    return Form(
        name="prefix",
        apply=lambda answer: f"{prefix}{answer}",
        clauses=(
            f'Start the reply with "{prefix}".',
            f'Put "{prefix}" in front of the answer.',
            f'Write "{prefix}" and then the answer.',
            f'The output begins with "{prefix}", followed by the answer.',
            f'Prefix the answer with "{prefix}".',
            f'Use the format "{prefix}<answer>".',
        ),
    )


def _twice(rng: random.Random) -> Form:
    named, mark = rng.choice((("a space", " "), ("a comma and a space", ", "), ("a slash", "/")))
    return Form(
        name="twice",
        apply=lambda answer: f"{answer}{mark}{answer}",
        clauses=(
            f"Write the answer twice, with {named} in between.",
            f"Give the answer two times, separated by {named}.",
            f"Repeat the answer once, after {named}.",
            f'The output is the answer twice: "X{mark}X".',
            f"Print the answer, {named}, and the answer again.",
        ),
        fits=lambda answer: len(answer) <= 30 and "\n" not in answer,
    )


_UPPER = Form(
    name="upper",
    apply=str.upper,
    clauses=(
        "Write the answer in capital letters.",
        "Use upper case only.",
        "ANSWER IN ALL CAPS.",
        "The output must be in capitals.",
        "Give the answer in UPPERCASE.",
        "Every letter of the answer is a capital.",
    ),
)
_LOWER = Form(
    name="lower",
    apply=str.lower,
    clauses=(
        "Write the answer in lower case.",
        "Use small letters only.",
        "No capitals in the answer, all lower case.",
        "The output must be lowercase.",
        "Answer without any capital letters.",
        "all answers in lowercase please.",
    ),
)


def _first_word() -> Form:
    return Form(
        name="first-word",
        apply=lambda answer: answer.split()[0].strip(_POINTS),
        clauses=(
            "Output only the first word of the answer.",
            "Give just the first word of the result, without punctuation.",
            "Stop after the first word of the answer.",
            "Only the answer's first word is wanted.",
            "Reply with nothing but the first word of what you would write.",
        ),
        fits=_has_words,
        lossy=True,
    )


def _last_word() -> Form:
    return Form(
        name="last-word",
        apply=lambda answer: answer.split()[-1].strip(_POINTS),
        clauses=(
            "Output only the last word of the answer.",
            "Give just the final word of the result, without punctuation.",
            "Only the answer's last word is wanted.",
            "Reply with nothing but the last word of what you would write.",
            "Leave out everything but the last word of the answer.",
        ),
        fits=_has_words,
        lossy=True,
    )


def _reversed_list() -> Form:
    return Form(
        name="reversed",
        apply=lambda answer: f"[{', '.join(reversed(_items(answer)))}]",
        clauses=(
            "Give the list in reverse order.",
            "Reverse the order of the resulting list.",
            "Write the resulting list backwards, last item first.",
            "The last item of the resulting list comes first.",
            "Print the result from its last item to its first.",
        ),
        fits=lambda answer: bool(_items(answer)),
    )


def _separated(rng: random.Random) -> Form:
    named, mark = rng.choice((("semicolons", "; "), ("vertical bars", " | "), ("spaces", " ")))
    return Form(
        name="separated",
        apply=lambda answer: mark.join(_items(answer)),
        clauses=(
            f"Write the resulting list without brackets, items separated by {named}.",
            f'Join the items of the result with "{mark}", no brackets.',
            f"No brackets and no commas: put {named} between the items of the result.",
            f"Output the items only, separated by {named} instead of commas, without brackets.",
            f'Print the resulting list in the form "a{mark}b{mark}c".',
        ),
        fits=lambda answer: bool(_items(answer)),
    )


def _items(answer: str) -> list[str]:
    """Returns the items of a flat list such as "[1, 2]"; none if it is not one."""
    flat = re.fullmatch(r"\[([^\[\]\"]+)\]", answer)
    items = [item.strip() for item in flat.group(1).split(",")] if flat else []
    return items if all(items) else []


def _ends_in_word(answer: str) -> bool:
    return "\n" not in answer and answer[-1:].isalnum()


def _has_words(answer: str) -> bool:
    words = [word.strip(_POINTS) for word in answer.split()]
    ends = [*words[:1], *words[-1:]]
    return bool(ends) and "\n" not in answer and all(re.fullmatch(r"[\w'-]+", w) for w in ends)

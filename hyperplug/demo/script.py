"""What the demo registers and asks."""

from __future__ import annotations

from dataclasses import dataclass

from hyperplug.entities import Decision, Example, TaskDraft

TASKS = (
    TaskDraft(
        name="sentiment",
        description="Decide whether a film review is positive or negative. "
        "Answer with one word: positive or negative.",
        tags=("classify",),
    ),
    TaskDraft(
        name="news-topic",
        description="Name the topic of a news headline. "
        "Answer with one of: World, Sports, Business, Science.",
        tags=("classify",),
    ),
    TaskDraft(
        name="emotion",
        description="Say which emotion a message expresses. "
        "Answer with one of: joy, sadness, anger, fear.",
        examples=(
            Example(input="They cancelled my flight and nobody apologised!", output="anger"),
            Example(input="My sister is coming home tomorrow.", output="joy"),
        ),
        tags=("classify",),
    ),
    TaskDraft(
        name="spam",
        description="Decide whether a text message is spam. Answer with one word: spam or ham.",
        tags=("classify",),
    ),
    TaskDraft(
        name="yes-or-no",
        description="Read a passage and a question about it. Answer yes or no.",
        tags=("answer",),
    ),
    TaskDraft(
        name="find-place",
        description="Find the name of the place that the sentence mentions. "
        "Answer with that name only.",
        tags=("extract",),
    ),
    TaskDraft(
        name="headline",
        description="Write a short title for a news article. Answer with the title only.",
        tags=("write",),
    ),
    TaskDraft(
        name="to-german",
        description="Translate an English sentence into German. Answer with the translation only.",
        tags=("write",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of the demo.

    Attributes:
        title: how the table calls it.
        model: what the request names: a task, or "hyperplug:" and a description.
        text: the user's message.
        expected: the decision it is there to show.
    """

    title: str
    model: str
    text: str
    expected: Decision


_REVIEW = "The plot is thin and the jokes fall flat. I left before the end."
_QUESTION = "Where is the Eiffel Tower?"
_NOVEL = (
    "hyperplug:Classify the question by the kind of its answer: "
    "person, place, number or description."
)

REQUESTS = (
    Request(title="a task by its name", model="sentiment", text=_REVIEW, expected=Decision.EXACT),
    Request(
        title="another one",
        model="news-topic",
        text="Striker signs for a record fee hours before the deadline",
        expected=Decision.EXACT,
    ),
    Request(
        title="a paraphrase",
        model="hyperplug:Classify a film review as positive or negative. "
        "Answer with one word: positive or negative.",
        text="A warm, funny film; I have seen it twice already.",
        expected=Decision.NEAREST,
    ),
    Request(title="a task never seen", model=_NOVEL, text=_QUESTION, expected=Decision.NOVEL),
    Request(title="the same again", model=_NOVEL, text=_QUESTION, expected=Decision.EXACT),
    Request(
        title="no task at all",
        model="hyperplug:Good morning! How are you doing today, my friend?",
        text="What is the capital of France?",
        expected=Decision.BASE,
    ),
)

# Asked of the base model before and after everything else: its answer must not change.
FROZEN_CHECK = "Tell me in two sentences what a lighthouse is for."

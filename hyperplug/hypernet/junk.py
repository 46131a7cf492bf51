"""Texts that describe no task: an adapter made of one can only disturb the base model."""

from __future__ import annotations

GIBBERISH = (
    "asdf jkl; qwerty uiop zxcv",
    "lorem dolor blip snorf wibble",
    "xkqz vvtr plm 9912 ##",
    "aaaaaaaaaaaaaaaaaaaaaaa",
    "0 1 1 2 3 5 8 13 21 34 55 89",
    "%%% >>> ??? !!! @@@",
    "grmbl frotz xyzzy plugh",
    "blue seven because under quickly ladder",
    "the the of and to in a is",
    "tkn_49f3a0be-77c1 err=null retry=3",
)
SMALL_TALK = (
    "Hi there! How are you today?",
    "good morning :)",
    "Thanks a lot, that was really helpful.",
    "What a lovely evening it is.",
    "lol ok",
    "Sorry, I was away for a moment.",
    "My cat slept on the keyboard again.",
    "See you on Monday!",
    "I am so tired of this rain.",
    "Happy birthday, Grandma!",
)
STATEMENTS = (
    "The train to the coast leaves at half past nine.",
    "We had noodles with mushrooms for lunch.",
    "My neighbour bought a red bicycle last week.",
    "Water boils at a lower temperature on a mountain.",
    "The meeting was moved to the small room upstairs.",
    "Our team lost three to one on Saturday.",
    "She planted tomatoes along the southern wall.",
    "The museum is closed for repairs until spring.",
    "He plays the cello in an amateur orchestra.",
    "The price of coffee has gone up twice this year.",
)
JUNK = (*GIBBERISH, *SMALL_TALK, *STATEMENTS)

"""Guess the language of a sentence, where none is set: by its words, and by those of the text before it."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from typing import Final

from .abbreviations import Words, common_words, words_of

__all__ = ["RECENT_CHARS", "guess"]

RECENT_CHARS: Final = 200  # of the text before the sentence, which count less
_SENTENCE_CHARS: Final = 300
_ENOUGH: Final = 0.2  # by so much the best language must lead
# How often models answer in them: a word that two languages have counts more for the one that is met more often.
_FAVOUR: Final = {"en": 1.4, "de": 1.3, "fr": 1.3, "es": 1.3, "it": 1.1, "pt": 1.1, "nl": 1.1, "ru": 1.3, "pl": 1.0}
_OTHERS: Final = 0.8
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")

# Frequent words, besides those that begin sentences or belong to what follows them.
_FREQUENT: Final = {
    "en": (
        "me him us them am been being get got go goes going gone come came good great well sure okay thanks thank "
        "please just like know think want need make made see look find found check enjoy feed hold keep wait tell "
        "told say said says take took give gave work works time day days week weeks year years way thing things "
        "people room seat order code called open close opens closes start starts begin begins end ends much more new "
        "old big small long short right left really too out up down off back again any many someone something "
        "anything nothing everything would could should these those whose than because hi hello sorry ready done set "
        "doubled doesn't don't it's i'm you're that's let's"
    ),
    "de": (
        "mir mich dir dich uns euch ihm ihnen ihren ihrem seinen seinem diesen diesem mehr sehr gut bitte danke gerne "
        "hallo genau wenn dass muss müssen soll sollte gibt geht macht machen gehen kommt etwas nichts immer wieder "
        "zwei drei jahr jahre zeit das dem ist sind wird gilt hat habe haben auch nach zum zur raum zimmer uhr euro "
        "heute oben unten siehe"
    ),
    "fr": (
        "suis es sommes êtes sont était avez avons ont fait faire bien merci bonjour très plus moins aussi tout tous "
        "toute rien cela ça deux trois fois jour ans temps peut peux veux être avoir"
    ),
    "es": (
        "estoy está están estaba tengo tiene tienen puede puedo hacer hace bien gracias hola muy más menos todo toda "
        "nada algo dos tres vez día años tiempo ser estar quiero"
    ),
    "pt": (
        "estou está estão tenho tem têm pode posso fazer faz bem obrigado olá muito mais menos tudo nada dois três "
        "vez dia anos ser"
    ),
    "it": (
        "sono sei siamo sta stanno hanno può posso fare fa bene grazie ciao molto più meno tutto niente due tre volta "
        "giorno anni"
    ),
    "nl": (
        "ben bent heb hebt wordt worden kunt kunnen moet gaat doen goed dank hallo heel meer niets iets twee drie jaar dag tijd"
    ),
    "sv": "är jag mycket bra tack hej också bara skulle kunde två tre år dag",
    "da": "jeg meget godt tak hej også bare skulle kunne to tre år dag",
    "pl": "jestem są być mam masz bardzo dobrze dziękuję cześć dzień dwa trzy lat czas tylko może",
    "tr": "çok iyi teşekkürler merhaba değil var yok iki üç gün yıl zaman olarak",
    "lt": "yra aš tu jis ji mes jūs jie kad bet ir ar su iš į dėl nuo per po prie taip ne labai buvo",
}


@cache
def _languages() -> dict[str, tuple[str, ...]]:
    """Return in which languages each frequent word stands."""
    table: dict[str, set[str]] = defaultdict(set)
    for language, words in common_words().items():
        for word in [*words, *_FREQUENT.get(language, "").split()]:
            table[word].add(language)
    return {word: tuple(languages) for word, languages in table.items()}


def _count(scores: dict[str, float], text: str, weight: float) -> None:
    table = _languages()
    for word in _WORD.findall(text.lower().replace("’", "'")):
        for language in (found := table.get(word, ())):
            scores[language] += weight * _FAVOUR.get(language, _OTHERS) / len(found)


def guess(recent: str, sentence: str, following: str = "") -> Words | None:
    """Return the words of the language that a sentence is most likely in, None if it could be one of several.

    `recent` is the text before the sentence, `following` the word behind it.
    """
    scores: dict[str, float] = defaultdict(float)
    _count(scores, recent[-RECENT_CHARS:], 0.3)
    _count(scores, sentence[-_SENTENCE_CHARS:], 1.0)
    _count(scores, following, 0.6)
    if not scores:
        return None
    best, *others = sorted(scores, key=lambda language: -scores[language])
    lead = scores[best] - (scores[others[0]] if others else 0)
    return words_of(best) if lead >= _ENOUGH else None

"""Where no language is set, each sentence is cut by the rules of the language that it is in."""

from __future__ import annotations

import pytest

from llm2ws.text.abbreviations import words_of
from llm2ws.text.fragmenter import Fragmenter
from llm2ws.text.fragments import Piece, Policy
from llm2ws.text.languages import guess


def sentences(text: str, size: int, language: str | None = None) -> list[str]:
    fragmenter = Fragmenter(Policy.SENTENCE, language=language)
    found = []
    for at in range(0, len(text), size):
        chunk = text[at : at + size]
        found += fragmenter.feed(Piece(chunk, at, at + len(chunk)))
    return [fragment.text.strip() for fragment in [*found, *fragmenter.finish()]]


@pytest.mark.parametrize(
    "text",
    [
        "OK.¦ I see two trains on Monday.",
        "Ok.¦ Looking at trains now.",
        "I don't mind.¦ Stay a while.",
        "Mm.¦ That tastes good.",
        "The gate is 9.¦ Room for all of you.",
        "My seat is 31.¦ Lunch comes at noon.",
        "Close the doc.¦ Then wait.",
        "A frame takes 16 ms.¦ Latency fell.",
        "Wait one sec.¦ Now try.",
        "The cat is called Max.¦ Give him fish.",
        "Add approx. 5 g of salt.¦ Ask Dr. Lee about No. 3.",
        "Am 4. Juli ist zu.¦ Der 5. Anlauf gelang.¦ Siehe Abb. 3 oben.",
        "Das gilt seit dem 3. Mai.¦ My number is 5.¦ Das ist in der 3. Etage so, z. B. bei uns.",
        "Le prix est de 12.¦ Nous partons avec M. Blanc, p. 3.",
        "Mi asiento es el 14.¦ El Sr. Gil vino.",
        "Это стр. 5 книги.¦ Их было 5.¦ Все ушли.",
    ],
)
def test_each_sentence_is_cut_by_its_language(text: str) -> None:
    expected = [part.strip() for part in text.split("¦")]
    plain = text.replace("¦", "")
    for size in (len(plain), 4, 1):
        assert sentences(plain, size) == expected


def test_a_set_language_wins() -> None:
    assert sentences("The code is 7. Versuch it.", 4, "de") == ["The code is 7. Versuch it."]


@pytest.mark.parametrize(
    ("recent", "sentence", "following", "language"),
    [
        ("", "The door is", "", "en"),
        ("", "Das ist", "", "de"),
        ("Wir sehen das nicht.", "Siehe", "", "de"),
        ("Das ist nicht so, wie wir es wollten.", "But now we see it", "", "en"),
        ("", "Info", "The", "en"),
        ("", "Info", "", None),
        ("", "", "", None),
    ],
)
def test_the_language_of_a_sentence(recent: str, sentence: str, following: str, language: str | None) -> None:
    found = guess(recent, sentence, following)
    assert found is (None if language is None else words_of(language))

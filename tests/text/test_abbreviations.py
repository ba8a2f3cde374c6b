from __future__ import annotations

from functools import cached_property

from llm2ws.text import abbreviations
from llm2ws.text.abbreviations import Words, words_of


def test_words_are_written_as_the_judge_looks_them_up() -> None:
    for language in (None, *abbreviations._NEVER):
        for name, found in vars(Words).items():
            if isinstance(found, cached_property):
                assert all(word == word.lower() and not word.endswith(".") for word in getattr(words_of(language), name))


def test_a_region_belongs_to_its_language() -> None:
    assert words_of("pt-BR") is words_of("pt_pt") is words_of("PT") is words_of("pt")


def test_an_unknown_language_gets_what_all_languages_give_together() -> None:
    assert words_of("tlh") is words_of(None)
    assert words_of("zh") is words_of("en")


def test_a_word_that_is_ordinary_elsewhere_does_not_count_without_its_language() -> None:
    assert "ten" in words_of("pt").never
    assert "ten" not in words_of(None).never
    assert "dr" in words_of(None).never


def test_no_word_says_two_things() -> None:
    for language in (None, *abbreviations._STARTERS):
        words = words_of(language)
        assert not words.never & words.starters


def test_every_word_that_may_end_in_a_full_stop_is_among_the_abbreviations() -> None:
    for language in (None, *abbreviations._NEVER):
        words = words_of(language)
        assert words.never | words.before_number | words.may_end | words.ends <= words.abbreviations

"""Tokens of descriptions and demographics."""

from efficientrec.features import item_tokens, trait_keys, user_traits
from efficientrec.interactions import keys_of
from efficientrec.profile import TRAITS_MAX


def test_a_title_tells_its_words_and_its_year() -> None:
    assert item_tokens("The Matrix (1999)", [], {}) == ["year=1999", "decade=1990", "title=matrix"]


def test_a_column_of_years_counts_before_the_title() -> None:
    assert item_tokens("1984 (1956)", [], {"year": "1984"}) == ["year=1984", "decade=1980", "title=1984"]


def test_a_year_that_is_none_is_left_out() -> None:
    assert item_tokens("", [], {"year": "unknown"}) == []


def test_categories_and_other_columns_keep_their_names() -> None:
    tokens = item_tokens("", ["Comedy", "Drama"], {"author": " Jane Austen ", "blurb": "x" * 200})

    assert tokens == ["category=Comedy", "category=Drama", "author=Jane Austen"]


def test_no_token_stands_twice() -> None:
    assert item_tokens("New York, New York", [], {}) == ["title=new", "title=york"]


def test_the_most_telling_traits_come_first() -> None:
    features = {"zip_code": "48067", "occupation": "writer", "age": "24", "gender": "F"}

    assert user_traits(features) == ["gender=F", "age=18", "occupation=writer", "zip_code=4"]


def test_ages_fall_into_bands_and_the_codes_of_movielens_stay_themselves() -> None:
    assert [user_traits({"age": age}) for age in ("1", "25", "34", "56", "90")] == [
        ["age=1"],
        ["age=25"],
        ["age=25"],
        ["age=56"],
        ["age=56"],
    ]


def test_an_impossible_age_says_nothing_and_a_band_stays_as_it_is() -> None:
    assert user_traits({"age": "244"}) == []
    assert user_traits({"age": "18-24"}) == ["age=18-24"]


def test_no_user_has_more_traits_than_a_row_holds() -> None:
    assert len(user_traits({f"column{index}": "x" for index in range(2 * TRAITS_MAX)})) == TRAITS_MAX


def test_trait_keys_are_the_keys_of_the_traits() -> None:
    assert trait_keys({"gender": "F"}).tolist() == keys_of(["gender=F"]).tolist()

"""The order in which turns are served, and the limit that an account's refusals tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from llm2ws.links.waiting import RAISE_S, REGAIN_S, FairQueue, LearnedLimit


@dataclass(eq=False)
class Turn:
    client: str | None
    n: int
    round: int = 0


def served(queue: FairQueue[Turn]) -> list[Turn]:
    """Take all turns off the queue, the first one first."""
    order = []
    while queue:
        order.append(next(iter(queue)))
        queue.remove(order[-1])
    return order


def test_clients_take_turns_and_none_is_kept_waiting_by_one_that_asks_for_much() -> None:
    queue = FairQueue[Turn]()
    for n in range(4):
        queue.add(Turn("greedy", n))
    queue.add(Turn("modest", 4))
    assert [turn.n for turn in served(queue)] == [0, 4, 1, 2, 3]


@given(st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30))
def test_the_turns_of_a_client_keep_their_order_and_nobodys_come_as_they_came(clients: list[str | None]) -> None:
    queue = FairQueue[Turn]()
    turns = [Turn(client, n) for n, client in enumerate(clients)]
    for turn in turns:
        queue.add(turn)
    order = served(queue)
    assert sorted(order, key=lambda turn: turn.n) == turns
    for client in {"a", "b", "c"}:
        own = [turn.n for turn in order if turn.client == client]
        assert own == sorted(own)
    for turn in order:  # before each one at most one of each other client a round
        before = [other for other in order[: order.index(turn)] if other.client == turn.client and turn.client is not None]
        for client in {"a", "b", "c"} - {turn.client}:
            ahead = sum(other.client == client for other in order[: order.index(turn)])
            assert ahead <= len(before) + 1


def test_a_limit_is_learned_from_refusals_and_tried_again_in_time() -> None:
    limit = LearnedLimit()
    assert (limit.at(0.0), limit.rises_at(0.0)) == (math.inf, math.inf)
    limit.granted(5, 1.0)
    limit.refused(5, 2.0)
    assert (limit.at(2.0), limit.rises_at(2.0)) == (5, 2.0 + RAISE_S)
    assert limit.at(2.0 + RAISE_S) == 6
    limit.refused(5, 3.0 + RAISE_S)
    assert limit.at(3.0 + RAISE_S) == 5
    limit.granted(6, 4.0 + 2 * RAISE_S)
    assert limit.at(4.0 + 2 * RAISE_S) == 6


def test_what_was_granted_before_is_tried_again_soon() -> None:
    """The endpoint may count a connection that was just closed for a little longer."""
    limit = LearnedLimit()
    limit.granted(5, 0.0)
    limit.refused(4, 1.0)
    assert (limit.at(1.0), limit.at(1.0 + REGAIN_S)) == (4, 5)

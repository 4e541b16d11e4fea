"""What a labelling has taken so far, what an answer costs, and whether the budget allows another request."""

from __future__ import annotations

import time

from core.errors import BudgetReached
from core.label.entries import Spent
from core.label.request import Reply
from core.label.section import Budget, Prices


class Account:
    """Counts from what earlier sessions took. Not locked: its owner calls it under a lock."""

    def __init__(self, budget: Budget, prices: Prices | None, spent: Spent, began_s: float | None = None) -> None:
        self._budget = budget
        self._prices = prices
        self._requests = spent.requests
        self._tokens = spent.tokens
        self._cost = spent.cost
        self._began_s = time.perf_counter() if began_s is None else began_s

    def allow(self) -> None:
        """Count a request that is about to be sent; BudgetReached when the budget has no room for it."""
        taken = {
            "max_requests": self._requests,
            "max_tokens": self._tokens,
            "max_cost": self._cost,
            "max_s": time.perf_counter() - self._began_s,
        }
        for name, figure in taken.items():
            limit = getattr(self._budget, name)
            if limit is not None and figure >= limit:
                raise BudgetReached(
                    f"{figure:.10g} >= {limit:g}, label.budget.{name}",
                    remedy=f"Raise it and run again; every answer is kept: --set label.budget.{name}={_more(limit)}",
                )
        self._requests += 1

    def charge(self, reply: Reply) -> float | None:
        """Count an answer and return what it cost, None where there are no prices."""
        self._tokens += reply.prompt_tokens + reply.completion_tokens
        if self._prices is None:
            return None
        cost = (
            reply.prompt_tokens * self._prices.prompt_per_million
            + reply.completion_tokens * self._prices.completion_per_million
        ) / 1e6
        self._cost += cost
        return cost


def _more(limit: float) -> str:
    return f"{2 * limit:g}" if isinstance(limit, float) else str(2 * limit)

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
        """Count an answer and return what it cost, None where there are no prices or the endpoint tells no tokens."""
        self._tokens += reply.prompt_tokens + reply.completion_tokens
        if self._prices is None or not _is_counted(reply):
            return None
        cost = (
            reply.prompt_tokens * self._prices.prompt_per_million
            + reply.completion_tokens * self._prices.completion_per_million
        ) / 1e6
        self._cost += cost
        return cost

    def check_counts(self, reply: Reply) -> None:
        """Raise BudgetReached for an answer without token counts where they would have to end the labelling."""
        of_money = self._budget.max_cost if self._prices is not None else None
        for name, limit in (("max_tokens", self._budget.max_tokens), ("max_cost", of_money)):
            if limit is not None and not _is_counted(reply):
                raise BudgetReached(
                    f"the endpoint tells no token counts: label.budget.{name} {limit:g} would never be reached",
                    remedy="Limit the requests in its place and run again; every answer is kept:"
                    f" --set label.budget.{name}=null --set label.budget.max_requests=1000",
                )


def _is_counted(reply: Reply) -> bool:
    """Say whether its tokens were told: no prompt has none."""
    return reply.prompt_tokens + reply.completion_tokens > 0


def _more(limit: float) -> str:
    return f"{2 * limit:g}" if isinstance(limit, float) else str(2 * limit)

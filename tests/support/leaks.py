"""Training sets with a known leak, ten kinds of them, and ten honest sets that look alike."""

from dataclasses import dataclass, field
from datetime import timedelta

from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.on_demand import OnDemand
from ml_notebooks.features.rolling import last, rolling_query
from ml_notebooks.features.training_set import training_set
from ml_notebooks.features.view import FeatureView

KNOWN = {"clean.visits": "known_at", "clean.corrections": "corrected_at", "clean.labels": "known_at"}
SPINE = "SELECT visit_id, customer, asked_at, sold, label_known FROM clean.asked"
LONG = timedelta(days=400)


@dataclass(frozen=True)
class Case:
    """A way to make features, and the columns that leak."""

    views: tuple[FeatureView, ...] = ()
    finish: str = "SELECT * FROM ({joined})"
    leaking: frozenset[str] = frozenset()
    on_demand: tuple[OnDemand, ...] = field(default=())


def view(name, query, entity="customer", timestamp="known_at", **options):
    """A view that lives long."""
    return FeatureView(name, entity, timestamp, query, LONG, **options)


VISITS = "SELECT customer, known_at, happened_at, spent FROM clean.visits"
honest = view("honest", rolling_query(VISITS, ["customer"], "known_at", last(3, "days", spent=("mean", "count"))))

LEAKS = {
    "stamped with the day it describes": Case(
        (view("early", "SELECT customer, happened_at, spent FROM clean.visits", timestamp="happened_at", ties="greatest"),), leaking=frozenset({"early_spent"})
    ),
    "a window around the row": Case(
        (
            view(
                "around",
                "SELECT customer, known_at, avg(spent) OVER (PARTITION BY customer ORDER BY known_at ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING) AS spent FROM clean.visits",
                ties="greatest",
            ),
        ),
        leaking=frozenset({"around_spent"}),
    ),
    "target encoding before the split": Case(
        (honest,), "SELECT *, avg(sold::INT) OVER (PARTITION BY customer) AS sold_share FROM ({joined})", frozenset({"sold_share"})
    ),
    "scaled by the whole set": Case(
        (honest,), "SELECT *, (honest_spent_mean_3d - avg(honest_spent_mean_3d) OVER ()) AS scaled FROM ({joined})", frozenset({"scaled"})
    ),
    "the state of today": Case(
        (view("today", "SELECT customer, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS known_at, max_by(spent, known_at) AS spent FROM clean.visits GROUP BY customer"),),
        leaking=frozenset({"today_spent"}),
    ),
    "corrected later": Case(
        (view("corrected", "SELECT customer, happened_at, spent FROM clean.corrections", timestamp="happened_at", ties="greatest"),),
        leaking=frozenset({"corrected_spent"}),
    ),
    "local time taken for UTC": Case(
        (
            view(
                "zoned",
                "SELECT customer, (known_at AT TIME ZONE 'America/New_York') AT TIME ZONE 'UTC' AS stamped_at, spent FROM clean.visits",
                timestamp="stamped_at",
                ties="greatest",
            ),
        ),
        leaking=frozenset({"zoned_spent"}),
    ),
    "the label under another name": Case(
        (view("outcome", "SELECT visit_id, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS since, status FROM clean.outcomes", "visit_id", "since"),),
        leaking=frozenset({"outcome_status"}),
    ),
    "filled in only afterwards": Case(
        (view("reason", "SELECT visit_id, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS since, reason FROM clean.reasons", "visit_id", "since"),),
        leaking=frozenset({"reason_reason"}),
    ),
    "the next question's answer": Case(
        (honest,),
        "SELECT *, lead(honest_spent_count_3d) OVER (PARTITION BY customer ORDER BY asked_at) AS upcoming FROM ({joined})",
        frozenset({"upcoming"}),
    ),
}

CLEAN = {
    "stamped when it became known": Case((view("seen", "SELECT customer, known_at, spent FROM clean.visits", ties="greatest"),)),
    "a window that ends at the row": Case((honest,)),
    "target encoding of what was known": Case(
        (view("rate", rolling_query("SELECT customer, known_at, sold::INT AS sold FROM clean.labels", ["customer"], "known_at", last(30, "days", sold="mean"))),)
    ),
    "scaled by what came before": Case(
        (honest,),
        "SELECT *, honest_spent_mean_3d - avg(honest_spent_mean_3d) OVER (ORDER BY epoch_us(asked_at) RANGE UNBOUNDED PRECEDING) AS scaled FROM ({joined})",
    ),
    "the state of then": Case((view("state", "SELECT customer, known_at, max(spent) OVER (PARTITION BY customer ORDER BY known_at) AS most FROM clean.visits", ties="greatest"),)),
    "corrected later, and used later": Case(
        (view("corrected", "SELECT customer, happened_at, corrected_at, spent FROM clean.corrections", timestamp="happened_at", created="corrected_at", ties="greatest"),)
    ),
    "local time with its zone": Case(
        (view("zoned", "SELECT customer, known_at AT TIME ZONE 'America/New_York' AS local, spent FROM clean.visits", timestamp="local", zone="America/New_York", ties="greatest"),)
    ),
    "a strong feature": Case((view("strong", "SELECT visit_id, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS since, hint FROM clean.hints", "visit_id", "since"),)),
    "missing by chance": Case((view("gaps", "SELECT visit_id, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS since, value FROM clean.gaps", "visit_id", "since"),)),
    "the question before": Case(
        (honest,), "SELECT *, lag(honest_spent_count_3d) OVER (PARTITION BY customer ORDER BY asked_at) AS before FROM ({joined})"
    ),
}


def make_sources(wh, seed):
    """Customers who visit, ask and buy; what becomes known of it hours later."""

    def chance(salt, of=1000):
        return f"(hash(i + {1_000_003 * seed + 7919 * salt}) % {of})::BIGINT"

    minute = "TIMESTAMPTZ '2013-03-01 00:00:00Z' + to_minutes({})"
    wh.publish(
        "clean.visits",
        f"SELECT {chance(1, 25)} AS customer, {minute.format(chance(2, 43_200))} AS happened_at, happened_at + to_minutes(60 + {chance(3, 900)}) AS known_at, {chance(4, 100)} AS spent FROM range(3000) AS r(i)",
    )
    wh.publish(
        "clean.corrections",
        "SELECT customer, happened_at, known_at + to_minutes((1 + hash(known_at) % 3000)::BIGINT) AS corrected_at, spent + (hash(known_at) % 9)::BIGINT AS spent FROM clean.visits WHERE hash(known_at) % 3 > 0",
    )
    wh.publish(
        "clean.asked",
        f"SELECT i AS visit_id, {chance(5, 25)} AS customer, {minute.format(chance(6, 40_000))} AS asked_at, {chance(7)} < 150 + 20 * customer AS sold, asked_at + INTERVAL 2 DAY AS label_known FROM range(1200) AS r(i)",
    )
    wh.publish("clean.labels", "SELECT customer, label_known + to_microseconds(visit_id::BIGINT) AS known_at, sold FROM clean.asked")
    wh.publish("clean.outcomes", "SELECT visit_id, CASE WHEN sold THEN 'closed' ELSE 'open' END AS status FROM clean.asked")
    wh.publish("clean.reasons", "SELECT visit_id, ['price', 'colour', 'size'][1 + (hash(visit_id) % 3)::BIGINT] AS reason FROM clean.asked WHERE sold")
    wh.publish("clean.hints", f"SELECT visit_id, sold::INT * 150 + (hash(visit_id + {seed}) % 400)::BIGINT AS hint FROM clean.asked")
    wh.publish("clean.gaps", f"SELECT visit_id, (hash(visit_id + {seed}) % 50)::BIGINT AS value FROM clean.asked WHERE hash(visit_id + {seed + 1}) % 4 > 0")


def make_set(store, case, name):
    """The training set of a case, with its certificate."""
    for one in case.views:
        materialize(store, one)
    return training_set(
        store,
        f"features.{name}",
        SPINE,
        [*case.views, *case.on_demand],
        label="sold",
        finish=lambda joined: f"SELECT * EXCLUDE (label_known) FROM ({case.finish.format(joined=joined)})",
        known=KNOWN,
        key="visit_id",
        label_known="label_known",
    )

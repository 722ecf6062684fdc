"""Plug-in sources against what can be had of the real thing: emulators of two stores, MongoDB's protocol, and an embedded ClickHouse."""

import urllib.request
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import quote

import bson
import pymongo
import pytest
from support.servers import azure_server, clickhouse_server, cutting_proxy, gcs_server, mongo_server

from ml_notebooks.data.ingest import ingest
from ml_notebooks.data.plugins.clickhouse import ClickHouse
from ml_notebooks.data.plugins.mongodb import Collection
from ml_notebooks.errors import BadSource, SourceUnavailable

pytestmark = pytest.mark.servers
OBJECTS = {
    "orders/day=1/part.csv": "id\n1\n11\n",
    "orders/day=2/part.csv": "id\n2\n12\n",
    "orders/_SUCCESS": "-",
    "one.csv": "id\n7\nbad,row\n",
}


# Stores


@pytest.fixture(scope="module")
def google(place):
    with gcs_server(place) as port:
        for name, body in OBJECTS.items():
            address = f"http://127.0.0.1:{port}/upload/storage/v1/b/shop/o?uploadType=media&name={quote(name, safe='')}"
            urllib.request.urlopen(
                urllib.request.Request(address, body.encode(), {"Content-Type": "text/csv"})
            ).close()
        yield "gs", "a-token", port


@pytest.fixture(scope="module")
def azure(place):
    from pyarrow.fs import AzureFileSystem

    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # Azurite's, and known to all
    with azure_server(place) as port:
        store = AzureFileSystem(account_key=key, **options_of("az", port)["storage"])
        store.create_dir("shop")
        for name, body in OBJECTS.items():
            with store.open_output_stream(f"shop/{name}") as target:
                target.write(body.encode())
        yield "az", key, port


def options_of(scheme, port):
    address = f"127.0.0.1:{port}"
    google = {"endpoint_override": address, "scheme": "http", "retry_time_limit": timedelta(seconds=1)}
    azure = {"account_name": "devstoreaccount1"}
    azure |= {
        f"{part}_storage_{name}": value
        for part in ("blob", "dfs")
        for name, value in (("authority", address), ("scheme", "http"))
    }
    return {"credential": "server", "storage": google if scheme == "gs" else azure}


@pytest.fixture(params=["google", "azure"])
def store(request):
    """Either store: its scheme, the credential, and its port."""
    return request.getfixturevalue(request.param)


def test_objects_are_fetched_and_read(store, a_warehouse):
    scheme, secret, port = store
    wh, options = a_warehouse(secret), options_of(scheme, port)
    for number, path in enumerate(("orders", "orders/", "orders/*/part.csv", "**/part.csv")):
        table = f"raw.{scheme}_objects_{number}"
        assert ingest(wh, table, f"{scheme}://shop/{path}", mode="append", **options).inserted == 4
        assert wh.sql(f"FROM {table} ORDER BY ALL").fetchall() == [(1, 1), (2, 2), (11, 1), (12, 2)]
        again = ingest(wh, table, f"{scheme}://shop/{path}", mode="append", **options)
        assert (again.inserted, again.skipped) == (0, 2)
    for path in ("one.csv", "*.csv"):
        done = ingest(
            wh, f"raw.{scheme}_object", f"{scheme}://shop/{path}", mode="replace", max_rejects=1, **options
        )
        assert (done.inserted, done.rejected) == (1, 1)


def test_what_cannot_be_listed_is_not_taken_for_empty(store, a_warehouse):
    scheme, secret, port = store
    wh, table = a_warehouse(secret), f"raw.{scheme}_stored"
    wh.publish(table, "SELECT 1 AS id")
    for path in ("nothing.csv", "nothing/*.csv", "nothing/"):
        with pytest.raises(BadSource, match="no such object"):
            ingest(wh, table, f"{scheme}://shop/{path}", **options_of(scheme, port))
    with pytest.raises(BadSource, match="bucket is not named"):
        ingest(wh, table, f"{scheme}://*/orders.csv", **options_of(scheme, port))
    with cutting_proxy(port, 0) as (cut, _), pytest.raises(SourceUnavailable, match="to its end"):
        ingest(wh, table, f"{scheme}://shop/orders/*/part.csv", **options_of(scheme, cut))
    assert wh.table(table).fetchall() == [(1,)]


def test_a_refused_key_of_azure_is_told_without_it(azure, a_warehouse):
    with pytest.raises(SourceUnavailable, match="AuthorizationFailure") as caught:
        ingest(a_warehouse("d3Jvbmc="), "raw.x", "az://shop/orders", **options_of("az", azure[2]))
    assert "d3Jvbmc=" not in str(caught.value)


# MongoDB


@pytest.fixture(scope="module")
def mongo(place):
    with mongo_server(place) as port, pymongo.MongoClient("127.0.0.1", port) as client:
        shop, at = client.shop, datetime(2024, 1, 1, tzinfo=UTC)
        shop.orders.insert_many(
            [
                {"_id": bson.ObjectId(f"{n:024x}"), "n": n, "placed": at, "more": [{"sku": n}]}
                for n in range(3000)
            ]
        )
        yield port


def test_documents_come_over_in_batches(mongo, a_warehouse):
    wh, address = a_warehouse(), f"mongodb://127.0.0.1:{mongo}/shop"
    assert ingest(wh, "raw.documents", Collection(address, "orders", batch=700)).inserted == 3000
    rows = wh.sql("SELECT count(DISTINCT _id), sum(n), min(placed), max(more) FROM raw.documents").fetchall()
    assert rows == [(3000, 4_498_500, datetime(2024, 1, 1, tzinfo=UTC), '[{"sku": 9}]')]
    assert ingest(wh, "raw.few", Collection(address, "orders", {"n": {"$lt": 10}})).inserted == 10
    with pytest.raises(BadSource, match="No default database"):
        ingest(wh, "raw.documents", Collection(f"mongodb://127.0.0.1:{mongo}", "orders"), on_change="widen")


@pytest.mark.parametrize(
    "identifier",
    [
        lambda n: bson.ObjectId(f"{n:024x}"),
        lambda n: n,
        lambda n: f"order {n:03}",
        lambda n: uuid.UUID(int=n).bytes,
    ],
    ids=["object", "number", "text", "bytes"],
)
def test_an_incremental_load_reads_on_whatever_identifiers_are(mongo, a_warehouse, identifier, request):
    name = request.node.callspec.id
    wh, table = a_warehouse(), f"raw.marked_{name}"
    source = Collection(f"mongodb://127.0.0.1:{mongo}/shop", name)
    with pymongo.MongoClient("127.0.0.1", mongo) as client:
        client.shop[name].insert_many([{"_id": identifier(n), "n": n} for n in range(50)])
        assert ingest(wh, table, source, mode="incremental", cursor="_id", keys="_id").inserted == 50
        client.shop[name].insert_one({"_id": identifier(50), "n": 50})
    again = ingest(wh, table, source, mode="incremental", cursor="_id", keys="_id")
    assert (again.read, again.inserted) == (2, 1)
    assert wh.sql(f"SELECT count(*), max(n) FROM {table}").fetchall() == [(51, 50)]


def test_a_mongodb_that_is_cut_changes_nothing(mongo, a_warehouse):
    wh = a_warehouse()
    wh.publish("raw.cut_mongo", "SELECT 1 AS untouched")
    with cutting_proxy(mongo, 30_000) as (port, carried):
        source = Collection(
            f"mongodb://127.0.0.1:{port}/shop?serverSelectionTimeoutMS=500", "orders", batch=500
        )
        with pytest.raises(SourceUnavailable, match="could not be read to its end"):
            ingest(wh, "raw.cut_mongo", source, on_change="widen")
        assert max(carried) >= 30_000
    assert wh.table("raw.cut_mongo").fetchall() == [(1,)]


# ClickHouse


@pytest.fixture(scope="module")
def clickhouse(place):
    with clickhouse_server(place) as server:
        yield server


def test_clickhouse_gives_times_and_names(clickhouse, a_warehouse):
    port, password = clickhouse
    wh, address = a_warehouse(password), f"clickhouse://reader@127.0.0.1:{port}/shop"
    assert ingest(wh, "raw.clicks", ClickHouse(address, "orders", credential="server")).inserted == 20_000
    query = "SELECT sum(amount), max(placed), min(seen), min(fine), min(kind), min(state), min(ip), min(big), count(DISTINCT u) FROM raw.clicks"
    amount, placed, seen, fine, *rest = wh.sql(query).fetchall()[0]
    assert (amount, placed, seen) == (
        Decimal("50002500.00"),
        datetime(2013, 1, 14, 21, 20, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
    )
    assert (fine.microsecond, rest) == (123_000, ["red", "sent", "10.0.0.1", "7", 20_000])
    assert (
        ingest(
            wh,
            "raw.no_clicks",
            ClickHouse(
                address, query="SELECT id, placed FROM orders WHERE id < 0 -- none", credential="server"
            ),
        ).inserted
        == 0
    )
    assert wh.table("raw.no_clicks").columns == ["id", "placed"]


@pytest.mark.parametrize("cursor", ["id", "placed", "amount"])
def test_clickhouse_is_read_from_its_mark_on(clickhouse, a_warehouse, cursor):
    port, password = clickhouse
    wh, source = (
        a_warehouse(password),
        ClickHouse(f"clickhouse://reader@127.0.0.1:{port}/shop", "orders", credential="server"),
    )
    assert ingest(wh, f"raw.clicks_{cursor}", source, mode="incremental", cursor=cursor).inserted == 20_000
    again = ingest(wh, f"raw.clicks_{cursor}", source, mode="incremental", cursor=cursor)
    assert (again.read, again.inserted) == (1, 0)


def test_clickhouse_names_what_is_wrong_and_a_cut_changes_nothing(clickhouse, a_warehouse):
    port, password = clickhouse
    wh, address = a_warehouse(password), f"clickhouse://reader@127.0.0.1:{port}/shop"
    wh.publish("raw.cut_clicks", "SELECT 1 AS untouched")
    for wrong, words in (({"table": "oders"}, "oders"), ({"query": "SELECT colour FROM orders"}, "colour")):
        with pytest.raises(BadSource, match=words):
            ingest(wh, "raw.cut_clicks", ClickHouse(address, credential="server", **wrong))
    for after in (0, 3000, 600_000):
        with cutting_proxy(port, after) as (proxy, _):
            source = ClickHouse(address.replace(str(port), str(proxy)), "orders", credential="server")
            with pytest.raises(SourceUnavailable, match="to its end"):
                ingest(wh, "raw.cut_clicks", source, on_change="widen")
    with pytest.raises(BadSource, match="Authentication failed"):
        ingest(a_warehouse("wrong"), "raw.cut_clicks", ClickHouse(address, "orders", credential="server"))
    assert wh.table("raw.cut_clicks").fetchall() == [(1,)]

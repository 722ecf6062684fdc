"""Sources against the real thing: databases, web interfaces and stores, and what is left when they break."""

import gc
import json
import re
import sys
import time
import urllib.request
from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.postgres import postgres_server
from support.servers import cutting_proxy, http_server, mariadb_server, redis_server, reply, s3_server

from ml_notebooks.data import http as web
from ml_notebooks.data.databases import Database
from ml_notebooks.data.http import Web
from ml_notebooks.data.ingest import ingest
from ml_notebooks.data.plugins.redis import Keys
from ml_notebooks.errors import BadSource, SourceUnavailable, TooManyRejects

pytestmark = pytest.mark.servers
ROWS = 20_000


# Databases


@pytest.fixture(scope="module")
def postgres(place):
    import psycopg

    with postgres_server(place / "postgres") as server:
        with psycopg.connect(host="127.0.0.1", port=server.port, user="keeper", password=server.password, dbname="postgres", autocommit=True) as shop:  # fmt: skip
            shop.execute(
                "CREATE TABLE orders AS SELECT n AS id, 'name ' || n AS name, n / 4.0 AS amount, n % 2 = 0 AS paid, "
                "timestamptz '2013-01-01 00:00+00' + n * interval '1 minute' AS placed, jsonb_build_object('n', n) AS more "
                f"FROM generate_series(1, {ROWS}) AS n"
            )
            shop.execute("CREATE SCHEMA shop; CREATE TABLE shop.empty (id int, name text)")
        yield server


@pytest.fixture(scope="module")
def mariadb(place):
    with mariadb_server(place) as server:
        shop = server.connect(database="shop")
        with shop.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE orders (id BIGINT PRIMARY KEY, name VARCHAR(40), amount DECIMAL(10,2), placed DATETIME)"
            )
            cursor.execute(
                f"INSERT INTO orders SELECT seq, CONCAT('name ', seq), seq / 4, '2013-01-01' + INTERVAL seq MINUTE FROM seq_1_to_{ROWS}"
            )
        shop.close()
        yield server


def database(server, kind, port=None, **more):
    user = f"{kind}://keeper@127.0.0.1:{port or server.port}/{'postgres' if kind == 'postgresql' else 'shop'}"
    return Database(user, credential="server", **more)


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    """Either database, and the scheme of its address."""
    return request.getfixturevalue("postgres" if request.param == "postgresql" else "mariadb"), request.param


def test_a_table_comes_over_in_batches(server, a_warehouse):
    running, kind = server
    wh, table = a_warehouse(running.password), f"raw.{kind}_orders"
    done = ingest(wh, table, database(running, kind, table="orders", batch=3000))
    assert done.read == done.inserted == ROWS
    query = f"SELECT count(DISTINCT id), min(name), sum(amount), max(placed) FROM {table}"
    count, name, total, last = wh.sql(query).fetchall()[0]
    assert (count, name, total) == (ROWS, "name 1", Decimal(ROWS) * (ROWS + 1) / 8)
    assert last.replace(tzinfo=None) == datetime(2013, 1, 14, 21, 20)
    assert ingest(wh, table, database(running, kind, table="orders"), mode="merge", keys="id").inserted == 0


def test_an_incremental_load_reads_from_its_mark_on(server, a_warehouse):
    running, kind = server
    wh, table = a_warehouse(running.password), f"raw.{kind}_marks"
    for cursor in ("id", "placed"):
        source = database(running, kind, table="orders")
        assert ingest(wh, f"{table}_{cursor}", source, mode="incremental", cursor=cursor).inserted == ROWS
        again = ingest(wh, f"{table}_{cursor}", source, mode="incremental", cursor=cursor)
        assert (again.read, again.inserted) == (1, 0)


def test_a_query_is_read_and_a_wrong_one_is_named(server, a_warehouse):
    running, kind = server
    wh, table = a_warehouse(running.password), f"raw.{kind}_query"
    query = "SELECT id, amount AS price FROM orders WHERE name LIKE 'name 1%' AND placed > '2013-01-02 00:00:00';"
    assert ingest(wh, table, database(running, kind, query=query)).inserted > 1000
    before = wh.table(table).fetchall()
    for wrong, words in (
        ({"query": "SELECT colour FROM orders"}, "colour"),
        ({"table": "oders"}, "Did you mean `orders`"),
        ({"table": "orders; DROP TABLE orders"}, "no such table"),
        ({}, "needs a table or a query"),
    ):
        with pytest.raises(BadSource, match=words):
            ingest(wh, table, database(running, kind, **wrong))
    assert wh.table(table).fetchall() == before
    assert ingest(wh, f"{table}_still", database(running, kind, query="SELECT count(*) AS n FROM orders")).inserted == 1


@pytest.mark.parametrize("after", [0, 2000, 300_000])
def test_a_connection_that_is_cut_changes_nothing(server, a_warehouse, monkeypatch, after):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    running, kind = server
    wh, table = a_warehouse(running.password), f"raw.{kind}_cut"
    wh.publish(table, "SELECT 1 AS untouched")
    with cutting_proxy(running.port, after) as (port, carried):
        source = database(running, kind, port, table="orders", batch=1000)
        with pytest.raises(SourceUnavailable, match="could not be read to its end") as caught:
            ingest(wh, table, source, on_change="widen")
        assert carried and max(carried) >= min(after, 1)
    assert running.password not in str(caught.value)
    assert wh.table(table).fetchall() == [(1,)]
    del caught
    gc.collect()  # which is when a driver would ask for the rows that were still to come
    assert ignored == []
    assert wh._connection.execute("SELECT 1 FROM duckdb_tables() WHERE temporary AND table_name LIKE 'intake%'").fetchall() == []  # fmt: skip


def test_a_wrong_password_is_told_without_it(server, a_warehouse):
    running, kind = server
    with pytest.raises(SourceUnavailable, match=r"(?i)password|denied") as caught:
        ingest(a_warehouse("not-the-password"), "raw.x", database(running, kind, table="orders"))
    assert "not-the-password" not in str(caught.value) + repr(caught.value)


def test_an_empty_table_is_a_table(postgres, a_warehouse):
    wh = a_warehouse(postgres.password)
    assert ingest(wh, "raw.nothing", database(postgres, "postgresql", table="shop.empty")).inserted == 0
    assert wh.table("raw.nothing").columns == ["id", "name"]


# The web


PAGE = 4


def shop(number, last=3):
    return [{"id": PAGE * number + n, "note": f"page {number}"} for n in range(PAGE)] if number < last else []


def asked(request):
    """The parameters of a request."""
    pairs = (pair.partition("=") for pair in request.path.partition("?")[2].split("&"))
    return {name: value for name, _, value in pairs}


def by_page(request):
    reply(request, json.dumps({"orders": shop(int(asked(request).get("page", 1)) - 1)}).encode())


def by_offset(request):
    start = int(asked(request).get("start", 0))
    reply(request, json.dumps(shop(start // PAGE)).encode())


def by_cursor(request):
    number = int(asked(request).get("after", 0))
    body = {"data": {"items": shop(number)}, "meta": {"after": number + 1 if number < 2 else None}}
    reply(request, json.dumps(body).encode())


def by_link(request):
    number = int(asked(request).get("p", 0))
    more = {"Link": f'</orders?p={number + 1}>; rel="next"'} if number < 2 else {}
    reply(request, json.dumps(shop(number)).encode(), **more)


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (by_page, {"pages": "page"}),
        (by_offset, {"pages": "offset", "page": "start", "size": PAGE}),
        (by_cursor, {"pages": "cursor", "page": "after", "next": "meta.after", "records": "data.items"}),
        (by_link, {"pages": "link"}),
    ],
)
def test_pages_are_turned_to_the_end(a_warehouse, answer, options):
    wh = a_warehouse()
    with http_server(answer) as address:
        assert ingest(wh, "raw.pages", Web(f"{address}/orders", **options), on_change="widen").inserted == 3 * PAGE
    assert wh.sql("SELECT list(id ORDER BY id) FROM raw.pages").fetchall() == [(list(range(3 * PAGE)),)]


@pytest.fixture
def no_pause(monkeypatch):
    """Waits are noted, not waited for."""
    waits = []
    monkeypatch.setattr(web.time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_and_then_given_up(a_warehouse, no_pause, status):
    wh, answers = a_warehouse(), []

    def answer(request):
        answers.append(status if len(answers) < 2 else 200)
        later = {"Retry_After": "7"} if answers[-1] == 429 else {}
        reply(request, json.dumps(shop(0)).encode(), answers[-1], **later)

    with http_server(answer) as address:
        assert ingest(wh, "raw.again", f"{address}/orders").inserted == PAGE
        assert len(answers) == 3
        assert status != 429 or no_pause[:2] == [7.0, 7.0]
        answers.clear()
        before = wh.table("raw.again").fetchall()
        with pytest.raises(SourceUnavailable, match=f"answered {status} .*, 2 times"):
            ingest(wh, "raw.again", Web(f"{address}/orders", retries=1))
    assert wh.table("raw.again").fetchall() == before


@pytest.mark.parametrize(
    ("later", "waits", "words"),
    [
        ("130", [130.0], ""),  # however long, within its patience
        ("599", [599.0], ""),
        ("3600", [], "not to be asked again for 3,600 s: `patience` allows for 600 s"),
        ("9" * 400, [], "not to be asked again for inf s"),
        ("soon", [0.5], ""),
    ],
)
def test_a_server_is_waited_for_as_long_as_it_asks_or_not_at_all(a_warehouse, no_pause, later, waits, words):
    def answer(request):
        seen.append(1)
        reply(request, b'[{"id": 1}]', 429 if len(seen) == 1 else 200, Retry_After=later)

    wh, seen = a_warehouse(), []
    wh.publish("raw.later", "SELECT 0::BIGINT AS id")
    with http_server(answer) as address:
        if words:
            with pytest.raises(SourceUnavailable, match=words):
                ingest(wh, "raw.later", f"{address}/orders")
        else:
            ingest(wh, "raw.later", f"{address}/orders")
    assert no_pause == pytest.approx(waits, rel=0.25) and len(seen) == 1 + len(waits)
    assert wh.table("raw.later").fetchall() == [(len(waits),)]


def test_patience_ends_when_all_waits_together_are_too_long(a_warehouse, no_pause):
    with http_server(lambda request: reply(request, b"", 503, Retry_After="250")) as address:
        with pytest.raises(SourceUnavailable, match=r"503 .* again for 250 s"):
            ingest(a_warehouse(), "raw.x", f"{address}/orders")
        with pytest.raises(SourceUnavailable, match=r"503 .*, 6 times"):
            ingest(a_warehouse(), "raw.x", f"{address}/orders", patience=1250)
    assert no_pause == [250.0] * 7


@pytest.mark.parametrize(
    ("header", "sent", "options"),
    [
        ("", "cp1252", {"encoding": "cp1252"}),
        ("; charset=iso-8859-15", "iso-8859-15", {}),
        ("; charset=iso-8859-1", "utf-8", {"encoding": "utf-8"}),  # what is said counts more
        ("", "utf-8-sig", {}),
        ("; charset=utf-16", "utf-16", {}),
    ],
)
@pytest.mark.parametrize("pages", ["", "page"])
def test_csv_of_the_web_is_read_like_a_file(a_warehouse, header, sent, options, pages):
    def answer(request):
        number = int(asked(request).get("page", 1))
        rows = f"{number};Malmö;-;1,5;03.04.2025\n" if number < 3 else ""
        reply(request, f"id;place;note;price;day\n{rows}".encode(sent), kind=f"text/csv{header}")

    wh = a_warehouse()
    more = {"missing": "-", "decimal": ",", "date_format": "%d.%m.%Y", "types": {"note": "INTEGER"}}
    with http_server(answer) as address:
        source = Web(f"{address}/orders", pages=pages, **options, **more)
        assert ingest(wh, f"raw.as_a_file{pages}", source).inserted == (2 if pages else 1)
    assert wh.sql(f"FROM raw.as_a_file{pages} ORDER BY id").fetchall()[0] == (1, "Malmö", None, 1.5, date(2025, 4, 3))


@pytest.mark.parametrize("pages", ["", "page"])
@pytest.mark.parametrize(("options", "words"), [({}, "not utf-8"), ({"encoding": "ascii"}, "is not ascii"), ({"encoding": "cp-1252"}, "is no encoding of text. Did you mean `cp1252`")])
def test_csv_of_the_web_in_another_encoding_is_an_error(a_warehouse, pages, options, words):
    def answer(request):
        rows = "1,Malmö\n" if asked(request).get("page", "1") == "1" else ""
        reply(request, f"id,place\n{rows}".encode("cp1252"), kind="text/csv")

    wh = a_warehouse()
    with http_server(answer) as address, pytest.raises((BadSource, TooManyRejects), match=words):
        ingest(wh, "raw.wrong_encoding", Web(f"{address}/orders", pages=pages, **options))
    assert "raw.wrong_encoding" not in wh.names()


@pytest.mark.parametrize(
    ("answer", "options", "error", "words"),
    [
        (lambda r: reply(r, b"{}", 404), {}, BadSource, "404"),
        (lambda r: reply(r, b"<html>"), {}, BadSource, "not JSON"),
        (lambda r: reply(r, b'{"a": [], "b": []}'), {"pages": "page"}, BadSource, "holds no list of rows"),
        (lambda r: reply(r, b"[]"), {}, BadSource, "neither rows nor columns"),
        (lambda r: reply(r, json.dumps(shop(0)).encode()), {"pages": "page"}, BadSource, "Page 2 has been there before"),
        (lambda r: reply(r, json.dumps(shop(int(asked(r).get("p", 0)))).encode(), Link='</o?p=1>; rel="next"'), {"pages": "link"}, BadSource, "been there before"),
        (lambda r: reply(r, json.dumps(shop(0)).encode(), Link='<http://127.0.0.1:1/o>; rel="next"'), {"pages": "link"}, BadSource, "is elsewhere"),
        (lambda r: reply(r, b"", 302, Location="http://127.0.0.1:1/"), {"auth": "bearer", "credential": "server"}, BadSource, "302"),
        (lambda r: reply(r, b'[{"id": 1}', promised=9999), {}, SourceUnavailable, "could not be read to its end"),
        (lambda r: reply(r, b"id\n1\n", kind="text/csv", promised=9999), {}, SourceUnavailable, "could not be read to its end"),
        (lambda r: time.sleep(0.4), {"timeout": 0.05}, SourceUnavailable, "Timeout"),
    ],
    ids=["404", "html", "no list", "nothing", "same page", "same link", "elsewhere", "redirect", "cut", "cut csv", "slow"],
)  # fmt: skip
def test_an_answer_that_is_none_changes_nothing(a_warehouse, monkeypatch, answer, options, error, words):
    monkeypatch.setattr(web, "pause", lambda attempt, wait="": 0)
    wh = a_warehouse("s3same")
    wh.publish("raw.answer", "SELECT 1 AS id")
    with http_server(answer) as address, pytest.raises(error, match=words):
        ingest(wh, "raw.answer", Web(f"{address}/orders", retries=1, **options), on_change="widen")
    assert wh.table("raw.answer").fetchall() == [(1,)]


@pytest.mark.parametrize("cut", [200_000, 2_500_000])
def test_a_connection_that_is_cut_once_is_read_again_from_the_start(a_warehouse, monkeypatch, cut):
    monkeypatch.setattr(web, "pause", lambda attempt, wait="": 0)
    body = "id,note\n" + "".join(f"{n},some words\n" for n in range(200_000))
    wh = a_warehouse()
    with http_server(lambda request: reply(request, body.encode(), kind="text/csv")) as address:
        port = int(address.rpartition(":")[2])
        with cutting_proxy(port, cut, times=2) as (proxy, carried):
            assert ingest(wh, "raw.cut_csv", f"http://127.0.0.1:{proxy}/orders").inserted == 200_000
            assert len(carried) == 3
    assert wh.sql("SELECT count(DISTINCT id) FROM raw.cut_csv").fetchall() == [(200_000,)]


@pytest.mark.parametrize(("pages", "options"), [("link", {}), ("page", {"page": "p"}), ("offset", {"page": "p", "size": 10})])
def test_pages_of_csv_are_followed(a_warehouse, pages, options):
    def answer(request):
        start = int(asked(request).get("p", 1 if pages == "page" else 0))
        first = (start - 1) * 10 if pages == "page" else start
        rows = "".join(f"{n},words\n" for n in range(first, min(first + 10, 25)))
        more = {"Link": f'</orders?p={first + 10}>; rel="next"'} if pages == "link" and first + 10 < 25 else {}
        reply(request, f"id,note\n{rows}".encode(), kind="text/csv", **more)

    wh = a_warehouse()
    with http_server(answer) as address:
        assert ingest(wh, "raw.csv_pages", Web(f"{address}/orders", pages=pages, **options)).inserted == 25
        with pytest.raises(BadSource, match="do not say how `cursor` goes on"):
            ingest(wh, "raw.csv_pages", Web(f"{address}/orders", pages="cursor", page="p", next="next"))
    assert wh.sql("SELECT count(DISTINCT id), max(id) FROM raw.csv_pages").fetchall() == [(25, 24)]


@pytest.mark.parametrize(
    ("auth", "secret", "name", "value"),
    [
        ("bearer", "s3same", "Authorization", "Bearer s3same"),
        ("basic", "ada:s3same", "Authorization", "Basic YWRhOnMzc2FtZQ=="),
        ("key", "s3same", "X-API-Key", "s3same"),
    ],
)
def test_a_credential_is_sent_and_not_told(a_warehouse, auth, secret, name, value):
    def answer(request):
        reply(request, b'[{"id": 1}]', 200 if request.headers.get(name) == value else 401)

    wh = a_warehouse(secret)
    with http_server(answer) as address:
        source = Web(f"{address}/orders", auth=auth, credential="server")
        done = ingest(wh, "raw.secret", source)
        assert done.inserted == 1 and secret not in repr(done) + repr(wh.table("ops.ingests").fetchall())
        with pytest.raises(BadSource, match="401"):
            ingest(wh, "raw.secret", Web(f"{address}/orders"))


def test_keys_in_an_address_are_kept_nowhere(a_warehouse):
    def answer(request):
        reply(request, b"id,at\n1,2013-01-01\n2\n", kind="text/csv")

    wh = a_warehouse()
    with http_server(answer) as address:
        for number, key in enumerate(["abcdef123456", "uvwxyz123456", "abcdef123456"]):
            source = Web(f"{address}/orders?api_key={key}", parameters={"token": "t0ken123"})
            done = ingest(wh, "raw.keyed", source, mode="append", max_rejects=1, message=f"from {source.address}")
            assert done.inserted == (number < 2)  # another key is another source, and the same is the same
    told = repr(done) + repr(source) + done.source + repr([wh.sql(f"FROM {name}").fetchall() for name in ("ops.ingests", "raw.keyed__rejects")])
    told += wh.snapshots().to_string(max_colwidth=500)
    assert "api_key=***" in told and not re.search("abcdef|uvwxyz|t0ken", told)
    with pytest.raises(SourceUnavailable, match=r"/orders\?api_key=\*\*\*") as caught:
        ingest(wh, "raw.keyed", Web(source.address, retries=0))
    assert "abcdef" not in repr(caught.value)


def test_requests_keep_to_their_rate(a_warehouse, no_pause):
    with http_server(by_page) as address:
        ingest(a_warehouse(), "raw.slow", Web(f"{address}/orders", pages="page", per_second=5), on_change="widen")
    assert len(no_pause) == 3 and all(0.1 < wait <= 0.2 for wait in no_pause)


def test_only_what_is_new_is_asked_for(a_warehouse):
    seen = []

    def answer(request):
        seen.append(asked(request).get("after", ""))
        reply(request, json.dumps([row for row in shop(0) if row["id"] >= int(seen[-1] or 0)]).encode())

    wh = a_warehouse()
    with http_server(answer) as address:
        source = Web(f"{address}/orders", since="after")
        assert ingest(wh, "raw.since", source, mode="incremental", cursor="id").inserted == PAGE
        assert ingest(wh, "raw.since", source, mode="incremental", cursor="id").inserted == 0
    assert seen == ["", str(PAGE - 1)]


# Stores


@pytest.fixture(scope="module")
def store(place):
    """The address of a store that holds a bucket `shop`."""
    with s3_server(place) as port:
        address = f"http://127.0.0.1:{port}"
        _put(f"{address}/shop", b"")
        yield address


def _put(address, body):
    headers = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(address, data=body, headers=headers, method="PUT")).close()


def options_of(store):
    return {
        "credential": "server",
        "storage": {"endpoint_override": store.partition("://")[2], "scheme": "http", "region": "us-east-1", "request_timeout": 5, "connect_timeout": 5},
    }  # fmt: skip


def test_objects_are_fetched_and_read(store, a_warehouse, tmp_path):
    wh = a_warehouse("key:secret")
    for day in (1, 2):
        pq.write_table(pa.table({"id": [day, day + 10]}), tmp_path / "part.parquet")
        _put(f"{store}/shop/orders/day={day}/part.parquet", (tmp_path / "part.parquet").read_bytes())
    _put(f"{store}/shop/orders/_SUCCESS", b"")
    assert ingest(wh, "raw.objects", "s3://shop/orders", mode="append", **options_of(store)).inserted == 4
    assert wh.sql("FROM raw.objects ORDER BY ALL").fetchall() == [(1, 1), (2, 2), (11, 1), (12, 2)]
    again = ingest(wh, "raw.objects", "s3://shop/orders", mode="append", **options_of(store))
    assert (again.inserted, again.skipped) == (0, 2)
    _put(f"{store}/shop/one.csv", b"id\n7\nbad,row\n")
    done = ingest(wh, "raw.object", "s3://shop/*.csv", max_rejects=1, **options_of(store))
    assert (done.inserted, done.rejected) == (1, 1)


def test_the_credentials_of_a_store_may_come_from_the_environment(store, a_warehouse, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3same")
    _put(f"{store}/shop/plain.csv", b"id\n7\n")
    done = ingest(a_warehouse(), "raw.plain", "s3://shop/plain.csv", storage=options_of(store)["storage"])
    assert done.inserted == 1 and "s3same" not in repr(done)


def test_what_is_not_in_a_store_is_named_and_a_cut_changes_nothing(store, a_warehouse):
    wh = a_warehouse("key:secret")
    wh.publish("raw.stored", "SELECT 1 AS id")
    for path in ("s3://shop/nothing.csv", "s3://shop/nothing/*.csv", "s3://nobody/x.csv"):
        with pytest.raises((BadSource, SourceUnavailable), match="could not be read"):
            ingest(wh, "raw.stored", path, **options_of(store))
    _put(f"{store}/shop/large.csv", b"id\n" + b"1\n" * 2_000_000)
    real = int(store.rpartition(":")[2])
    with cutting_proxy(real, 50_000) as (port, _), pytest.raises(SourceUnavailable, match="to its end"):
        ingest(wh, "raw.stored", "s3://shop/large.csv", **options_of(f"http://127.0.0.1:{port}"))
    assert wh.table("raw.stored").fetchall() == [(1,)]


# Redis


@pytest.fixture(scope="module")
def cache(place):
    import redis

    with redis_server(place) as (port, password), redis.Redis(port=port, password=password) as client:
        for n in range(3000):
            client.hset(f"order:{n}", mapping={"amount": n / 4, **({"coupon": "SPRING"} if n % 2 else {})})
        client.set("doc:1", '{"id": 1, "tags": ["a"]}')
        client.set("doc:2", '{"id": 2}')
        for n in range(2500):
            client.xadd("events", {"n": n}, id=f"1700000000000-{n + 1}")
        yield port, password


def test_redis_gives_hashes_texts_and_streams(cache, a_warehouse):
    port, password = cache
    wh, address = a_warehouse(password), f"redis://127.0.0.1:{port}"
    assert ingest(wh, "raw.hashes", Keys(address, "order:*", credential="server")).inserted == 3000
    assert wh.sql("SELECT count(DISTINCT key), count(coupon) FROM raw.hashes").fetchall() == [(3000, 1500)]
    assert ingest(wh, "raw.texts", address, match="doc:*", kind="json", credential="server").inserted == 2
    stream = Keys(address, "events", "stream", credential="server")
    assert ingest(wh, "raw.events", stream, mode="incremental", cursor="id", keys="id").inserted == 2500
    assert ingest(wh, "raw.events", stream, mode="incremental", cursor="id", keys="id").inserted == 0
    with pytest.raises(BadSource, match="WRONGTYPE"):
        ingest(wh, "raw.events", Keys(address, "doc:1", "stream", credential="server"))
    with pytest.raises(SourceUnavailable, match="redis"):
        ingest(a_warehouse("wrong"), "raw.events", Keys(address, "order:*", credential="server"))


def test_a_redis_that_is_cut_changes_nothing(cache, a_warehouse):
    port, password = cache
    wh = a_warehouse(password)
    wh.publish("raw.cut_redis", "SELECT 1 AS untouched")
    with cutting_proxy(port, 30_000) as (proxy, _), pytest.raises(SourceUnavailable, match="could not be read to its end"):
        ingest(wh, "raw.cut_redis", Keys(f"redis://127.0.0.1:{proxy}", "order:*", credential="server"), on_change="widen")
    assert wh.table("raw.cut_redis").fetchall() == [(1,)]

"""ClickHouse's HTTP interface before the ClickHouse that chdb embeds. Run by an interpreter that has chdb: `clickhouse.py PORT PASSWORD`."""

import base64
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

ORDERS = """
CREATE TABLE shop.orders (id UInt64, name String, amount Decimal(10, 2), paid Bool, placed DateTime('UTC'), seen Nullable(DateTime), fine DateTime64(3, 'UTC'),
 day Date, tags Array(String), kind LowCardinality(Nullable(String)), state Enum8('new' = 1, 'sent' = 2), u UUID, ip IPv4, big UInt256, none Nullable(Int32))
ENGINE = MergeTree ORDER BY id"""
ROWS = """
INSERT INTO shop.orders SELECT number + 1 AS n, 'name ' || toString(n), n / 4, n % 2 = 0, toDateTime('2013-01-01 00:00:00', 'UTC') + 60 * n, if(n % 2, NULL, toDateTime(0)),
 toDateTime64('2013-01-01 00:00:00.123', 3, 'UTC'), '2013-01-01', ['a'], if(n % 2, NULL, 'red'), 'sent', generateUUIDv4(), '10.0.0.1', 7, NULL FROM numbers(20000)"""


class Handler(BaseHTTPRequestHandler):
    """Passes a query on."""

    protocol_version = "HTTP/1.1"
    session, password, lock = None, "", threading.Lock()

    def do_POST(self):
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        sql, form = f"{asked.get('query', '')}\n{body}".strip(), asked.get("default_format", "TabSeparated")
        if named := re.search(r"\bFORMAT\s+(\w+)\s*;?\s*$", sql):
            sql, form = sql[: named.start()], named.group(1)
        given = base64.b64decode(self.headers.get("Authorization", "")[6:]).decode().partition(":")[2]
        if given != self.password:
            return self.answer(
                b"Code: 516. DB::Exception: reader: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)",
                403,
                "516",
            )
        try:
            with self.lock:
                self.session.query(f"USE {asked['database']}" if asked.get("database") else "SELECT 1")
                values = {
                    name.removeprefix("param_"): value
                    for name, value in asked.items()
                    if name.startswith("param_")
                }
                self.answer(self.session.query(sql, form, params=values).bytes() or b"")
        except RuntimeError as error:
            self.answer(str(error).encode(), 400, re.search(r"Code: (\d+)|$", str(error)).group(1) or "1")

    do_GET = do_POST

    def answer(self, body, status=200, code=""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Say nothing."""


if __name__ == "__main__":
    from chdb.session import Session

    Handler.session, Handler.password = Session(), sys.argv[2]
    for statement in ("CREATE DATABASE shop", ORDERS, ROWS):
        Handler.session.query(statement)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

print(wh.sql("SELECT count(*), count(DISTINCT id), min(id), max(id) FROM raw.xcut").fetchall() if "raw.xcut" in set(wh.tables()["table"]) else None, wh.tables()[["table","rows"]])
try: print(wh.sql("SELECT id,count(*) n FROM raw.xcut GROUP BY id HAVING n>1 ORDER BY id LIMIT 3"), wh.sql("DESCRIBE raw.xcut"), wh.sql("FROM raw.xcut WHERE try_cast(id as int) is null or try_cast(v as int) is null"))
except Exception as e: print(e)

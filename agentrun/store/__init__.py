"""The room that knows psycopg and SQL: journal, payloads, claims, embedded server, migrations."""

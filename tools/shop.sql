-- The shop that the tools in orders.py work on, in the database that also holds agentrun's journal.
CREATE SCHEMA IF NOT EXISTS agentrun_demo;

CREATE TABLE IF NOT EXISTS agentrun_demo.orders (
    id       text PRIMARY KEY,
    customer text NOT NULL,
    email    text NOT NULL,
    address  text NOT NULL,
    items    text NOT NULL,
    cents    integer NOT NULL
);

CREATE TABLE IF NOT EXISTS agentrun_demo.refunds (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id text NOT NULL REFERENCES agentrun_demo.orders,
    cents    integer NOT NULL CHECK (cents > 0),
    at       timestamptz NOT NULL DEFAULT now()
);
